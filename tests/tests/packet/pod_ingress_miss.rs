//! `pod_ingress`: packets of flows without a usable entry: which of them get a ticket, and what it says.

use std::collections::HashMap;

use bytemuck::Zeroable;
use overlay_common::config::Config;
use overlay_common::flow::{
    EgressFlow, FLOW_ACTIVE, PENDING_HOLD, Pending, RETRY_DOUBLINGS, RETRY_FIRST_WAIT, RETRY_PATIENCE, Retry,
    ticket_check,
};
use overlay_common::reason::Reason;
use overlay_testbed::packet::{Layer4, PROTOCOL_TCP};

use crate::bed::memory::now;
use crate::bed::{Bed, Context, OTHER_POD, Outcome, PASS, REDIRECT, SLOTS_PER_CPU, ifindex, local_pod};
use crate::flows::{
    DEVICE_EPOCH, EPOCH, FOREIGN_MARK, Flow, KINDS, MS, REVALIDATE, TCP, UDP, changed, fast_config, mark,
    on_pod, with_fast_bed,
};
use crate::frames::{left_to_kernel, untouched};

/// The next packet of the flow without an entry gets a ticket.
fn due(bed: &mut Bed, flow: &Flow) -> Retry {
    let key = flow.pod_key();
    let retry = Retry {
        tag: key.tag(),
        count: RETRY_PATIENCE,
        until: 0,
    };
    bed.set_retry(&key, retry);
    retry
}

/// The packet was given the ticket of `slot`, beside the mark it had.
fn marked(frame: &[u8], slot: u32, mark_before: u32) -> Outcome {
    Outcome {
        marked: Some(mark(slot) | mark_before),
        ..left_to_kernel(frame, Reason::PodMarked)
    }
}

fn missed(frame: &[u8]) -> Outcome {
    left_to_kernel(frame, Reason::PodMiss)
}

/// The packet should have been followed, but there was no slot for it.
fn without_ticket(frame: &[u8]) -> Outcome {
    untouched(frame, PASS, &[Reason::PodMiss, Reason::NoTicket])
}

/// Asserts that the packet is not followed, and that this leaves no trace, not even in `RETRIES`.
fn assert_missed_for_good(bed: &mut Bed, flow: &Flow) {
    let retry = due(bed, flow);
    let before = bed.memory();
    let frame = flow.sent_by_pod().bytes();
    assert_eq!(bed.pod_ingress(&frame, on_pod()), missed(&frame));
    assert_eq!(bed.memory(), before);
    assert_eq!(bed.retry(&flow.pod_key()), retry);
}

#[test]
fn the_first_packets_of_a_flow_are_only_counted() {
    with_fast_bed(|bed| {
        let (key, frame) = (UDP.pod_key(), UDP.sent_by_pod().bytes());
        let mut retry = Retry {
            tag: key.tag(),
            count: 1,
            until: 7,
        };
        bed.set_retry(&key, retry);
        while retry.count < RETRY_PATIENCE {
            retry.count += 1;
            assert_eq!(bed.pod_ingress(&frame, on_pod()), missed(&frame));
            assert_eq!(bed.retry(&key), retry);
        }
        assert!(bed.memory().pending.is_empty());
        assert_eq!(
            bed.pod_ingress(&frame, on_pod()),
            marked(&frame, bed.first_slot(), 0)
        );
        assert_eq!(bed.retry(&key).count, RETRY_PATIENCE + 1);
    });
}

#[test]
fn each_further_try_waits_twice_as_long() {
    with_fast_bed(|bed| {
        let (key, frame) = (TCP.pod_key(), TCP.sent_by_pod().bytes());
        for tries in 0..=RETRY_DOUBLINGS + 2 {
            let doublings = tries.min(RETRY_DOUBLINGS);
            // What is stored stops at the longest wait.
            let retry = Retry {
                tag: key.tag(),
                count: RETRY_PATIENCE + doublings,
                until: 1,
            };
            bed.set_retry(&key, retry);
            let slot = bed.first_slot() + tries % SLOTS_PER_CPU;
            bed.set_pending(slot, Pending::zeroed());
            let start = now();
            assert_eq!(bed.pod_ingress(&frame, on_pod()), marked(&frame, slot, 0));
            let after = bed.retry(&key);
            let wait = RETRY_FIRST_WAIT << doublings;
            // The coarse clock is up to a tick behind.
            let (earliest, latest) = (start + wait - 10 * MS, now() + wait);
            assert!(
                (earliest..=latest).contains(&after.until),
                "try {tries}: {} ms",
                (after.until - start) / MS
            );
            let count = RETRY_PATIENCE + (doublings + 1).min(RETRY_DOUBLINGS);
            assert_eq!((after.tag, after.count), (key.tag(), count));

            let waiting = Retry {
                until: u64::MAX,
                ..after
            };
            bed.set_retry(&key, waiting);
            assert_eq!(bed.pod_ingress(&frame, on_pod()), missed(&frame));
            assert_eq!(bed.retry(&key), waiting);
        }
    });
}

