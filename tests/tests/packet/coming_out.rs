//! `pod_egress`: which packets say that a flow's last one has come out of the stack.

use overlay_common::flow::{PENDING_EGRESS, PENDING_PROBE, Pending, ticket};
use overlay_common::reason::Reason;
use overlay_testbed::packet::Layer4;

use crate::bed::memory::now;
use crate::bed::{PASS, local_pod};
use crate::flows::{Flow, TCP, UDP, changed, with_fast_bed};
use crate::frames::untouched;
use crate::pod_learning::{absorbed, assert_learned, enter, passed, slot};

/// Seen red without the comparison of positions.
#[test]
fn the_last_packet_out_of_the_stack_is_noted() {
    with_fast_bed(|bed| {
        for flow in [UDP, TCP] {
            let pending = flow.ingress_pending(bed);
            let id = flow.position(ticket(slot(bed), bed.set_ticket(slot(bed), pending)));
            for (entered, kind) in [
                (id, 0),
                (id, PENDING_PROBE),
                (id + 1, 0),
                (id.wrapping_add(1 << 14), PENDING_PROBE),
                (0, 0),
            ] {
                let mut entry = assert_learned(bed, &flow);
                (entry.entered, entry.left, entry.left_at) = (entered, 11, 12);
                (entry.validated, entry.probed) = (13, 14);
                bed.set_ingress_flow(&flow.peer_key(), entry);
                let mut pending = flow.ingress_pending(bed);
                pending.kind |= kind;
                let frame = flow.at_pod().bytes();
                let start = now();
                let expected = if kind == 0 { passed } else { absorbed };
                assert_eq!(
                    enter(bed, pending, &frame),
                    expected(&frame, Reason::IngressLearned)
                );
                let after = bed.ingress_flow(&flow.peer_key()).expect("an entry");
                if entered == id {
                    assert!((start..=now()).contains(&after.left_at));
                    (entry.left, entry.left_at) = (id, after.left_at);
                }
                entry.validated = pending.entered;
                assert_eq!(after, entry);
            }
        }
    });
}

/// The kernel may have merged the packet with those that followed it: with the last of them, all have come out.
///
/// Seen red without the look at aggregates, without the comparison of sequence numbers in `Ticket::begins`, and without that of
/// positions.
#[test]
fn an_aggregate_out_of_the_stack_is_noted_by_its_end() {
    with_fast_bed(|bed| {
        let longer = |flow: &Flow| {
            let mut frame = flow.at_pod();
            match &mut frame.layer4 {
                Layer4::Tcp(tcp) => tcp.payload.extend([7; 100]),
                Layer4::Udp(udp) => udp.payload.extend([7; 100]),
                Layer4::Icmp(_) | Layer4::Raw(..) => unreachable!("a flow is TCP or UDP"),
            }
            frame
        };
        let good = TCP.ingress_pending(bed);
        let with = |change: fn(&mut Pending)| changed(good, change);
        let other_ticket = with(|pending| pending.generation += 1);
        let end = TCP.position(0) + 100;
        for (pending, entered, notes) in [
            (good, end, true),
            (with(|pending| pending.kind |= PENDING_PROBE), end, true),
            (good, end - 1, false),
            (good, TCP.position(0), false),
            (good, 0, false),
            (with(|pending| pending.sequence[3] ^= 1), end, false),
            (with(|pending| pending.kind = PENDING_EGRESS), end, false),
            (other_ticket, end, false),
        ] {
            let mut entry = assert_learned(bed, &TCP);
            (entry.entered, entry.left, entry.left_at) = (entered, 11, 12);
            bed.set_ingress_flow(&TCP.peer_key(), entry);
            let other = bed.memory().egress;
            let frame = longer(&TCP).bytes();
            let start = now();
            let expected = if pending.generation == good.generation {
                passed(&frame, Reason::IngressNotLearned)
            } else {
                untouched(&frame, PASS, &[Reason::UnknownTicket])
            };
            assert_eq!(enter(bed, pending, &frame), expected);
            let after = bed.ingress_flow(&TCP.peer_key()).expect("an entry");
            if notes {
                assert!((start..=now()).contains(&after.left_at));
                (entry.left, entry.left_at) = (end, after.left_at);
            }
            assert_eq!(after, entry, "nothing else is learned");
            assert_eq!(bed.memory().egress, other);
        }
        // To another pod or port, or of datagrams, it says nothing.
        let mut entry = assert_learned(bed, &TCP);
        (entry.entered, entry.left) = (end, 11);
        bed.set_ingress_flow(&TCP.peer_key(), entry);
        for pod in [(local_pod(6), TCP.pod.1), (TCP.pod.0, TCP.pod.1 + 1)] {
            let frame = longer(&Flow { pod, ..TCP }).bytes();
            enter(bed, good, &frame);
            assert_eq!(bed.ingress_flow(&TCP.peer_key()), Some(entry));
        }
        let pending = UDP.ingress_pending(bed);
        let id = ticket(slot(bed), bed.set_ticket(slot(bed), pending));
        let mut entry = assert_learned(bed, &UDP);
        (entry.entered, entry.left) = (id, 11);
        bed.set_ingress_flow(&UDP.peer_key(), entry);
        enter(bed, pending, &longer(&UDP).bytes());
        assert_eq!(bed.ingress_flow(&UDP.peer_key()), Some(entry));
    });
}
