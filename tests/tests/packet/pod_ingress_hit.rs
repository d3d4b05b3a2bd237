//! `pod_ingress`: packets that it sends into the tunnel by their flow's entry.

use std::collections::BTreeMap;

use overlay_common::config::{Config, FLAG_FASTPATH};
use overlay_common::flow::{EgressFlow, PENDING_EGRESS, PENDING_PROBE, PROBE_BUDGET, PROBE_WINDOW};
use overlay_common::maps::POD_INGRESS;
use overlay_common::priority;
use overlay_common::reason::Reason;
use overlay_testbed::packet::{Checksum, Frame, Layer4, decode};

use crate::bed::memory::now;
use crate::bed::{
    Bed, Context, FAR, LOST, NARROW, NEAR, Outcome, Peer, REDIRECT, SLOTS_PER_CPU, UNDERLAY, addr, ip,
};
use crate::flows::{
    FOREIGN_MARK, Flow, KINDS, MS, REVALIDATE, TCP, TCP_SERVICE, UDP, UDP_SERVICE, changed, fast_config,
    on_pod, with_fast_bed,
};
use crate::frames::{ETH, encapsulated, left_to_kernel, peer_stats};

/// The packet as it leaves when the pod sent `frame` and the stack would have handed `inner` to the VTEP device.
pub(crate) fn sent_fast(flow: &Flow, frame: &Frame, inner: &Frame, outcome: &Outcome, tos: u8) -> Outcome {
    // What routing would have set; 0 is what it was before.
    let priority = Some(priority::of_forwarded(frame.ip.tos)).filter(|priority| *priority != 0);
    let (frame, inner) = (frame.bytes(), inner.bytes());
    Outcome {
        verdict: REDIRECT,
        bytes: encapsulated(&inner, &flow.peer, &outcome.bytes, tos),
        marked: None,
        priority,
        counters: BTreeMap::from([("egress_fast", (1, frame.len() as u64))]),
        peers: peer_stats(flow.peer.vtep, [1, (inner.len() - ETH) as u64, 0, 0]),
    }
}

fn assert_fast(bed: &mut Bed, flow: &Flow, frame: &Frame, inner: &Frame, tos: u8) -> Vec<u8> {
    let entry = flow.egress_entry();
    bed.set_egress_flow(&flow.pod_key(), entry);
    let before = bed.memory();
    let outcome = bed.pod_ingress(&frame.bytes(), on_pod());
    assert_eq!(outcome, sent_fast(flow, frame, inner, &outcome, tos));
    assert_eq!(outcome.bytes[34..36], entry.source_port);
    assert_eq!(bed.memory(), before, "nothing is written for a packet");
    // The decoder verifies every checksum that is there, outside and inside.
    decode(&outcome.bytes)
        .expect("a frame")
        .vxlan()
        .expect("a tunnel packet");
    outcome.bytes
}

#[test]
fn the_packet_leaves_as_the_stack_would_have_sent_it() {
    with_fast_bed(|bed| {
        for flow in KINDS {
            assert_fast(bed, &flow, &flow.sent_by_pod(), &flow.at_vtep(), 0);
        }
    });
}

#[test]
fn a_translated_packet_equals_the_packet_that_was_sent_directly() {
    with_fast_bed(|bed| {
        for (direct, service) in [(UDP, UDP_SERVICE), (TCP, TCP_SERVICE)] {
            let direct = assert_fast(bed, &direct, &direct.sent_by_pod(), &direct.at_vtep(), 0);
            let service = assert_fast(bed, &service, &service.sent_by_pod(), &service.at_vtep(), 0);
            assert_eq!(direct[50..], service[50..]);
        }
    });
}

#[test]
fn a_datagram_without_a_checksum_gets_none() {
    with_fast_bed(|bed| {
        for flow in [UDP, UDP_SERVICE] {
            let without = |mut frame: Frame| {
                if let Layer4::Udp(udp) = &mut frame.layer4 {
                    udp.checksum = Checksum::Zero;
                }
                frame
            };
            let (frame, inner) = (without(flow.sent_by_pod()), without(flow.at_vtep()));
            let sent = assert_fast(bed, &flow, &frame, &inner, 0);
            assert_eq!(sent[90..92], [0, 0]);
        }
    });
}

