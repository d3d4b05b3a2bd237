//! `underlay_ingress`: verified packets that are followed through the stack, and those that are not.

use overlay_common::config::{Config, FLAG_ENFORCE_PEERS};
use overlay_common::flow::{
    FLOW_ACTIVE, IngressFlow, PENDING_HOLD, Pending, RETRY_FIRST_WAIT, RETRY_PATIENCE, Retry, ticket,
};
use overlay_common::reason::Reason;

use crate::bed::memory::now;
use crate::bed::{Bed, Context, DROP, FAR, NEAR, OTHER_LOCAL, Outcome, PASS, SLOTS_PER_CPU};
use crate::flows::{
    FOREIGN_MARK, Flow, KINDS, MS, REVALIDATE, TCP, UDP, changed, fast_config, mark, tunnelled, with_fast_bed,
};
use crate::frames::{accepted, untouched};

/// The packet was given the ticket of `slot`, beside the mark it had.
fn marked(tunnel: &[u8], slot: u32, mark_before: u32) -> Outcome {
    Outcome {
        marked: Some(mark(slot) | mark_before),
        counters: [("ingress_marked", (1, tunnel.len() as u64))].into(),
        ..accepted(tunnel, &NEAR)
    }
}

/// The packet should have been followed, but there was no slot for it.
fn without_ticket(tunnel: &[u8]) -> Outcome {
    let mut outcome = accepted(tunnel, &NEAR);
    outcome
        .counters
        .insert(Reason::NoTicket.label(), (1, tunnel.len() as u64));
    outcome
}

/// The next packet of the flow without an entry gets a ticket.
fn due(bed: &mut Bed, flow: &Flow) -> Retry {
    let retry = Retry {
        tag: flow.peer_key().tag(),
        count: RETRY_PATIENCE,
        until: 0,
    };
    bed.set_retry(&flow.peer_key(), retry);
    retry
}

/// What the slot says of the flow's packet, apart from the times.
fn assert_noted(bed: &Bed, flow: &Flow, slot: u32, tos: u8) {
    let pending = bed.pending(slot);
    let mut expected = flow.ingress_pending(bed);
    expected.generation = 1;
    expected.entered = pending.entered;
    expected.tos = tos;
    assert_eq!(pending, expected);
}

#[test]
fn a_flow_without_an_entry_is_followed_when_its_time_has_come() {
    with_fast_bed(|bed| {
        for (number, flow) in KINDS.into_iter().enumerate() {
            // Both kinds of one protocol are the same flow on the wire.
            let slot = bed.first_slot() + u32::try_from(number).unwrap();
            let (key, tunnel) = (flow.peer_key(), flow.sent_by_peer().bytes());
            let first = Retry {
                tag: key.tag(),
                count: 1,
                until: 0,
            };
            bed.set_retry(&key, first);
            for count in 2..=RETRY_PATIENCE {
                assert_eq!(bed.ingress(&tunnel), accepted(&tunnel, &NEAR));
                assert_eq!(bed.retry(&key), Retry { count, ..first });
            }
            let context = Context {
                mark: FOREIGN_MARK,
                ..Context::default()
            };
            let start = now();
            assert_eq!(
                bed.ingress_with(&tunnel, context),
                marked(&tunnel, slot, FOREIGN_MARK)
            );
            assert_noted(bed, &flow, slot, 0xb8);
            assert!((start..=now()).contains(&bed.pending(slot).entered));
            let retry = bed.retry(&key);
            assert_eq!((retry.tag, retry.count), (key.tag(), RETRY_PATIENCE + 1));
            assert!((start - 10 * MS..=now()).contains(&(retry.until - RETRY_FIRST_WAIT)));
            let waiting = Retry {
                until: u64::MAX,
                ..retry
            };
            bed.set_retry(&key, waiting);
            assert_eq!(bed.ingress(&tunnel), accepted(&tunnel, &NEAR));
            assert_eq!(bed.retry(&key), waiting);
        }
        assert!(bed.memory().ingress.is_empty() && bed.memory().egress.is_empty());
    });
}

#[test]
fn the_tos_that_the_kernel_device_will_make_is_noted() {
    with_fast_bed(|bed| {
        for (number, (outer, inner, expected)) in [(3, 2, 3), (1, 2, 1), (0, 3, 3), (2, 0, 0), (3, 1, 3)]
            .into_iter()
            .enumerate()
        {
            let slot = bed.first_slot() + u32::try_from(number).unwrap();
            let mut frame = TCP.inside_tunnel();
            frame.ip.tos = inner;
            let mut tunnel = tunnelled(&NEAR, &frame);
            tunnel.ip.tos = outer;
            let tunnel = tunnel.bytes();
            due(bed, &TCP);
            assert_eq!(bed.ingress(&tunnel), marked(&tunnel, slot, 0));
            assert_noted(bed, &TCP, slot, expected);
        }
    });
}

