//! `underlay_ingress`: packets that it delivers by their flow's entry.

use std::collections::BTreeMap;

use overlay_common::config::Config;
use overlay_common::flow::{FLOW_ACTIVE, IngressFlow, PENDING_INGRESS, PENDING_PROBE, SETTLE};
use overlay_common::reason::Reason;
use overlay_testbed::packet::{Checksum, Frame, Layer4, VxlanFrame, decode};

use crate::bed::memory::now;
use crate::bed::{Bed, Context, NEAR, Outcome, REDIRECT, SLOTS_PER_CPU};
use crate::flows::{
    FOREIGN_MARK, Flow, KINDS, MS, REVALIDATE, TCP, TCP_SERVICE, UDP, UDP_SERVICE, fast_config, tunnelled,
    with_fast_bed,
};
use crate::frames::{HEADERS, accepted, peer_stats};

/// The packet as it enters the pod: `inner` is what the stack would have handed to the pod's device.
fn delivered(flow: &Flow, tunnel: &[u8], inner: &Frame) -> Outcome {
    Outcome {
        verdict: REDIRECT,
        bytes: inner.bytes(),
        marked: None,
        priority: None,
        counters: BTreeMap::from([("ingress_fast", (1, tunnel.len() as u64))]),
        peers: peer_stats(flow.peer.vtep, [0, 0, 1, (tunnel.len() - HEADERS) as u64]),
    }
}

fn assert_fast(bed: &mut Bed, flow: &Flow, tunnel: &VxlanFrame, inner: &Frame) {
    bed.set_ingress_flow(&flow.peer_key(), flow.ingress_entry());
    let before = bed.memory();
    let tunnel = tunnel.bytes();
    let outcome = bed.ingress(&tunnel);
    assert_eq!(outcome, delivered(flow, &tunnel, inner));
    assert_eq!(bed.memory(), before, "nothing is written for a packet");
    decode(&outcome.bytes).expect("every checksum is right");
}

/// Changes what the peer sends and what the pod receives in the same way.
fn assert_fast_with(bed: &mut Bed, flow: &Flow, change: impl Fn(&mut Frame)) {
    let (mut sent, mut received) = (flow.inside_tunnel(), flow.at_pod());
    change(&mut sent);
    change(&mut received);
    assert_fast(bed, flow, &tunnelled(&flow.peer, &sent), &received);
}

#[test]
fn the_packet_arrives_as_the_stack_would_have_delivered_it() {
    with_fast_bed(|bed| {
        for flow in KINDS {
            assert_fast(bed, &flow, &flow.sent_by_peer(), &flow.at_pod());
        }
    });
}

#[test]
fn a_datagram_without_a_checksum_gets_none() {
    with_fast_bed(|bed| {
        for flow in [UDP, UDP_SERVICE] {
            assert_fast_with(bed, &flow, |frame| {
                if let Layer4::Udp(udp) = &mut frame.layer4 {
                    udp.checksum = Checksum::Zero;
                }
            });
        }
    });
}

#[test]
fn a_checksum_that_becomes_zero_is_sent_as_ones() {
    with_fast_bed(|bed| {
        let with_payload = |frame: &mut Frame, payload: u16| {
            if let Layer4::Udp(udp) = &mut frame.layer4 {
                udp.payload = payload.to_be_bytes().to_vec();
            }
        };
        let payload = (0..=u16::MAX)
            .find(|payload| {
                let mut frame = UDP_SERVICE.at_pod();
                with_payload(&mut frame, *payload);
                frame.bytes()[40..42] == [0xff; 2]
            })
            .expect("one of all sums");
        assert_fast_with(bed, &UDP_SERVICE, |frame| with_payload(frame, payload));
    });
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    with_fast_bed(|bed| {
        for flow in [UDP_SERVICE, TCP_SERVICE] {
            bed.set_ingress_flow(&flow.peer_key(), flow.ingress_entry());
            let at = if flow.protocol == TCP.protocol { 50 } else { 40 };
            for at in [at, 24] {
                let mut frame = flow.sent_by_peer();
                frame.inner[at] ^= 0x10;
                let outcome = bed.ingress(&frame.bytes());
                assert_eq!(outcome.verdict, REDIRECT);
                assert!(decode(&outcome.bytes).is_err(), "the pod must notice");
            }
        }
    });
}

#[test]
fn the_ttl_is_one_less() {
    with_fast_bed(|bed| {
        for flow in KINDS {
            for ttl in [2, 3, 128, 255] {
                let (mut sent, mut received) = (flow.inside_tunnel(), flow.at_pod());
                (sent.ip.ttl, received.ip.ttl) = (ttl, ttl - 1);
                assert_fast(bed, &flow, &tunnelled(&NEAR, &sent), &received);
            }
        }
    });
}