#[test]
fn a_checksum_that_becomes_zero_is_sent_as_ones() {
    with_fast_bed(|bed| {
        let with_payload = |mut frame: Frame, payload: u16| {
            if let Layer4::Udp(udp) = &mut frame.layer4 {
                udp.payload = payload.to_be_bytes().to_vec();
            }
            frame
        };
        let payload = (0..=u16::MAX)
            .find(|payload| with_payload(UDP_SERVICE.at_vtep(), *payload).bytes()[40..42] == [0xff; 2])
            .expect("one of all sums");
        let (frame, inner) = (
            with_payload(UDP_SERVICE.sent_by_pod(), payload),
            with_payload(UDP_SERVICE.at_vtep(), payload),
        );
        let sent = assert_fast(bed, &UDP_SERVICE, &frame, &inner, 0);
        assert_eq!(sent[90..92], [0xff; 2]);
    });
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    with_fast_bed(|bed| {
        for flow in [UDP_SERVICE, TCP_SERVICE] {
            bed.set_egress_flow(&flow.pod_key(), flow.egress_entry());
            let at = if flow.protocol == TCP.protocol { 50 } else { 40 };
            for at in [at, 24] {
                let mut frame = flow.sent_by_pod().bytes();
                frame[at] ^= 0x10;
                let sent = bed.pod_ingress(&frame, on_pod());
                assert_eq!(sent.verdict, REDIRECT);
                let inner = decode(&sent.bytes).expect("right outside").vxlan();
                assert!(inner.is_err(), "the receiver must notice");
            }
        }
    });
}

#[test]
fn the_ttl_is_one_less() {
    with_fast_bed(|bed| {
        for flow in KINDS {
            for ttl in [2, 3, 128, 255] {
                let with_ttl = |mut frame: Frame, ttl| {
                    frame.ip.ttl = ttl;
                    frame
                };
                let (frame, inner) = (
                    with_ttl(flow.sent_by_pod(), ttl),
                    with_ttl(flow.at_vtep(), ttl - 1),
                );
                assert_fast(bed, &flow, &frame, &inner, 0);
            }
        }
    });
}

#[test]
fn the_congestion_bits_are_carried_outside_and_the_class_is_not() {
    with_fast_bed(|bed| {
        for (inner_tos, outer_tos) in [(0, 0), (0xb9, 1), (0xba, 2), (0xbb, 2), (0xff, 2)] {
            let with_tos = |mut frame: Frame| {
                frame.ip.tos = inner_tos;
                frame
            };
            let (frame, inner) = (with_tos(TCP.sent_by_pod()), with_tos(TCP.at_vtep()));
            assert_fast(bed, &TCP, &frame, &inner, outer_tos);
        }
    });
}

#[test]
fn the_smallest_packets() {
    with_fast_bed(|bed| {
        for flow in KINDS {
            let empty = |mut frame: Frame| {
                match &mut frame.layer4 {
                    Layer4::Udp(udp) => udp.payload.clear(),
                    Layer4::Tcp(tcp) => tcp.payload.clear(),
                    Layer4::Icmp(_) | Layer4::Raw(..) => unreachable!("a flow is TCP or UDP"),
                }
                frame
            };
            assert_fast(bed, &flow, &empty(flow.sent_by_pod()), &empty(flow.at_vtep()), 0);
        }
    });
}

#[test]
fn what_the_entry_says_is_what_counts() {
    with_fast_bed(|bed| {
        let flow = Flow { peer: FAR, ..TCP };
        let entry = changed(flow.egress_entry(), |entry| {
            entry.source_port = [0x80, 0x01];
            entry.vtep = addr(FAR.vtep);
        });
        bed.set_egress_flow(&flow.pod_key(), entry);
        let config = Config {
            ttl: 17,
            port: 4789u16.to_be_bytes(),
            vni: [0x12, 0x34, 0x56],
            vtep_mac: [2, 9, 9, 9, 9, 9],
            ..fast_config(bed)
        };
        bed.configure(config);
        let outcome = bed.pod_ingress(&TCP.sent_by_pod().bytes(), on_pod());
        let sent = outcome.bytes;
        assert_eq!(sent[22], 17, "TTL");
        assert_eq!(sent[30..34], FAR.vtep.octets(), "VTEP");
        assert_eq!(sent[34..36], [0x80, 0x01], "source port");
        assert_eq!(sent[36..38], 4789u16.to_be_bytes(), "port");
        assert_eq!(sent[46..49], [0x12, 0x34, 0x56], "VNI");
        assert_eq!(sent[50..56], FAR.mac, "inner destination");
        assert_eq!(sent[56..62], [2, 9, 9, 9, 9, 9], "inner source");
        let len = (TCP.sent_by_pod().bytes().len() - ETH) as u64;
        assert_eq!(outcome.peers, peer_stats(FAR.vtep, [1, len, 0, 0]));
    });
}

