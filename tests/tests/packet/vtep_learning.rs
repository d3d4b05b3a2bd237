//! `vtep_egress`: what it learns from packets that `pod_ingress` has marked.

use std::collections::BTreeMap;

use overlay_common::config::{Config, FLAG_GBP};
use overlay_common::flow::{EgressFlow, FLOW_ACTIVE, FlowKey, PENDING_PROBE, Pending, RETRY_PATIENCE, Retry};
use overlay_common::reason::Reason;
use overlay_testbed::packet::PROTOCOL_TCP;

use crate::bed::{Bed, Context, DROP, FAR, NEAR, OTHER_POD, Outcome, REDIRECT, VTEP_MAC, addr, ifindex};
use crate::flows::{
    ENTRY_EPOCH, FOREIGN_MARK, Flow, KINDS, TCP, TCP_SERVICE, UDP, changed, fast_config, mark, with_fast_bed,
};
use crate::frames::{ETH, encapsulated, peer_stats};

/// The mark of a packet with the ticket of `slot`, beside other people's bits.
fn ticket(slot: u32) -> Context {
    Context {
        mark: mark(slot) | FOREIGN_MARK,
        ..Context::default()
    }
}

/// Puts the slot into the map and lets the packet leave by the VTEP device.
fn leave(bed: &mut Bed, pending: Pending, frame: &[u8]) -> Outcome {
    let slot = bed.first_slot() + 3;
    bed.set_ticket(slot, pending);
    bed.egress(frame, ticket(slot))
}

/// The packet is encapsulated for the flow's peer, its ticket is taken, and `reason` is counted besides.
fn sent(flow: &Flow, inner: &[u8], outcome: &Outcome, reason: Reason) -> Outcome {
    Outcome {
        verdict: REDIRECT,
        bytes: encapsulated(inner, &flow.peer, &outcome.bytes, 0),
        marked: Some(FOREIGN_MARK),
        priority: None,
        counters: BTreeMap::from([
            ("encapsulated", (1, inner.len() as u64)),
            (reason.label(), (1, inner.len() as u64)),
        ]),
        peers: peer_stats(flow.peer.vtep, [1, (inner.len() - ETH) as u64, 0, 0]),
    }
}

/// The copy ends here, and `reason` is counted besides.
fn absorbed(frame: &[u8], reason: Reason) -> Outcome {
    Outcome {
        verdict: DROP,
        bytes: frame.to_vec(),
        marked: Some(FOREIGN_MARK),
        priority: None,
        counters: BTreeMap::from([
            (Reason::EgressProbe.label(), (1, frame.len() as u64)),
            (reason.label(), (1, frame.len() as u64)),
        ]),
        peers: BTreeMap::new(),
    }
}

/// What is learned of the flow from a packet that entered the stack as `pending` says and left with these outer headers.
fn learned(flow: &Flow, pending: &Pending, outer: &[u8]) -> EgressFlow {
    changed(flow.egress_entry(), |entry| {
        entry.validated = pending.entered;
        entry.probed = pending.entered;
        entry.state = flow.egress_entry().state & !FLOW_ACTIVE;
        entry.source_port = [outer[34], outer[35]];
        entry.mark = FOREIGN_MARK;
    })
}

fn assert_learned(bed: &mut Bed, flow: &Flow) -> EgressFlow {
    let (pending, frame) = (flow.egress_pending(), flow.at_vtep().bytes());
    let outcome = leave(bed, pending, &frame);
    assert_eq!(outcome, sent(flow, &frame, &outcome, Reason::EgressLearned));
    let entry = bed.egress_flow(&flow.pod_key()).expect("an entry");
    assert_eq!(entry, learned(flow, &pending, &outcome.bytes));
    entry
}

/// The packet is another one than what was noted: it goes its way, whoever's it is, and nothing is learned from it.
pub(crate) fn assert_another(bed: &mut Bed, flow: &Flow, pending: Pending, frame: &[u8]) {
    bed.forget_flows();
    for kind in [pending.kind, pending.kind | PENDING_PROBE] {
        let outcome = leave(bed, changed(pending, |pending| pending.kind = kind), frame);
        assert_eq!(outcome, sent(flow, frame, &outcome, Reason::EgressNotLearned));
        assert!(bed.memory().egress.is_empty() && bed.memory().ingress.is_empty());
    }
    assert_learned(bed, flow);
}

/// The packet goes its way, a copy ends here, and nothing is learned from it.
pub(crate) fn assert_refused(bed: &mut Bed, flow: &Flow, pending: Pending, frame: &[u8]) {
    bed.forget_flows();
    let outcome = leave(bed, pending, frame);
    assert_eq!(outcome, sent(flow, frame, &outcome, Reason::EgressNotLearned));
    assert!(bed.memory().egress.is_empty() && bed.memory().ingress.is_empty());
    let mut probe = pending;
    probe.kind |= PENDING_PROBE;
    assert_eq!(
        leave(bed, probe, frame),
        absorbed(frame, Reason::EgressNotLearned)
    );
    assert!(bed.memory().egress.is_empty() && bed.memory().ingress.is_empty());
    // Nothing but the flow's own packet was wrong with it.
    assert_learned(bed, flow);
}