/// Two flows that share a slot of `RETRIES` would otherwise start each other's count again for ever.
#[test]
fn of_flows_that_displace_others_some_try_at_once() {
    with_fast_bed(|bed| {
        let (mut tries, flows) = (0, 600);
        for port in 0..flows {
            let flow = Flow {
                pod: (UDP.pod.0, 10_000 + port),
                ..UDP
            };
            let (key, frame) = (flow.pod_key(), flow.sent_by_pod().bytes());
            let other = Retry {
                tag: key.tag() ^ 2,
                count: 9,
                until: u64::MAX,
            };
            bed.set_retries(&key, [other; 2]);
            let start = now();
            let outcome = bed.pod_ingress(&frame, on_pod());
            let retry = bed.retry(&key);
            assert_eq!(retry.tag, key.tag());
            let until = start + RETRY_FIRST_WAIT - 10 * MS..=now() + RETRY_FIRST_WAIT;
            assert!(until.contains(&retry.until));
            if outcome.marked.is_some() {
                tries += 1;
                assert_eq!(retry.count, RETRY_PATIENCE + 1);
                for slot in bed.memory().pending.into_keys() {
                    assert_eq!(outcome, marked(&frame, slot, 0));
                    bed.set_pending(slot, Pending::zeroed());
                }
            } else {
                assert_eq!(outcome, missed(&frame));
                assert_eq!(retry.count, 1);
                assert!(bed.memory().pending.is_empty());
            }
        }
        // One in 16 on average: 37 or 38, with a standard deviation of 6.
        assert!((8..=75).contains(&tries), "{tries} of {flows}");
    });
}

#[test]
fn of_the_two_flows_that_share_its_slots_the_one_that_tried_before_gives_way() {
    with_fast_bed(|bed| {
        let (key, frame) = (UDP.pod_key(), UDP.sent_by_pod().bytes());
        let others = |first, second| {
            [first, second].map(|until| Retry {
                tag: key.tag() ^ 2,
                count: 9,
                until,
            })
        };
        for (retries, taken) in [
            (others(1000, 2000), 0),
            (others(2000, 1000), 1),
            (others(1000, 1000), 0),
        ] {
            bed.set_retries(&key, retries);
            bed.pod_ingress(&frame, on_pod());
            let after = bed.retries(&key);
            assert_eq!(after[taken].tag, key.tag());
            assert_eq!(after[1 - taken], retries[1 - taken]);
        }
        // A flow keeps its slot, whichever it is.
        for mine in [0, 1] {
            let mut retries = others(0, 0);
            retries[mine] = Retry {
                tag: key.tag(),
                count: 1,
                until: u64::MAX,
            };
            bed.set_retries(&key, retries);
            assert_eq!(bed.pod_ingress(&frame, on_pod()), missed(&frame));
            retries[mine].count = 2;
            assert_eq!(bed.retries(&key), retries);
        }
    });
}

#[test]
fn a_ticket_says_what_the_packet_was() {
    with_fast_bed(|bed| {
        for (number, flow) in KINDS.into_iter().enumerate() {
            let slot = bed.first_slot() + u32::try_from(number).unwrap();
            due(bed, &flow);
            let frame = flow.sent_by_pod().bytes();
            let context = Context {
                mark: FOREIGN_MARK,
                ..on_pod()
            };
            let start = now();
            assert_eq!(
                bed.pod_ingress(&frame, context),
                marked(&frame, slot, FOREIGN_MARK)
            );
            let pending = bed.pending(slot);
            assert!((start..=now()).contains(&pending.entered));
            let mut expected = flow.egress_pending();
            expected.generation = 1;
            expected.entered = pending.entered;
            expected.vtep = Zeroable::zeroed();
            assert_eq!(pending, expected);
            let sequence = if flow.protocol == PROTOCOL_TCP {
                1000u32.to_be_bytes()
            } else {
                [0; 4]
            };
            assert_eq!(pending.sequence, sequence);
        }
        assert!(bed.memory().egress.is_empty(), "learned only where it comes out");
    });
}