fn tcp_with(len: usize) -> (Frame, Frame) {
    let with_payload = |mut frame: Frame| {
        if let Layer4::Tcp(tcp) = &mut frame.layer4 {
            tcp.payload = vec![0x55; len];
        }
        frame
    };
    (with_payload(TCP.sent_by_pod()), with_payload(TCP.at_vtep()))
}

#[test]
fn the_largest_packet_and_one_byte_more() {
    with_fast_bed(|bed| {
        for max_segment in [1500, 1300] {
            bed.configure(Config {
                max_segment,
                ..fast_config(bed)
            });
            let largest = usize::from(max_segment) - 50 - 40;
            let (frame, inner) = tcp_with(largest);
            assert_fast(bed, &TCP, &frame, &inner, 0);
            let before = bed.memory();
            let frame = tcp_with(largest + 1).0.bytes();
            assert_eq!(
                bed.pod_ingress(&frame, on_pod()),
                left_to_kernel(&frame, Reason::PodTooBig)
            );
            assert_eq!(bed.memory(), before);
        }
    });
}

/// The way is asked for again and again: what was there when the entry was learned may be gone.
#[test]
fn a_way_that_is_not_there_any_more() {
    with_fast_bed(|bed| {
        bed.set_egress_flow(&TCP.pod_key(), due_entry(&TCP, 0));
        let before = bed.memory();
        let frame = TCP.sent_by_pod().bytes();
        let left = left_to_kernel(&frame, Reason::PodNoRoute);
        for kind in ["unreachable", "blackhole", "prohibit"] {
            ip(&format!("route replace {kind} {}/32", NEAR.vtep));
            assert_eq!(bed.pod_ingress(&frame, on_pod()), left);
            ip(&format!("route del {kind} {}/32", NEAR.vtep));
        }
        ip(&format!("neigh del {} dev {UNDERLAY}", NEAR.vtep));
        assert_eq!(bed.pod_ingress(&frame, on_pod()), left);
        ip(&format!("neigh add {} dev {UNDERLAY} nud failed", NEAR.vtep));
        assert_eq!(bed.pod_ingress(&frame, on_pod()), left);
        assert_eq!(bed.memory(), before, "nor is the entry proved by such a packet");
        let to = |peer: &Peer| changed(TCP.egress_entry(), |entry| entry.vtep = addr(peer.vtep));
        bed.set_egress_flow(&TCP.pod_key(), to(&LOST));
        assert_eq!(bed.pod_ingress(&frame, on_pod()), left);
    });
}

#[test]
fn a_route_that_is_narrower_than_the_underlay() {
    with_fast_bed(|bed| {
        bed.set_egress_flow(
            &TCP.pod_key(),
            changed(TCP.egress_entry(), |entry| entry.vtep = addr(NARROW.vtep)),
        );
        let largest = tcp_with(1400 - 50 - 40).0.bytes();
        assert_eq!(bed.pod_ingress(&largest, on_pod()).verdict, REDIRECT);
        let more = tcp_with(1400 - 50 - 39).0.bytes();
        assert_eq!(
            bed.pod_ingress(&more, on_pod()),
            left_to_kernel(&more, Reason::PodTooBig)
        );
    });
}

#[test]
fn segments_are_measured_and_not_the_whole() {
    with_fast_bed(|bed| {
        let gso = |gso_size| Context {
            gso_size,
            gso_segs: 2,
            ..on_pod()
        };
        let mut options = tcp_with(2000).0;
        if let Layer4::Tcp(tcp) = &mut options.layer4 {
            tcp.options = vec![1; 12];
        }
        let mut udp = UDP.sent_by_pod();
        if let Layer4::Udp(udp) = &mut udp.layer4 {
            udp.payload = vec![3; 2000];
        }
        for (flow, frame, fits) in [
            (TCP, tcp_with(2000).0, 1500 - 50 - 40),
            (TCP, options, 1500 - 50 - 52),
            (UDP, udp, 1500 - 50 - 28),
        ] {
            bed.set_egress_flow(&flow.pod_key(), flow.egress_entry());
            let frame = frame.bytes();
            // BPF_PROG_TEST_RUN sets no gso_type, so the kernel makes no room even for what fits: the packet stays whole.
            assert_eq!(
                bed.pod_ingress(&frame, gso(fits)),
                left_to_kernel(&frame, Reason::EncapRefused)
            );
            assert_eq!(
                bed.pod_ingress(&frame, gso(fits + 1)),
                left_to_kernel(&frame, Reason::PodTooBig)
            );
        }
    });
}