#[test]
fn every_field_of_an_entry() {
    with_fast_bed(|bed| {
        for flow in KINDS {
            assert_learned(bed, &flow);
        }
        assert_eq!(bed.memory().egress.len(), KINDS.len());
        assert!(bed.memory().ingress.is_empty());
    });
}

/// Until the answers are known, too, and by the same way, the entry is not used.
#[test]
fn the_entry_is_active_once_the_answers_are_known() {
    with_fast_bed(|bed| {
        for flow in KINDS {
            let key = flow.pod_key();
            let waiting_for = |key: FlowKey| Retry {
                tag: key.tag(),
                count: RETRY_PATIENCE + 3,
                until: u64::MAX,
            };
            let at_once = |key: FlowKey| Retry {
                count: RETRY_PATIENCE,
                until: 0,
                ..waiting_for(key)
            };
            let other_key = flow.peer_key();
            let answers = flow.ingress_entry();
            let with = |change: fn(&mut overlay_common::flow::IngressFlow)| {
                let mut answers = answers;
                change(&mut answers);
                answers
            };
            for other in [
                with(|answers| answers.epoch = ENTRY_EPOCH + 1),
                with(|answers| answers.ifindex = ifindex(OTHER_POD)),
                with(|answers| answers.src = addr(FAR.pod(1))),
                with(|answers| answers.src_port = [9, 9]),
                with(|answers| answers.tag ^= 2),
            ] {
                bed.forget_flows();
                bed.set_ingress_flow(&flow.peer_key(), other);
                bed.set_retry(&key, waiting_for(key));
                bed.set_retry(&other_key, waiting_for(other_key));
                assert_learned(bed, &flow);
                assert_eq!(bed.retry(&key), waiting_for(key), "it may still come to nothing");
                assert_eq!(
                    bed.retry(&other_key),
                    at_once(other_key),
                    "now the answers can be learned"
                );
            }
            bed.set_ingress_flow(&flow.peer_key(), answers);
            bed.set_retry(&other_key, waiting_for(other_key));
            let (pending, frame) = (flow.egress_pending(), flow.at_vtep().bytes());
            let outcome = leave(bed, pending, &frame);
            let entry = bed.egress_flow(&key).expect("an entry");
            assert_eq!(
                entry.state,
                flow.egress_entry().state,
                "active, and with NAT where there is"
            );
            assert_eq!(outcome, sent(&flow, &frame, &outcome, Reason::EgressLearned));
            assert_eq!(bed.retry(&key), at_once(key), "should the entry be lost");
            assert_eq!(bed.retry(&other_key), waiting_for(other_key));
        }
    });
}

#[test]
fn a_probe_renews_the_entry_and_is_absorbed() {
    with_fast_bed(|bed| {
        for flow in KINDS {
            let key = flow.pod_key();
            let entry = assert_learned(bed, &flow);
            let old = changed(entry, |entry| {
                entry.validated = 17;
                entry.probed = 18;
            });
            bed.set_egress_flow(&key, old);
            bed.set_ingress_flow(&flow.peer_key(), flow.ingress_entry());
            let mut pending = flow.egress_pending();
            pending.kind |= PENDING_PROBE;
            let frame = flow.at_vtep().bytes();
            assert_eq!(
                leave(bed, pending, &frame),
                absorbed(&frame, Reason::EgressLearned)
            );
            let renewed = changed(old, |entry| {
                entry.validated = pending.entered;
                entry.state = flow.egress_entry().state;
            });
            assert_eq!(bed.egress_flow(&key), Some(renewed));
        }
    });
}

