//! `underlay_ingress` and `vtep_ingress`: when a flow leaves the stack, and when it goes back. No packet may overtake one that
//! is still inside.

use overlay_common::flow::{
    FLOW_ACTIVE, FLOW_SHORTCUT, IngressFlow, RETRY_PATIENCE, Retry, SETTLE, SETTLE_SHORT, WARM_UP,
    WARM_UP_LIMIT,
};
use overlay_common::maps::{UNDERLAY_INGRESS, VTEP_INGRESS};

use crate::bed::memory::now;
use crate::bed::{Bed, Context, FAR, NEAR, Outcome, PASS, REDIRECT, addr};
use crate::flows::{Flow, KINDS, MS, TCP, UDP, changed, tunnelled, with_fast_bed};
use crate::frames::{HEADERS, accepted, peer_stats};

/// A flow that is leaving the stack.
#[derive(Clone, Copy)]
struct Waiting {
    /// Since when, in nanoseconds.
    since: u64,
    /// Its last packet came out of the stack this long ago, in nanoseconds; `None` if it is still inside.
    left: Option<u64>,
}

/// Within which of the limits a test has to be over, in nanoseconds from when it began.
struct Until(u64);

/// Whether a packet of the flow moves over, at both hooks.
fn moves(bed: &mut Bed, waiting: Waiting, until: &Until) -> bool {
    let one = |bed: &mut Bed, program, frame: &[u8], shortcut| {
        // A test that was held up has shown another case than it should have.
        for _ in 0..2000 {
            let start = now();
            let entry = changed(UDP.ingress_entry(), |entry| {
                entry.state = shortcut;
                entry.probed = start - waiting.since;
                (entry.entered, entry.left) = (82, 81);
                entry.left_at = start;
                if let Some(ago) = waiting.left {
                    (entry.left, entry.left_at) = (82, start - ago);
                }
            });
            bed.set_ingress_flow(&UDP.peer_key(), entry);
            let outcome = bed.run_uncounted(program, frame, Context::default());
            if now() - start < until.0 {
                assert!([PASS, REDIRECT].contains(&outcome.verdict));
                return outcome.verdict == REDIRECT;
            }
        }
        panic!("this machine is too busy to run a program within {} ns", until.0);
    };
    let tunnel = UDP.sent_by_peer().bytes();
    let inner = UDP.inside_tunnel().bytes();
    let moved = one(bed, UNDERLAY_INGRESS, &tunnel, 0);
    bed.set_shortcuts(1);
    assert_eq!(one(bed, VTEP_INGRESS, &inner, FLOW_SHORTCUT), moved);
    bed.set_shortcuts(0);
    moved
}

#[test]
fn a_flow_moves_over_once_its_last_packet_has_passed_the_pods_queue() {
    let any = Until(u64::MAX);
    let now_or_never = |since, left| Waiting { since, left };
    with_fast_bed(move |bed| {
        assert!(moves(bed, now_or_never(0, Some(SETTLE)), &any));
        let less = now_or_never(0, Some(SETTLE / 5));
        assert!(!moves(bed, less, &Until(SETTLE - SETTLE / 5)));
    });
}

/// Seen red without [`SETTLE_SHORT`] (it did not move), and without the comparison with it (it moved at once).
#[test]
fn a_flow_with_smaller_gaps_moves_over_after_a_while() {
    with_fast_bed(|bed| {
        let waiting = |since, left| Waiting {
            since,
            left: Some(left),
        };
        let settled = SETTLE_SHORT + SETTLE_SHORT / 5;
        assert!(moves(bed, waiting(WARM_UP, settled), &Until(SETTLE - settled)));
        assert!(!moves(bed, waiting(0, settled), &Until(SETTLE - settled)));
        let less = SETTLE_SHORT / 5;
        assert!(!moves(bed, waiting(WARM_UP, less), &Until(SETTLE_SHORT - less)));
    });
}

#[test]
fn a_flow_without_gaps_moves_over_at_last() {
    with_fast_bed(|bed| {
        for left in [None, Some(0)] {
            let waiting = |since| Waiting { since, left };
            assert!(moves(bed, waiting(WARM_UP_LIMIT), &Until(u64::MAX)));
        }
        // While it waits, a packet that is still inside is waited for.
        let waiting = Waiting {
            since: WARM_UP_LIMIT - 30 * MS,
            left: None,
        };
        assert!(!moves(bed, waiting, &Until(30 * MS)));
    });
}

/// None of its packets has come out: it may be that none ever will.
#[test]
fn a_flow_of_which_nothing_has_come_out_never_moves_over() {
    with_fast_bed(|bed| {
        let entry = changed(UDP.ingress_entry(), |entry| {
            (entry.state, entry.probed, entry.left_at) = (0, 0, 0);
            (entry.entered, entry.left) = (0, 0);
        });
        bed.set_ingress_flow(&UDP.peer_key(), entry);
        assert_eq!(bed.ingress(&UDP.sent_by_peer().bytes()).verdict, PASS);
    });
}