#[test]
fn an_entry_serves_until_its_hard_limit() {
    with_fast_bed(|bed| {
        // A probe of this instant has been sent, so that none is due.
        for age in [0, REVALIDATE - 1000 * MS, 3 * REVALIDATE - 1000 * MS] {
            let entry = changed(UDP.egress_entry(), |entry| {
                entry.validated = now() - age;
                entry.probed = now() + 1000 * MS;
            });
            bed.set_egress_flow(&UDP.pod_key(), entry);
            let before = bed.memory();
            let outcome = bed.pod_ingress(&UDP.sent_by_pod().bytes(), on_pod());
            assert_eq!(
                outcome,
                sent_fast(&UDP, &UDP.sent_by_pod(), &UDP.at_vtep(), &outcome, 0)
            );
            assert_eq!(bed.memory(), before);
        }
    });
}

/// An entry that is to be proved anew, last probed at `probed`.
fn due_entry(flow: &Flow, probed: u64) -> EgressFlow {
    changed(flow.egress_entry(), |entry| {
        entry.validated = now() - 2 * REVALIDATE;
        entry.probed = probed;
    })
}

#[test]
fn a_copy_of_a_packet_proves_an_entry_anew() {
    with_fast_bed(|bed| {
        bed.attach_pod_ingress();
        for (number, flow) in KINDS.into_iter().enumerate() {
            let slot = bed.first_slot() + u32::try_from(number).unwrap();
            let (key, frame) = (flow.pod_key(), flow.sent_by_pod());
            let entry = due_entry(&flow, 5);
            bed.set_egress_flow(&key, entry);
            let start = now();
            let context = Context {
                mark: FOREIGN_MARK,
                ..on_pod()
            };
            let (copied, peers) = bed.count_until(Reason::PodProbe, |bed| {
                let outcome = bed.pod_ingress(&frame.bytes(), context);
                let packet = sent_fast(&flow, &frame, &flow.at_vtep(), &outcome, 0);
                assert_eq!((outcome.verdict, &outcome.bytes), (packet.verdict, &packet.bytes));
                assert_eq!((outcome.marked, &outcome.peers), (Some(0), &packet.peers));
            });
            assert_eq!(peers.len(), 1, "the copy is not on its way to a peer yet");
            let len = frame.bytes().len() as u64;
            // The copy came in by the same device, with a ticket that is good.
            assert_eq!(
                copied,
                BTreeMap::from([("egress_fast", (1, len)), ("pod_probe", (1, len))])
            );
            let pending = bed.pending(slot);
            let mut expected = flow.egress_pending();
            expected.generation = 1;
            expected.kind = PENDING_EGRESS | PENDING_PROBE;
            expected.entered = pending.entered;
            expected.vtep = bytemuck::Zeroable::zeroed();
            assert_eq!(pending, expected);
            assert!((start..=now()).contains(&pending.entered));
            let after = bed.egress_flow(&key).expect("still there");
            assert!((start - 10 * MS..=now()).contains(&after.probed));
            assert_eq!(
                after,
                changed(entry, |entry| {
                    entry.probed = after.probed;
                })
            );
        }
    });
}

#[test]
fn one_probe_in_half_an_interval() {
    with_fast_bed(|bed| {
        for (probed, sends) in [
            (now() - REVALIDATE / 2 - 20 * MS, true),
            (now() - REVALIDATE / 2 + 1000 * MS, false),
            (now(), false),
        ] {
            let entry = due_entry(&UDP, probed);
            bed.set_egress_flow(&UDP.pod_key(), entry);
            let before = bed.memory();
            let outcome = bed.pod_ingress(&UDP.sent_by_pod().bytes(), on_pod());
            assert_eq!(
                outcome,
                sent_fast(&UDP, &UDP.sent_by_pod(), &UDP.at_vtep(), &outcome, 0)
            );
            assert_eq!(bed.memory() == before, !sends);
            assert_eq!(
                !bed.memory().pending.is_empty(),
                sends || !before.pending.is_empty()
            );
        }
        assert_eq!(bed.memory().pending.len(), 1);
    });
}