#[test]
fn a_probe_that_took_another_way_replaces_the_entry() {
    with_fast_bed(|bed| {
        let flow = TCP_SERVICE;
        let key = flow.pod_key();
        let entry = assert_learned(bed, &flow);
        let mut pending = flow.egress_pending();
        pending.kind |= PENDING_PROBE;
        let frame = flow.at_vtep().bytes();
        for old in [
            changed(entry, |entry| {
                entry.epoch = 1;
            }),
            changed(entry, |entry| {
                entry.ifindex = 1;
            }),
            changed(entry, |entry| {
                entry.stats = 1;
            }),
            changed(entry, |entry| {
                entry.mark = 0;
            }),
            changed(entry, |entry| {
                entry.vtep = addr(FAR.vtep);
            }),
            changed(entry, |entry| {
                entry.dst = addr(FAR.pod(3));
            }),
            changed(entry, |entry| {
                entry.vtep_mac = FAR.mac;
            }),
            changed(entry, |entry| {
                entry.pod_mac = [1; 6];
            }),
            changed(entry, |entry| {
                entry.dst_port = [1; 2];
            }),
            changed(entry, |entry| {
                entry.source_port = [1; 2];
            }),
        ] {
            bed.set_egress_flow(
                &key,
                changed(old, |entry| {
                    entry.probed = 18;
                }),
            );
            assert_eq!(
                leave(bed, pending, &frame),
                absorbed(&frame, Reason::EgressLearned)
            );
            let expected = changed(entry, |entry| {
                entry.validated = pending.entered;
                entry.probed = pending.entered;
            });
            assert_eq!(bed.egress_flow(&key), Some(expected), "instead of {old:?}");
        }
    });
}

#[test]
fn a_source_that_nat_has_changed() {
    with_fast_bed(|bed| {
        for flow in [UDP, TCP_SERVICE] {
            let address = Flow {
                pod: (crate::bed::VTEP, flow.pod.1),
                ..flow
            };
            assert_another(bed, &flow, flow.egress_pending(), &address.at_vtep().bytes());
            let port = Flow {
                pod: (flow.pod.0, flow.pod.1 + 1),
                ..flow
            };
            assert_another(bed, &flow, flow.egress_pending(), &port.at_vtep().bytes());
        }
    });
}

#[test]
fn a_device_that_the_agent_does_not_know() {
    with_fast_bed(|bed| {
        let mut pending = UDP.egress_pending();
        pending.ifindex = ifindex(OTHER_POD);
        assert_refused(bed, &UDP, pending, &UDP.at_vtep().bytes());
    });
}

#[test]
fn a_peer_that_the_agent_does_not_know() {
    with_fast_bed(|bed| {
        bed.remove_peer(&NEAR);
        let (pending, frame) = (UDP.egress_pending(), UDP.at_vtep().bytes());
        let outcome = leave(bed, pending, &frame);
        let expected = Outcome {
            peers: BTreeMap::new(),
            ..sent(&UDP, &frame, &outcome, Reason::EgressNotLearned)
        };
        assert_eq!(outcome, expected);
        assert!(bed.memory().egress.is_empty());
    });
}

/// The packet's mark is somebody else's, or its slot has been used again: it is no ticket, and stays as it is.
#[test]
fn a_mark_that_is_no_ticket() {
    with_fast_bed(|bed| {
        let slot = bed.first_slot() + 3;
        let frame = TCP.at_vtep().bytes();
        let mut reused = TCP.egress_pending();
        reused.generation += 1;
        let mut being_written = TCP.egress_pending();
        being_written.generation = 0;
        for (pending, slot) in [(reused, slot), (being_written, slot), (TCP.egress_pending(), 200)] {
            bed.set_ticket(bed.first_slot() + 3, pending);
            let outcome = bed.egress(&frame, ticket(slot));
            let expected = Outcome {
                marked: None,
                counters: BTreeMap::from([
                    ("encapsulated", (1, frame.len() as u64)),
                    ("unknown_ticket", (1, frame.len() as u64)),
                ]),
                ..sent(&TCP, &frame, &outcome, Reason::EgressLearned)
            };
            assert_eq!(outcome, expected);
            assert!(bed.memory().egress.is_empty());
        }
    });
}

/// Somebody has cleared `tc_index`, or a mark is left from the slot's last use. A copy must not reach anybody a second time;
/// any other packet must.
#[test]
fn a_ticket_that_may_be_a_probes_does_not_fit() {
    with_fast_bed(|bed| {
        let frame = TCP.at_vtep().bytes();
        let probe = changed(TCP.egress_pending(), |pending| {
            pending.kind |= PENDING_PROBE;
            pending.generation += 1;
        });
        let mut expected = Outcome {
            marked: None,
            ..absorbed(&frame, Reason::EgressNotLearned)
        };
        let unknown = (Reason::UnknownTicket.label(), (1, frame.len() as u64));
        expected.counters.extend([unknown]);
        assert_eq!(leave(bed, probe, &frame), expected);

        let another = changed(probe, |pending| pending.sequence[2] ^= 1);
        let outcome = leave(bed, another, &frame);
        let mut expected = Outcome {
            marked: None,
            ..sent(&TCP, &frame, &outcome, Reason::EgressNotLearned)
        };
        expected.counters.extend([unknown]);
        assert_eq!(outcome, expected);
        assert!(bed.memory().egress.is_empty());
    });
}