/// Should the entry be lost, the flow need not wait for as long as one that came to nothing.
#[test]
fn a_flow_that_has_moved_over_may_be_learned_again_at_once() {
    with_fast_bed(|bed| {
        for flow in KINDS {
            let key = flow.peer_key();
            let waiting = Retry {
                tag: key.tag(),
                count: RETRY_PATIENCE + 4,
                until: u64::MAX,
            };
            let at_once = Retry {
                count: RETRY_PATIENCE,
                until: 0,
                ..waiting
            };
            // A slot that another flow uses is left to it.
            let others = Retry {
                tag: key.tag() ^ 2,
                ..waiting
            };
            for (before, after) in [(waiting, at_once), (others, others)] {
                bed.set_retries(&key, [before, others]);
                let settled = changed(flow.ingress_entry(), |entry| {
                    entry.state &= !FLOW_ACTIVE;
                    (entry.entered, entry.left) = (82, 82);
                });
                bed.set_ingress_flow(&key, settled);
                let tunnel = flow.sent_by_peer().bytes();
                assert_eq!(bed.ingress(&tunnel).verdict, REDIRECT);
                assert_eq!(bed.retries(&key), [after, others]);
                bed.set_retries(&key, [before, others]);
                assert_eq!(bed.ingress(&tunnel).verdict, REDIRECT);
                assert_eq!(bed.retries(&key), [before, others], "once");
            }
        }
    });
}

const AGGREGATE: Context = Context {
    gso_size: 500,
    gso_segs: 2,
    mark: 0,
    priority: 0,
    ifindex: 0,
};

/// The outcome of an aggregate of two packets.
fn accepted_aggregate(tunnel: &[u8]) -> Outcome {
    Outcome {
        peers: peer_stats(NEAR.vtep, [0, 0, 2, (tunnel.len() - HEADERS) as u64]),
        ..accepted(tunnel, &NEAR)
    }
}

/// A pod's UDP socket cannot take apart what a program has decapsulated.
///
/// Seen red without `Way::Hold`, and with one that leaves the time since when the entry waits.
#[test]
fn an_aggregate_of_datagrams_sends_the_flow_back_into_the_stack() {
    with_fast_bed(|bed| {
        let (key, tunnel) = (UDP.peer_key(), UDP.sent_by_peer().bytes());
        let due = Retry {
            tag: key.tag(),
            count: RETRY_PATIENCE,
            until: 0,
        };
        bed.set_retry(&key, due);
        for state in [FLOW_ACTIVE, 0] {
            let entry = changed(UDP.ingress_entry(), |entry| {
                entry.state = state;
                (entry.entered, entry.left, entry.left_at) = (82, 82, 5);
            });
            bed.set_ingress_flow(&key, entry);
            let start = now();
            assert_eq!(bed.ingress_with(&tunnel, AGGREGATE), accepted_aggregate(&tunnel));
            let after = bed.ingress_flow(&key).expect("an entry");
            assert!((start..=now()).contains(&after.probed), "waits from now on");
            let expected = changed(entry, |entry| {
                entry.probed = after.probed;
                (entry.state, entry.entered) = (0, 0);
            });
            assert_eq!(after, expected);
            assert!(bed.memory().pending.is_empty());
            assert_eq!(bed.retry(&key), due);
            // The next one follows it.
            let next = bed.ingress(&tunnel);
            assert!(next.marked.is_some() && next.verdict == PASS);
            for slot in bed.memory().pending.into_keys() {
                bed.set_pending(slot, bytemuck::Zeroable::zeroed());
            }
        }
    });
}

/// What does not concern the entry does not change it.
#[test]
fn an_aggregate_that_is_not_the_entrys() {
    let with = |change: fn(&mut IngressFlow)| changed(UDP.ingress_entry(), change);
    with_fast_bed(move |bed| {
        let (key, tunnel) = (UDP.peer_key(), UDP.sent_by_peer().bytes());
        for entry in [
            with(|entry| entry.vtep = addr(FAR.vtep)),
            with(|entry| entry.state |= FLOW_SHORTCUT),
        ] {
            bed.set_ingress_flow(&key, entry);
            assert_eq!(bed.ingress_with(&tunnel, AGGREGATE), accepted_aggregate(&tunnel));
            assert_eq!(bed.ingress_flow(&key), Some(entry));
        }
        let mut inner = UDP.inside_tunnel();
        inner.eth.destination.0[5] ^= 1;
        let other = tunnelled(&NEAR, &inner).bytes();
        let entry = UDP.ingress_entry();
        bed.set_ingress_flow(&key, entry);
        assert_eq!(bed.ingress_with(&other, AGGREGATE), accepted_aggregate(&other));
        assert_eq!(bed.ingress_flow(&key), Some(entry));
        // TCP takes them.
        let flow: Flow = TCP;
        bed.set_ingress_flow(&flow.peer_key(), flow.ingress_entry());
        let before = bed.memory();
        let tunnel = flow.sent_by_peer().bytes();
        assert_eq!(bed.ingress_with(&tunnel, AGGREGATE), accepted_aggregate(&tunnel));
        assert_eq!(bed.memory(), before);
    });
}