/// RFC 6040 §4.2, as the kernel implements it.
#[test]
fn congestion_signals_of_the_outer_header_reach_the_pod() {
    let (not_ect, ect_1, ect_0, ce) = (0, 1, 2, 3);
    // Rows: inner; columns: outer not-ECT, ECT(0), ECT(1), CE.
    let table = [
        (not_ect, [Some(not_ect), Some(not_ect), Some(not_ect), None]),
        (ect_0, [Some(ect_0), Some(ect_0), Some(ect_1), Some(ce)]),
        (ect_1, [Some(ect_1), Some(ect_1), Some(ect_1), Some(ce)]),
        (ce, [Some(ce), Some(ce), Some(ce), Some(ce)]),
    ];
    with_fast_bed(move |bed| {
        for (inner, row) in table {
            for (outer, expected) in [not_ect, ect_0, ect_1, ce].into_iter().zip(row) {
                for class in [0, 0xb8] {
                    let (mut sent, mut received) = (TCP.inside_tunnel(), TCP.at_pod());
                    sent.ip.tos = class | inner;
                    let mut tunnel = tunnelled(&NEAR, &sent);
                    // The outer class says nothing.
                    tunnel.ip.tos = 0x28 | outer;
                    if let Some(ecn) = expected {
                        received.ip.tos = class | ecn;
                        assert_fast(bed, &TCP, &tunnel, &received);
                    } else {
                        // The kernel device drops it, and counts that.
                        bed.set_ingress_flow(&TCP.peer_key(), TCP.ingress_entry());
                        let before = bed.memory();
                        let tunnel = tunnel.bytes();
                        assert_eq!(bed.ingress(&tunnel), accepted(&tunnel, &NEAR));
                        assert_eq!(bed.memory(), before);
                    }
                }
            }
        }
    });
}

#[test]
fn the_smallest_packets() {
    with_fast_bed(|bed| {
        for flow in KINDS {
            assert_fast_with(bed, &flow, |frame| match &mut frame.layer4 {
                Layer4::Udp(udp) => udp.payload.clear(),
                Layer4::Tcp(tcp) => tcp.payload.clear(),
                Layer4::Icmp(_) | Layer4::Raw(..) => unreachable!("a flow is TCP or UDP"),
            });
        }
    });
}

fn with_payload(len: usize) -> impl Fn(&mut Frame) {
    move |frame| {
        if let Layer4::Tcp(tcp) = &mut frame.layer4 {
            tcp.payload = vec![0x55; len];
        }
    }
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
            assert_fast_with(bed, &TCP, with_payload(largest));
            let mut sent = TCP.inside_tunnel();
            with_payload(largest + 1)(&mut sent);
            let tunnel = tunnelled(&NEAR, &sent).bytes();
            let before = bed.memory();
            assert_eq!(bed.ingress(&tunnel), accepted(&tunnel, &NEAR));
            assert_eq!(bed.memory(), before);
        }
    });
}

/// `BPF_PROG_TEST_RUN` sets no `gso_type`, so the kernel takes no headers off even where the segments fit: the packet
/// stays whole, and goes through the stack.
#[test]
fn an_aggregate_that_the_kernel_refuses_to_change() {
    with_fast_bed(|bed| {
        bed.set_ingress_flow(&TCP.peer_key(), TCP.ingress_entry());
        let mut sent = TCP.inside_tunnel();
        with_payload(2000)(&mut sent);
        let tunnel = tunnelled(&NEAR, &sent).bytes();
        let len = (tunnel.len() - HEADERS) as u64;
        for gso_size in [1000, 1500 - 50 - 40, 1500 - 50 - 39] {
            let gso = Context {
                gso_size,
                gso_segs: 2,
                ..Context::default()
            };
            let expected = Outcome {
                peers: peer_stats(NEAR.vtep, [0, 0, 2, len]),
                ..accepted(&tunnel, &NEAR)
            };
            assert_eq!(bed.ingress_with(&tunnel, gso), expected);
        }
    });
}

#[test]
fn other_peoples_mark_bits_stay() {
    with_fast_bed(|bed| {
        bed.set_ingress_flow(&TCP.peer_key(), TCP.ingress_entry());
        let tunnel = TCP.sent_by_peer().bytes();
        let marked = Context {
            mark: FOREIGN_MARK,
            ..Context::default()
        };
        assert_eq!(
            bed.ingress_with(&tunnel, marked),
            delivered(&TCP, &tunnel, &TCP.at_pod())
        );
    });
}

/// The entry holds the verified peer: no second check is made, and the epoch ends the entry with the peer.
#[test]
fn the_entry_is_the_peer_check() {
    with_fast_bed(|bed| {
        bed.remove_peer(&NEAR);
        assert_fast(bed, &UDP, &UDP.sent_by_peer(), &UDP.at_pod());
        bed.configure(Config {
            epoch: 77,
            ..fast_config(bed)
        });
        let tunnel = UDP.sent_by_peer().bytes();
        assert_eq!(
            bed.ingress(&tunnel),
            crate::frames::untouched(&tunnel, crate::bed::DROP, &[Reason::UnknownPeer])
        );
    });
}

