//! `vtep_ingress`: packets that the kernel device has decapsulated, for pods in shortcut mode.

use overlay_common::config::{Config, FLAG_FASTPATH};
use overlay_common::flow::{
    FLOW_ACTIVE, FLOW_SHORTCUT, IngressFlow, PENDING_INGRESS, PENDING_PROBE, RETRY_PATIENCE, Retry, SETTLE,
    ticket,
};
use overlay_common::reason::Reason;
use overlay_testbed::packet::{ETHERTYPE_ARP, Frame, Ipv4, Layer4, PROTOCOL_TCP, Tcp};

use crate::bed::memory::now;
use crate::bed::{Bed, Context, DROP, Outcome, PASS, REDIRECT, SLOTS_PER_CPU};
use crate::flows::{
    FOREIGN_MARK, Flow, KINDS, MS, REVALIDATE, TCP, TCP_SERVICE, UDP, fast_config, mark, with_fast_bed,
};
use crate::frames::untouched;

fn entry(flow: &Flow) -> IngressFlow {
    let mut entry = flow.ingress_entry();
    entry.state |= FLOW_SHORTCUT;
    entry
}

/// Known, but waiting for the last packet in the stack, since less than any limit.
fn waiting(flow: &Flow) -> IngressFlow {
    let mut entry = entry(flow);
    entry.state &= !FLOW_ACTIVE;
    entry.probed = now() + 10_000 * MS;
    entry
}

fn marked(bits: u32) -> Context {
    Context {
        mark: bits,
        ..Context::default()
    }
}

/// The packet as it enters the pod. (The peer's statistics are `underlay_ingress`'s.)
fn delivered(frame: &Frame, inner: &Frame) -> Outcome {
    Outcome {
        verdict: REDIRECT,
        bytes: inner.bytes(),
        ..untouched(&frame.bytes(), REDIRECT, &[Reason::ShortcutFast])
    }
}

/// Runs `test` with one pod in shortcut mode.
fn with_shortcut_bed(test: impl FnOnce(&mut Bed) + Send + 'static) {
    with_fast_bed(|bed| {
        bed.set_shortcuts(1);
        test(bed);
    });
}

/// Neither changed nor counted, and nothing is written.
fn assert_left(bed: &mut Bed, frame: &[u8], context: Context) {
    let before = bed.memory();
    assert_eq!(bed.vtep_ingress(frame, context), untouched(frame, PASS, &[]));
    assert_eq!(bed.memory(), before);
}

#[test]
fn the_packet_arrives_as_the_stack_would_have_delivered_it() {
    with_shortcut_bed(|bed| {
        for flow in KINDS {
            bed.set_ingress_flow(&flow.peer_key(), entry(&flow));
            let before = bed.memory();
            let outcome = bed.vtep_ingress(&flow.inside_tunnel().bytes(), marked(FOREIGN_MARK));
            assert_eq!(outcome, delivered(&flow.inside_tunnel(), &flow.at_pod()));
            assert_eq!(bed.memory(), before);
        }
    });
}

#[test]
fn the_kernel_device_has_already_taken_over_the_congestion_bits() {
    with_shortcut_bed(|bed| {
        bed.set_ingress_flow(&TCP.peer_key(), entry(&TCP));
        for tos in [0, 1, 2, 3, 0xbb] {
            let (mut sent, mut received) = (TCP.inside_tunnel(), TCP.at_pod());
            (sent.ip.tos, received.ip.tos) = (tos, tos);
            assert_eq!(
                bed.vtep_ingress(&sent.bytes(), Context::default()),
                delivered(&sent, &received)
            );
        }
    });
}

#[test]
fn while_no_pod_is_in_shortcut_mode() {
    with_shortcut_bed(|bed| {
        bed.set_ingress_flow(&TCP.peer_key(), entry(&TCP));
        bed.set_shortcuts(0);
        assert_left(bed, &TCP.inside_tunnel().bytes(), Context::default());
        bed.set_shortcuts(2);
        let config = fast_config(bed);
        bed.configure(Config {
            flags: config.flags & !FLAG_FASTPATH,
            ..config
        });
        assert_left(bed, &TCP.inside_tunnel().bytes(), Context::default());
        bed.configure(Config { abi: 1, ..config });
        assert_left(bed, &TCP.inside_tunnel().bytes(), Context::default());
    });
}