/// The ticket is good, but the packet is not one that was encapsulated.
#[test]
fn a_packet_that_the_kernel_device_has_to_take() {
    with_fast_bed(|bed| {
        let elsewhere = Flow {
            remote: ([10, 244, 99, 1].into(), 5353),
            ..UDP
        };
        let other_device = {
            let mut frame = UDP.at_vtep();
            frame.eth.destination.0 = FAR.mac;
            frame
        };
        for (frame, reason) in [
            (elsewhere.at_vtep(), Reason::NoSubnet),
            (other_device, Reason::OtherNextHop),
        ] {
            let frame = frame.bytes();
            let expected = Outcome {
                verdict: crate::bed::PASS,
                counters: [reason, Reason::EgressNotLearned]
                    .map(|reason| (reason.label(), (1, frame.len() as u64)))
                    .into(),
                ..absorbed(&frame, reason)
            };
            assert_eq!(leave(bed, UDP.egress_pending(), &frame), expected);
            let mut probe = UDP.egress_pending();
            probe.kind |= PENDING_PROBE;
            assert_eq!(
                leave(bed, probe, &frame),
                absorbed(&frame, Reason::EgressNotLearned)
            );
            assert!(bed.memory().egress.is_empty());
        }
    });
}

/// Group Based Policy: the ticket is not a mark of the packet's.
#[test]
fn a_ticket_is_taken_before_the_mark_is_looked_at() {
    with_fast_bed(|bed| {
        let config = fast_config(bed);
        bed.configure(Config {
            flags: config.flags | FLAG_GBP,
            ..config
        });
        let slot = bed.first_slot();
        bed.set_ticket(slot, UDP.egress_pending());
        let frame = UDP.at_vtep().bytes();
        let context = Context {
            mark: mark(slot),
            ..Context::default()
        };
        let outcome = bed.egress(&frame, context);
        let expected = Outcome {
            marked: Some(0),
            ..sent(&UDP, &frame, &outcome, Reason::EgressLearned)
        };
        assert_eq!(outcome, expected);
    });
}

/// A packet out of the tunnel that the stack routes back into it: its flow is not one of a pod of this node.
#[test]
fn a_packet_from_a_peer_that_is_on_its_way_to_another_one() {
    with_fast_bed(|bed| {
        // Its subnet was this node's when the flow was learned.
        let flow = Flow {
            pod: (FAR.pod(5), UDP.pod.1),
            ..UDP
        };
        let to_far = Flow { peer: FAR, ..flow };
        let mut frame = flow.at_pod();
        (frame.eth.source.0, frame.eth.destination.0) = (VTEP_MAC, FAR.mac);
        let frame = frame.bytes();
        let mut pending = flow.ingress_pending(bed);
        bed.set_ingress_flow(&flow.peer_key(), flow.ingress_entry());
        let outcome = leave(bed, pending, &frame);
        assert_eq!(outcome, sent(&to_far, &frame, &outcome, Reason::EgressNotLearned));
        assert_eq!(bed.memory().ingress.len(), 1);

        pending.kind |= PENDING_PROBE;
        let changes: [fn(&mut Pending); 4] = [
            |pending| pending.total_len[1] ^= 1,
            |pending| pending.key.dst = addr(FAR.pod(6)),
            |pending| pending.key.dst_port[1] ^= 1,
            |pending| pending.key.protocol = PROTOCOL_TCP,
        ];
        for change in changes {
            let outcome = leave(bed, changed(pending, change), &frame);
            let another = sent(&to_far, &frame, &outcome, Reason::EgressNotLearned);
            assert_eq!(outcome, another, "not the packet that was noted");
            assert_eq!(bed.memory().ingress.len(), 1);
        }
        // What NAT may change on the way out of the tunnel.
        pending.key.src = addr(NEAR.pod(99));
        pending.key.src_port = [1; 2];
        bed.set_ingress_flow(&pending.key, flow.ingress_entry());
        assert_eq!(
            leave(bed, pending, &frame),
            absorbed(&frame, Reason::EgressNotLearned)
        );
        assert_eq!(
            bed.ingress_flow(&pending.key),
            None,
            "what it proved is that the entry is wrong"
        );
        assert!(bed.ingress_flow(&flow.peer_key()).is_some());
        assert!(bed.memory().egress.is_empty());
    });
}

#[test]
fn nothing_is_learned_and_no_mark_is_touched_while_the_fast_path_is_off() {
    with_fast_bed(|bed| {
        let config = bed.default_config();
        bed.configure(Config {
            flags: config.flags,
            ..fast_config(bed)
        });
        let frame = UDP.at_vtep().bytes();
        let outcome = leave(bed, UDP.egress_pending(), &frame);
        let expected = Outcome {
            marked: None,
            counters: BTreeMap::from([("encapsulated", (1, frame.len() as u64))]),
            ..sent(&UDP, &frame, &outcome, Reason::EgressLearned)
        };
        assert_eq!(outcome, expected);
        assert!(bed.memory().egress.is_empty());
    });
}