/// With thousands of slow flows every packet would come with a probe. Seen red with an urgent age of two intervals for all.
#[test]
fn probes_have_a_budget_that_the_urgent_ones_do_not_heed() {
    with_fast_bed(|bed| {
        let flows: Vec<Flow> = (0..400)
            .map(|port| Flow {
                pod: (UDP.pod.0, 10_000 + port),
                ..UDP
            })
            .collect();
        let all = flows.len() as u64;
        // In tenths of an interval, and how many of them are urgent then.
        for (age, urgent) in [(12, 0..=0), (20, all / 8..=3 * all / 8), (28, all..=all)] {
            for flow in &flows {
                let entry = changed(due_entry(flow, 5), |entry| {
                    entry.validated = now() - age * REVALIDATE / 10;
                });
                bed.set_egress_flow(&flow.pod_key(), entry);
            }
            let start = now();
            for flow in &flows {
                bed.run_uncounted(POD_INGRESS, &flow.sent_by_pod().bytes(), on_pod());
            }
            let windows = (now() - start) / PROBE_WINDOW + 2;
            let memory = bed.memory();
            let probed = memory.egress.values().filter(|entry| entry.probed != 5).count() as u64;
            assert_eq!(memory.egress.len(), flows.len());
            let budget = u64::from(PROBE_BUDGET);
            let (least, most) = (urgent.start().max(&budget), urgent.end() + windows * budget);
            assert!(
                (*least..=most).contains(&probed),
                "{probed} at an age of {age} tenths, in {windows} windows"
            );
        }
    });
}

/// Without a free slot there is no probe; the packet does not wait for one.
#[test]
fn a_probe_that_gets_no_ticket() {
    with_fast_bed(|bed| {
        for slot in bed.first_slot()..bed.first_slot() + SLOTS_PER_CPU {
            bed.set_pending(slot, UDP.egress_pending());
        }
        bed.set_egress_flow(&TCP.pod_key(), due_entry(&TCP, 0));
        let before = bed.memory();
        let frame = TCP.sent_by_pod();
        let outcome = bed.pod_ingress(&frame.bytes(), on_pod());
        let mut expected = sent_fast(&TCP, &frame, &TCP.at_vtep(), &outcome, 0);
        expected
            .counters
            .insert(Reason::NoTicket.label(), (1, frame.bytes().len() as u64));
        assert_eq!(outcome, expected);
        assert_eq!(bed.memory().pending, before.pending);
    });
}

#[test]
fn an_entry_is_not_used_while_the_fast_path_is_off() {
    with_fast_bed(|bed| {
        let config = fast_config(bed);
        bed.configure(Config {
            flags: config.flags & !FLAG_FASTPATH,
            ..config
        });
        bed.set_egress_flow(&UDP.pod_key(), UDP.egress_entry());
        let frame = UDP.sent_by_pod().bytes();
        assert_eq!(
            bed.pod_ingress(&frame, on_pod()),
            crate::frames::untouched(&frame, crate::bed::PASS, &[])
        );
    });
}

/// The headers are changed before it turns out that there is no checksum to mend.
#[test]
fn a_segment_that_ends_before_its_checksum() {
    with_fast_bed(|bed| {
        bed.set_egress_flow(&TCP_SERVICE.pod_key(), TCP_SERVICE.egress_entry());
        let header = TCP_SERVICE.sent_by_pod().bytes()[34..].to_vec();
        for len in [14, 17] {
            let mut frame = TCP_SERVICE.sent_by_pod();
            frame.layer4 = Layer4::Raw(TCP.protocol, header[..len].to_vec());
            let frame = frame.bytes();
            let outcome = bed.pod_ingress(&frame, on_pod());
            let expected = Outcome {
                bytes: outcome.bytes.clone(),
                ..crate::frames::untouched(&frame, crate::bed::DROP, &[Reason::EncapFailed])
            };
            assert_eq!(outcome, expected);
        }
    });
}