#[test]
fn a_packet_that_the_kernel_device_will_drop() {
    with_fast_bed(|bed| {
        let mut inner = TCP.inside_tunnel();
        inner.ip.tos = 0;
        let mut tunnel = tunnelled(&NEAR, &inner);
        tunnel.ip.tos = 3;
        let tunnel = tunnel.bytes();
        due(bed, &TCP);
        assert_eq!(bed.ingress(&tunnel), accepted(&tunnel, &NEAR));
        assert!(bed.memory().pending.is_empty());
    });
}

#[test]
fn a_refused_packet_is_not_followed() {
    with_fast_bed(|bed| {
        let mut stranger = TCP.sent_by_peer();
        stranger.ip.source = OTHER_LOCAL;
        let config = fast_config(bed);
        let open = Config {
            flags: config.flags & !FLAG_ENFORCE_PEERS,
            ..config
        };
        for (tunnel, reason) in [
            (tunnelled(&FAR, &TCP.inside_tunnel()), Reason::SpoofedSource),
            (stranger, Reason::UnknownPeer),
        ] {
            let tunnel = tunnel.bytes();
            let retry = due(bed, &TCP);
            bed.configure(config);
            assert_eq!(bed.ingress(&tunnel), untouched(&tunnel, DROP, &[reason]));
            // Nor while it is let through because the list of peers is not complete.
            bed.configure(open);
            assert_eq!(
                bed.ingress(&tunnel),
                untouched(&tunnel, PASS, &[reason, Reason::FailedOpen])
            );
            assert_eq!(bed.retry(&TCP.peer_key()), retry);
        }
        assert!(bed.memory().pending.is_empty());
    });
}

#[test]
fn without_a_free_slot() {
    with_fast_bed(|bed| {
        let tunnel = TCP.sent_by_peer().bytes();
        for slot in bed.first_slot()..bed.first_slot() + SLOTS_PER_CPU {
            let pending = UDP.ingress_pending(bed);
            bed.set_pending(slot, pending);
        }
        due(bed, &TCP);
        let before = bed.memory();
        assert_eq!(bed.ingress(&tunnel), without_ticket(&tunnel));
        assert_eq!(bed.memory(), before);
        let mut free = UDP.ingress_pending(bed);
        free.entered = now() - PENDING_HOLD;
        bed.set_pending(bed.first_slot(), free);
        due(bed, &TCP);
        assert_eq!(bed.ingress(&tunnel), marked(&tunnel, bed.first_slot(), 0));
    });
}

/// The entry of [`TCP`], which began to wait after `start`, apart from when that was.
fn deactivated(bed: &Bed, start: u64) -> IngressFlow {
    let entry = bed.ingress_flow(&TCP.peer_key()).expect("an entry");
    assert!((start..=now()).contains(&entry.probed), "when it began to wait");
    changed(entry, |entry| entry.probed = 0)
}

/// An entry that may not be trusted any more is not used, and when it is proved anew it waits, as a new one does.
#[test]
fn entries_that_are_not_of_this_time() {
    let changes: [fn(&mut IngressFlow); 4] = [
        |entry| entry.epoch = entry.epoch.wrapping_add(1),
        |entry| entry.epoch = entry.epoch.wrapping_sub(1),
        |entry| entry.validated = now() - 3 * REVALIDATE - 20 * MS,
        |entry| entry.validated = 0,
    ];
    with_fast_bed(move |bed| {
        let (key, tunnel) = (TCP.peer_key(), TCP.sent_by_peer().bytes());
        for (number, change) in changes.into_iter().enumerate() {
            let slot = bed.first_slot() + u32::try_from(number).unwrap();
            let mut entry = TCP.ingress_entry();
            change(&mut entry);
            (entry.entered, entry.left) = (81, 81);
            let mut after = entry;
            after.state &= !FLOW_ACTIVE;

            let start = now();
            bed.set_ingress_flow(&key, entry);
            due(bed, &TCP);
            assert_eq!(bed.ingress(&tunnel), marked(&tunnel, slot, 0));
            after.entered = TCP.position(ticket(slot, 1));
            assert_eq!(deactivated(bed, start), after);

            bed.set_ingress_flow(&key, entry);
            let mut tried = bed.retry(&key);
            tried.until = u64::MAX;
            bed.set_retry(&key, tried);
            assert_eq!(bed.ingress(&tunnel), accepted(&tunnel, &NEAR));
            after.entered = 0;
            assert_eq!(deactivated(bed, start), after);

            // One that waits already waits from when it began to.
            let inactive = changed(entry, |entry| entry.state &= !FLOW_ACTIVE);
            bed.set_ingress_flow(&key, inactive);
            assert_eq!(bed.ingress(&tunnel), accepted(&tunnel, &NEAR));
            assert_eq!(bed.ingress_flow(&key), Some(after));
        }
    });
}