#[test]
fn packets_that_are_followed_through_the_stack() {
    with_shortcut_bed(|bed| {
        bed.set_ingress_flow(&TCP.peer_key(), entry(&TCP));
        let mut pending = TCP.ingress_pending(bed);
        pending.entered = now();
        let slot = bed.first_slot();
        bed.set_ticket(slot, pending);
        for number in [slot, slot + 1, 200] {
            assert_left(bed, &TCP.inside_tunnel().bytes(), marked(mark(number)));
        }
    });
}

#[test]
fn packets_that_never_take_the_fast_path() {
    with_shortcut_bed(|bed| {
        bed.set_ingress_flow(&TCP.peer_key(), entry(&TCP));
        let changes: [fn(&mut Frame); 6] = [
            |frame| frame.ip.fragment = Ipv4::MORE_FRAGMENTS,
            |frame| frame.ip.options = vec![1; 4],
            |frame| frame.ip.ttl = 1,
            |frame| frame.ip.ttl = 0,
            |frame| frame.eth.ether_type = ETHERTYPE_ARP,
            |frame| frame.ip.protocol = Some(132),
        ];
        for change in changes {
            let mut frame = TCP.inside_tunnel();
            change(&mut frame);
            assert_left(bed, &frame.bytes(), Context::default());
        }
        // What ends a flow `underlay_ingress` has seen already.
        for flags in [0, Tcp::SYN, Tcp::FIN | Tcp::ACK, Tcp::RST] {
            let mut frame = TCP.inside_tunnel();
            if let Layer4::Tcp(tcp) = &mut frame.layer4 {
                tcp.flags = flags;
            }
            assert_left(bed, &frame.bytes(), Context::default());
        }
        let mut padded = TCP.inside_tunnel().bytes();
        padded.push(0);
        assert_left(bed, &padded, Context::default());
    });
}

#[test]
fn entries_that_are_not_usable_here() {
    let changes: [fn(&mut IngressFlow); 5] = [
        |entry| entry.state &= !FLOW_SHORTCUT,
        |entry| entry.tag ^= 2,
        |entry| entry.epoch = entry.epoch.wrapping_add(1),
        |entry| entry.validated = now() - 3 * REVALIDATE - 20 * MS,
        |entry| entry.validated = 0,
    ];
    with_shortcut_bed(move |bed| {
        let frame = TCP.inside_tunnel().bytes();
        let due = Retry {
            tag: TCP.peer_key().tag(),
            count: RETRY_PATIENCE,
            until: 0,
        };
        bed.set_retry(&TCP.peer_key(), due);
        assert_left(bed, &frame, Context::default());
        for change in changes {
            let mut entry = entry(&TCP);
            change(&mut entry);
            bed.set_ingress_flow(&TCP.peer_key(), entry);
            assert_left(bed, &frame, Context::default());
        }
        assert_eq!(
            bed.retry(&TCP.peer_key()),
            due,
            "it is followed from the underlay on"
        );
    });
}

#[test]
fn the_largest_packet_and_one_byte_more() {
    with_shortcut_bed(|bed| {
        bed.set_ingress_flow(&TCP.peer_key(), entry(&TCP));
        let with_payload = |mut frame: Frame, len| {
            if let Layer4::Tcp(tcp) = &mut frame.layer4 {
                tcp.payload = vec![0x55; len];
            }
            frame
        };
        let largest = 1500 - 50 - 40;
        let frame = with_payload(TCP.inside_tunnel(), largest);
        assert_eq!(
            bed.vtep_ingress(&frame.bytes(), Context::default()),
            delivered(&frame, &with_payload(TCP.at_pod(), largest))
        );
        let frame = with_payload(TCP.inside_tunnel(), largest + 1);
        assert_left(bed, &frame.bytes(), Context::default());
    });
}

#[test]
fn a_copy_of_a_packet_proves_an_entry_anew() {
    with_shortcut_bed(|bed| {
        for (number, flow) in [UDP, TCP_SERVICE].into_iter().enumerate() {
            let mut due = entry(&flow);
            due.validated = now() - 2 * REVALIDATE;
            bed.set_ingress_flow(&flow.peer_key(), due);
            let frame = flow.inside_tunnel();
            let start = now();
            for _ in 0..3 {
                assert_eq!(
                    bed.vtep_ingress(&frame.bytes(), Context::default()),
                    delivered(&frame, &flow.at_pod())
                );
            }
            let slot = bed.first_slot() + u32::try_from(number).unwrap();
            let pending = bed.pending(slot);
            let mut expected = flow.ingress_pending(bed);
            expected.generation = 1;
            expected.kind = PENDING_INGRESS | PENDING_PROBE;
            expected.entered = pending.entered;
            assert_eq!(pending, expected);
            assert_eq!(
                bed.memory().pending.len(),
                number + 1,
                "one of three packets is copied"
            );
            let mut after = bed.ingress_flow(&flow.peer_key()).expect("still there");
            assert!((start - 10 * MS..=now()).contains(&after.probed));
            after.probed = due.probed;
            assert_eq!(after, due);
        }
    });
}