#[test]
fn slots_are_used_in_turn_and_held() {
    with_fast_bed(|bed| {
        let first = bed.first_slot();
        let frame = TCP.sent_by_pod().bytes();
        for slot in first..first + SLOTS_PER_CPU {
            due(bed, &TCP);
            assert_eq!(bed.pod_ingress(&frame, on_pod()), marked(&frame, slot, 0));
        }
        // Held long enough for this test.
        let mut held = bed.pending(first);
        held.entered = now() + 60_000 * MS;
        bed.set_pending(first, held);
        for _ in 0..3 {
            due(bed, &TCP);
            let before = bed.memory();
            assert_eq!(bed.pod_ingress(&frame, on_pod()), without_ticket(&frame));
            assert_eq!(bed.memory(), before, "no other packet's slot is touched");
        }
        held.entered = now() - PENDING_HOLD;
        bed.set_pending(first, held);
        due(bed, &TCP);
        assert_eq!(bed.pod_ingress(&frame, on_pod()), marked(&frame, first, 0));
        assert_eq!(bed.pending(first).generation, 2);
    });
}

#[test]
fn a_generation_is_never_zero() {
    with_fast_bed(|bed| {
        let slot = bed.first_slot();
        let mut last = TCP.egress_pending();
        last.generation = u64::MAX;
        last.entered = 1;
        bed.set_pending(slot, last);
        due(bed, &TCP);
        let frame = TCP.sent_by_pod().bytes();
        assert_eq!(bed.pod_ingress(&frame, on_pod()), marked(&frame, slot, 0));
        assert_eq!(bed.pending(slot).generation, 1);
    });
}

/// What packets without a ticket have in `skb->tc_index`.
#[test]
fn a_ticket_with_a_check_of_zero_is_not_issued() {
    with_fast_bed(|bed| {
        let slot = bed.first_slot();
        let mut last = TCP.egress_pending();
        last.entered = 1;
        last.generation = (1..).find(|next| ticket_check(slot, *next) == 0).unwrap() - 1;
        bed.set_pending(slot, last);
        due(bed, &TCP);
        let frame = TCP.sent_by_pod().bytes();
        assert_eq!(bed.pod_ingress(&frame, on_pod()), marked(&frame, slot, 0));
        let generation = bed.pending(slot).generation;
        assert_eq!(generation, last.generation + 2);
        assert_eq!(ticket_check(slot, generation), 1);
    });
}

#[test]
fn a_slot_whose_number_does_not_fit_the_mark() {
    with_fast_bed(|bed| {
        // Numbers plus one up to 8 times the CPUs before this one fit; this CPU's first does not.
        let fits = bed.first_slot();
        bed.configure(Config {
            mark_mask: fits << 16,
            ..fast_config(bed)
        });
        let frame = TCP.sent_by_pod().bytes();
        due(bed, &TCP);
        assert_eq!(bed.pod_ingress(&frame, on_pod()), without_ticket(&frame));
        assert!(bed.memory().pending.is_empty());
    });
}

#[test]
fn a_slot_that_the_map_does_not_have() {
    with_fast_bed(|bed| {
        bed.configure(Config {
            slots_per_cpu: SLOTS_PER_CPU + 1,
            ..fast_config(bed)
        });
        let frame = TCP.sent_by_pod().bytes();
        let mut tickets = 0;
        for _ in 0..SLOTS_PER_CPU {
            due(bed, &TCP);
            if bed.pod_ingress(&frame, on_pod()).marked.is_some() {
                tickets += 1;
            }
        }
        assert_eq!(tickets, SLOTS_PER_CPU - bed.cpu, "as many as there are");
        due(bed, &TCP);
        assert_eq!(bed.pod_ingress(&frame, on_pod()), without_ticket(&frame));
    });
}

#[test]
fn mark_bits_that_somebody_else_uses() {
    with_fast_bed(|bed| {
        bed.set_egress_flow(&TCP.pod_key(), TCP.egress_entry());
        due(bed, &TCP);
        let before = bed.memory();
        let frame = TCP.sent_by_pod().bytes();
        for number in [0, 7, 100, 254] {
            let context = Context {
                mark: mark(number),
                ..on_pod()
            };
            assert_eq!(
                bed.pod_ingress(&frame, context),
                left_to_kernel(&frame, Reason::PodIneligible)
            );
        }
        assert_eq!(bed.memory(), before);
        let others = Context {
            mark: FOREIGN_MARK,
            ..on_pod()
        };
        assert_eq!(bed.pod_ingress(&frame, others).verdict, REDIRECT);
    });
}