#[test]
fn an_entry_serves_until_its_hard_limit() {
    with_fast_bed(|bed| {
        for age in [0, REVALIDATE - 1000 * MS, 3 * REVALIDATE - 1000 * MS] {
            let mut entry = UDP.ingress_entry();
            entry.validated = now() - age;
            // A probe of this instant has been sent, so that none is due.
            entry.probed = now() + 1000 * MS;
            bed.set_ingress_flow(&UDP.peer_key(), entry);
            let before = bed.memory();
            let tunnel = UDP.sent_by_peer().bytes();
            assert_eq!(bed.ingress(&tunnel), delivered(&UDP, &tunnel, &UDP.at_pod()));
            assert_eq!(bed.memory(), before);
        }
    });
}

/// An entry that is to be proved anew, last probed at `probed`.
fn due_entry(flow: &Flow, probed: u64) -> IngressFlow {
    let mut entry = flow.ingress_entry();
    entry.validated = now() - 2 * REVALIDATE;
    entry.probed = probed;
    entry
}

#[test]
fn a_copy_of_a_packet_proves_an_entry_anew() {
    with_fast_bed(|bed| {
        bed.attach_underlay_ingress();
        for (number, flow) in KINDS.into_iter().enumerate() {
            let slot = bed.first_slot() + u32::try_from(number).unwrap();
            let key = flow.peer_key();
            let entry = due_entry(&flow, 5);
            bed.set_ingress_flow(&key, entry);
            let tunnel = flow.sent_by_peer().bytes();
            let context = Context {
                mark: FOREIGN_MARK,
                ..Context::default()
            };
            let start = now();
            let (counters, peers) = bed.count_until(Reason::IngressProbeSent, |bed| {
                let outcome = bed.ingress_with(&tunnel, context);
                let expected = delivered(&flow, &tunnel, &flow.at_pod());
                assert_eq!(
                    (outcome.verdict, outcome.bytes),
                    (expected.verdict, expected.bytes)
                );
                assert_eq!(outcome.marked, None);
            });
            // The copy came in by the same device, with a ticket that is good, and is no second packet of the peer.
            let len = tunnel.len() as u64;
            assert_eq!(
                counters,
                BTreeMap::from([("ingress_fast", (1, len)), ("ingress_probe_sent", (1, len))])
            );
            assert_eq!(peers, delivered(&flow, &tunnel, &flow.at_pod()).peers);
            let pending = bed.pending(slot);
            let mut expected = flow.ingress_pending(bed);
            expected.generation = 1;
            expected.kind = PENDING_INGRESS | PENDING_PROBE;
            expected.entered = pending.entered;
            assert_eq!(pending, expected);
            assert!((start..=now()).contains(&pending.entered));
            let mut after = bed.ingress_flow(&key).expect("still there");
            assert!((start - 10 * MS..=now()).contains(&after.probed));
            after.probed = entry.probed;
            assert_eq!(after, entry);
        }
    });
}

#[test]
fn one_probe_in_half_an_interval() {
    with_fast_bed(|bed| {
        for probed in [now() - REVALIDATE / 2 + 1000 * MS, now()] {
            bed.set_ingress_flow(&UDP.peer_key(), due_entry(&UDP, probed));
            let before = bed.memory();
            let tunnel = UDP.sent_by_peer().bytes();
            assert_eq!(bed.ingress(&tunnel), delivered(&UDP, &tunnel, &UDP.at_pod()));
            assert_eq!(bed.memory(), before);
        }
        let probed = now() - REVALIDATE / 2 - 20 * MS;
        bed.set_ingress_flow(&UDP.peer_key(), due_entry(&UDP, probed));
        assert_eq!(bed.ingress(&UDP.sent_by_peer().bytes()).verdict, REDIRECT);
        assert_eq!(bed.memory().pending.len(), 1);
    });
}

/// Without a free slot there is no probe; the packet does not wait for one.
#[test]
fn a_probe_that_gets_no_ticket() {
    with_fast_bed(|bed| {
        for slot in bed.first_slot()..bed.first_slot() + SLOTS_PER_CPU {
            let pending = UDP.ingress_pending(bed);
            bed.set_pending(slot, pending);
        }
        bed.set_ingress_flow(&TCP.peer_key(), due_entry(&TCP, 0));
        let before = bed.memory();
        let tunnel = TCP.sent_by_peer().bytes();
        let mut expected = delivered(&TCP, &tunnel, &TCP.at_pod());
        expected
            .counters
            .insert(Reason::NoTicket.label(), (1, tunnel.len() as u64));
        assert_eq!(bed.ingress(&tunnel), expected);
        assert_eq!(bed.memory().pending, before.pending);
    });
}

#[test]
fn the_first_packet_after_the_last_slow_one_has_left_the_stack() {
    with_fast_bed(|bed| {
        for flow in KINDS {
            let mut settled = flow.ingress_entry();
            settled.state &= !FLOW_ACTIVE;
            (settled.entered, settled.left) = (81, 81);
            settled.left_at = now() - SETTLE;
            bed.set_ingress_flow(&flow.peer_key(), settled);
            let tunnel = flow.sent_by_peer().bytes();
            assert_eq!(bed.ingress(&tunnel), delivered(&flow, &tunnel, &flow.at_pod()));
            settled.state |= FLOW_ACTIVE;
            assert_eq!(bed.ingress_flow(&flow.peer_key()), Some(settled));
            assert!(bed.memory().pending.is_empty());
        }
    });
}