#[test]
fn the_first_packet_after_the_last_slow_one_has_left_the_stack() {
    with_shortcut_bed(|bed| {
        let mut settled = waiting(&TCP);
        (settled.entered, settled.left, settled.left_at) = (81, 81, now() - SETTLE);
        bed.set_ingress_flow(&TCP.peer_key(), settled);
        assert_eq!(
            bed.vtep_ingress(&TCP.inside_tunnel().bytes(), Context::default()),
            delivered(&TCP.inside_tunnel(), &TCP.at_pod())
        );
        settled.state |= FLOW_ACTIVE;
        assert_eq!(bed.ingress_flow(&TCP.peer_key()), Some(settled));
    });
}

#[test]
fn while_packets_are_in_the_stack_the_next_is_followed_too() {
    let states: [fn(&mut IngressFlow); 3] = [
        |entry| (entry.entered, entry.left) = (0, 0),
        |entry| (entry.entered, entry.left) = (82, 81),
        |entry| (entry.entered, entry.left, entry.left_at) = (82, 82, now() + 1000 * MS),
    ];
    with_shortcut_bed(move |bed| {
        for (number, state) in states.into_iter().enumerate() {
            let slot = bed.first_slot() + u32::try_from(number).unwrap();
            let flow = [UDP, TCP, UDP][number];
            let mut entry = waiting(&flow);
            state(&mut entry);
            bed.set_ingress_flow(&flow.peer_key(), entry);
            let frame = flow.inside_tunnel().bytes();
            let expected = Outcome {
                marked: Some(mark(slot) | FOREIGN_MARK),
                ..untouched(&frame, PASS, &[Reason::IngressMarked])
            };
            assert_eq!(bed.vtep_ingress(&frame, marked(FOREIGN_MARK)), expected);
            let mut pending = flow.ingress_pending(bed);
            pending.generation = 1;
            pending.entered = bed.pending(slot).entered;
            assert_eq!(bed.pending(slot), pending);
            entry.entered = flow.position(ticket(slot, 1));
            assert_eq!(bed.ingress_flow(&flow.peer_key()), Some(entry));
        }
    });
}

#[test]
fn a_packet_that_cannot_be_followed_keeps_the_flow_waiting() {
    with_shortcut_bed(|bed| {
        for slot in bed.first_slot()..bed.first_slot() + SLOTS_PER_CPU {
            let pending = UDP.ingress_pending(bed);
            bed.set_pending(slot, pending);
        }
        let mut entry = waiting(&TCP);
        (entry.entered, entry.left) = (82, 81);
        bed.set_ingress_flow(&TCP.peer_key(), entry);
        let frame = TCP.inside_tunnel().bytes();
        assert_eq!(
            bed.vtep_ingress(&frame, Context::default()),
            untouched(&frame, PASS, &[Reason::NoTicket])
        );
        entry.entered = 0;
        assert_eq!(bed.ingress_flow(&TCP.peer_key()), Some(entry));
    });
}

/// The headers are changed before it turns out that there is no checksum to mend.
#[test]
fn a_segment_that_ends_before_its_checksum() {
    with_shortcut_bed(|bed| {
        bed.set_ingress_flow(&TCP_SERVICE.peer_key(), entry(&TCP_SERVICE));
        let header = TCP_SERVICE.inside_tunnel().bytes()[34..].to_vec();
        for len in [14, 17] {
            let mut frame = TCP_SERVICE.inside_tunnel();
            frame.layer4 = Layer4::Raw(PROTOCOL_TCP, header[..len].to_vec());
            let frame = frame.bytes();
            let outcome = bed.vtep_ingress(&frame, Context::default());
            let expected = Outcome {
                bytes: outcome.bytes.clone(),
                ..untouched(&frame, DROP, &[Reason::DecapFailed])
            };
            assert_eq!(outcome, expected);
        }
    });
}