#[test]
fn an_entry_whose_memory_is_another_flows() {
    with_fast_bed(|bed| {
        let mut entry = TCP.ingress_entry();
        entry.tag ^= 2;
        bed.set_ingress_flow(&TCP.peer_key(), entry);
        due(bed, &TCP);
        let tunnel = TCP.sent_by_peer().bytes();
        assert_eq!(bed.ingress(&tunnel), marked(&tunnel, bed.first_slot(), 0));
        assert_eq!(bed.ingress_flow(&TCP.peer_key()), Some(entry));
    });
}

/// An entry that is known but waits for the last packet in the stack, since less than any limit.
fn waiting(flow: &Flow) -> IngressFlow {
    let mut entry = flow.ingress_entry();
    entry.state &= !FLOW_ACTIVE;
    entry.probed = now() + 10_000 * MS;
    entry
}

#[test]
fn while_packets_are_in_the_stack_the_next_is_followed_too() {
    let states: [fn(&mut IngressFlow); 4] = [
        // Just learned: none has been followed since.
        |entry| (entry.entered, entry.left) = (0, 0),
        // The last one is still inside.
        |entry| (entry.entered, entry.left) = (82, 81),
        |entry| (entry.entered, entry.left) = (82, 0),
        // It has come out this moment.
        |entry| (entry.entered, entry.left, entry.left_at) = (82, 82, now() + 1000 * MS),
    ];
    with_fast_bed(move |bed| {
        for (number, state) in states.into_iter().enumerate() {
            let slot = bed.first_slot() + u32::try_from(number).unwrap();
            for flow in [UDP, TCP] {
                let mut entry = waiting(&flow);
                state(&mut entry);
                bed.set_ingress_flow(&flow.peer_key(), entry);
                let never = Retry {
                    until: u64::MAX,
                    count: RETRY_PATIENCE + 1,
                    ..due(bed, &flow)
                };
                bed.set_retry(&flow.peer_key(), never);
                // Each test packet takes the next slot; this one is to take `slot`.
                let tunnel = flow.sent_by_peer().bytes();
                let outcome = bed.ingress(&tunnel);
                let used = (0..SLOTS_PER_CPU)
                    .map(|number| bed.first_slot() + number)
                    .find(|used| outcome == marked(&tunnel, *used, 0))
                    .unwrap_or_else(|| panic!("{slot}: {outcome:?}"));
                assert_noted(bed, &flow, used, 0xb8);
                entry.entered = flow.position(ticket(used, 1));
                assert_eq!(bed.ingress_flow(&flow.peer_key()), Some(entry));
                assert_eq!(bed.retry(&flow.peer_key()), never, "it need not try");
            }
        }
    });
}

#[test]
fn a_packet_that_cannot_be_followed_keeps_the_flow_waiting() {
    with_fast_bed(|bed| {
        for slot in bed.first_slot()..bed.first_slot() + SLOTS_PER_CPU {
            let pending: Pending = UDP.ingress_pending(bed);
            bed.set_pending(slot, pending);
        }
        let mut entry = waiting(&TCP);
        (entry.entered, entry.left, entry.left_at) = (82, 82, now() + 1000 * MS);
        bed.set_ingress_flow(&TCP.peer_key(), entry);
        let tunnel = TCP.sent_by_peer().bytes();
        assert_eq!(bed.ingress(&tunnel), without_ticket(&tunnel));
        entry.entered = 0;
        assert_eq!(bed.ingress_flow(&TCP.peer_key()), Some(entry));
    });
}

/// It is not one that the pod receives, so the fast path cannot overtake it.
#[test]
fn a_packet_that_the_kernel_device_will_drop_keeps_nothing_waiting() {
    with_fast_bed(|bed| {
        let entry = waiting(&TCP);
        bed.set_ingress_flow(&TCP.peer_key(), entry);
        let mut inner = TCP.inside_tunnel();
        inner.ip.tos = 0;
        let mut tunnel = tunnelled(&NEAR, &inner);
        tunnel.ip.tos = 3;
        let tunnel = tunnel.bytes();
        assert_eq!(bed.ingress(&tunnel), accepted(&tunnel, &NEAR));
        assert_eq!(bed.ingress_flow(&TCP.peer_key()), Some(entry));
    });
}