#[test]
fn a_probe_goes_by() {
    with_fast_bed(|bed| {
        bed.set_egress_flow(&TCP.pod_key(), TCP.egress_entry());
        let slot = bed.first_slot() + 2;
        let mut pending = TCP.egress_pending();
        bed.set_ticket(slot, pending);
        let before = bed.memory();
        let context = Context {
            mark: mark(slot) | FOREIGN_MARK,
            ..on_pod()
        };
        let frame = TCP.sent_by_pod().bytes();
        assert_eq!(
            bed.pod_ingress(&frame, context),
            left_to_kernel(&frame, Reason::PodProbe)
        );
        // A SYN on the way through the stack ends nothing either: it was seen when it came from the pod.
        let mut syn = TCP.sent_by_pod();
        if let Layer4::Tcp(tcp) = &mut syn.layer4 {
            tcp.flags = 2;
        }
        let syn = syn.bytes();
        assert_eq!(
            bed.pod_ingress(&syn, context),
            left_to_kernel(&syn, Reason::PodProbe)
        );
        assert_eq!(bed.memory(), before);
        // The slot has been used again since: the mark is not that of this packet.
        pending.generation += 1;
        bed.set_ticket(slot, pending);
        assert_eq!(
            bed.pod_ingress(&frame, context),
            left_to_kernel(&frame, Reason::PodIneligible)
        );
    });
}

#[test]
fn entries_that_are_not_this_flows_or_this_times() {
    let changes: HashMap<&str, fn(&mut EgressFlow)> = HashMap::from([
        ("tag", (|entry| entry.tag ^= 2) as fn(&mut EgressFlow)),
        ("epoch", |entry| entry.epoch = entry.epoch.wrapping_add(1)),
        ("old epoch", |entry| entry.epoch = entry.epoch.wrapping_sub(1)),
        ("device epoch alone", |entry| entry.epoch = DEVICE_EPOCH),
        ("epoch alone", |entry| entry.epoch = EPOCH),
        ("age", |entry| entry.validated = now() - 3 * REVALIDATE - 20 * MS),
        ("great age", |entry| entry.validated = 0),
    ]);
    with_fast_bed(move |bed| {
        let mut names: Vec<_> = changes.keys().copied().collect();
        names.sort_unstable();
        for name in names {
            for flow in [UDP, TCP] {
                let mut entry = flow.egress_entry();
                changes[name](&mut entry);
                bed.set_egress_flow(&flow.pod_key(), entry);
                let slot = bed.first_slot();
                let frame = flow.sent_by_pod().bytes();
                due(bed, &flow);
                let outcome = bed.pod_ingress(&frame, on_pod());
                assert!(outcome.marked.is_some(), "{name}: {outcome:?}");
                for used in slot..slot + SLOTS_PER_CPU {
                    bed.set_pending(used, Pending::zeroed());
                }
                assert_eq!(bed.egress_flow(&flow.pod_key()), Some(entry), "{name}");
            }
        }
    });
}

#[test]
fn an_entry_whose_other_direction_is_not_known() {
    with_fast_bed(|bed| {
        for flow in KINDS {
            let entry = flow.egress_entry();
            bed.set_egress_flow(
                &flow.pod_key(),
                changed(entry, |entry| {
                    entry.state &= !FLOW_ACTIVE;
                }),
            );
            assert_missed_for_good(bed, &flow);
        }
    });
}

/// As if there were none: a pod that has moved, or one that sends from another's address, as its own packets go.
#[test]
fn an_entry_of_another_pod() {
    with_fast_bed(|bed| {
        let mut entry = UDP.egress_entry();
        entry.ifindex = ifindex(OTHER_POD);
        // Both devices have the same epoch, so that nothing else is wrong.
        bed.set_device_epoch(ifindex(OTHER_POD), DEVICE_EPOCH);
        bed.set_egress_flow(&UDP.pod_key(), entry);
        let frame = UDP.sent_by_pod().bytes();
        let retry = due(bed, &UDP);
        assert_eq!(
            bed.pod_ingress(&frame, on_pod()),
            marked(&frame, bed.first_slot(), 0)
        );
        assert_eq!(bed.retry(&UDP.pod_key()).count, retry.count + 1);
        assert_eq!(bed.pod_ingress(&frame, on_pod()), missed(&frame));
        assert_eq!(bed.egress_flow(&UDP.pod_key()), Some(entry), "the other pod's");
        let there = Context {
            ifindex: ifindex(OTHER_POD),
            ..Context::default()
        };
        assert_eq!(
            bed.pod_ingress(&frame, there).verdict,
            REDIRECT,
            "it is usable where it belongs"
        );
    });
}

#[test]
fn a_packet_between_pods_of_this_node() {
    with_fast_bed(|bed| {
        let flow = Flow {
            remote: (local_pod(9), 80),
            service: (local_pod(9), 80),
            ..TCP
        };
        assert_missed_for_good(bed, &flow);
    });
}
