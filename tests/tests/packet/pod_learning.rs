//! `pod_egress`: what it learns from packets that `underlay_ingress` has marked.

use overlay_common::config::{Config, FLAG_FASTPATH};
use overlay_common::flow::{
    ENDPOINT_FAST, ENDPOINT_SHORTCUT, EgressFlow, FLOW_ACTIVE, FLOW_SHORTCUT, IngressFlow, PENDING_EGRESS,
    PENDING_PROBE, Pending, RETRY_PATIENCE, Retry,
};
use overlay_common::reason::Reason;
use overlay_testbed::packet::PROTOCOL_TCP;

use crate::bed::{Bed, Context, DROP, FAR, NEAR, OTHER_POD, Outcome, PASS, addr, ifindex, local_pod};
use crate::flows::{
    DEVICE_EPOCH, FOREIGN_MARK, Flow, KINDS, TCP, TCP_SERVICE, UDP, UDP_SERVICE, changed, fast_config, mark,
    on_pod, with_fast_bed,
};
use crate::frames::untouched;

/// The slot that the tickets of these tests are of.
pub(crate) fn slot(bed: &Bed) -> u32 {
    bed.first_slot() + 5
}

fn context(slot: u32) -> Context {
    Context {
        mark: mark(slot) | FOREIGN_MARK,
        ..on_pod()
    }
}

/// Puts the slot into the map and lets the packet enter the pod.
pub(crate) fn enter(bed: &mut Bed, pending: Pending, frame: &[u8]) -> Outcome {
    let slot = slot(bed);
    bed.set_ticket(slot, pending);
    bed.pod_egress(frame, context(slot))
}

/// The packet goes on, its ticket is taken, and `reason` is counted.
pub(crate) fn passed(frame: &[u8], reason: Reason) -> Outcome {
    Outcome {
        marked: Some(FOREIGN_MARK),
        ..untouched(frame, PASS, &[reason])
    }
}

/// The copy ends here, and `reason` is counted besides.
pub(crate) fn absorbed(frame: &[u8], reason: Reason) -> Outcome {
    Outcome {
        marked: Some(FOREIGN_MARK),
        ..untouched(frame, DROP, &[reason, Reason::IngressProbe])
    }
}

fn inactive(flow: &Flow) -> EgressFlow {
    let entry = flow.egress_entry();
    changed(entry, |entry| {
        entry.state &= !FLOW_ACTIVE;
    })
}

/// What is learned of the flow from a packet that entered the stack as `pending` says.
fn learned(flow: &Flow, pending: &Pending) -> IngressFlow {
    let mut entry = flow.ingress_entry();
    entry.validated = pending.entered;
    entry.probed = pending.entered;
    entry.state &= !FLOW_ACTIVE;
    entry
}

pub(crate) fn assert_learned(bed: &mut Bed, flow: &Flow) -> IngressFlow {
    bed.forget_flows();
    let other = inactive(flow);
    bed.set_egress_flow(&flow.pod_key(), other);
    let (pending, frame) = (flow.ingress_pending(bed), flow.at_pod().bytes());
    assert_eq!(
        enter(bed, pending, &frame),
        passed(&frame, Reason::IngressLearned)
    );
    let entry = bed.ingress_flow(&flow.peer_key()).expect("an entry");
    assert_eq!(entry, learned(flow, &pending));
    let usable = changed(other, |entry| {
        entry.state = flow.egress_entry().state;
    });
    assert_eq!(
        bed.egress_flow(&flow.pod_key()),
        Some(usable),
        "both directions are known"
    );
    assert_eq!((bed.memory().ingress.len(), bed.memory().egress.len()), (1, 1));
    entry
}

/// The packet goes its way, and nothing is learned from it while the maps hold what `prepare` leaves in them.
fn assert_refused_with(
    bed: &mut Bed,
    flow: &Flow,
    pending: Pending,
    frame: &[u8],
    prepare: impl Fn(&mut Bed),
) {
    bed.forget_flows();
    bed.set_egress_flow(&flow.pod_key(), inactive(flow));
    prepare(bed);
    let before = bed.memory();
    assert_eq!(
        enter(bed, pending, frame),
        passed(frame, Reason::IngressNotLearned)
    );
    let after = bed.memory();
    assert_eq!((after.egress, after.ingress), (before.egress, before.ingress));
}

/// The packet is another one than what was noted: it goes its way, whoever's it is, and nothing is learned from it.
pub(crate) fn assert_another(bed: &mut Bed, flow: &Flow, pending: Pending, frame: &[u8]) {
    assert_refused_with(bed, flow, pending, frame, |_| {});
    let probe = changed(pending, |pending| pending.kind |= PENDING_PROBE);
    assert_refused_with(bed, flow, probe, frame, |_| {});
    assert_learned(bed, flow);
}

/// The packet goes its way, a copy ends here, and nothing is learned from it.
pub(crate) fn assert_refused(bed: &mut Bed, flow: &Flow, pending: Pending, frame: &[u8]) {
    assert_refused_with(bed, flow, pending, frame, |_| {});
    let before = bed.memory();
    let mut probe = pending;
    probe.kind |= PENDING_PROBE;
    assert_eq!(
        enter(bed, probe, frame),
        absorbed(frame, Reason::IngressNotLearned)
    );
    let after = bed.memory();
    assert_eq!((after.egress, after.ingress), (before.egress, before.ingress));
    // Nothing but what the test is about was wrong.
    assert_learned(bed, flow);
}

#[test]
fn every_field_of_an_entry() {
    with_fast_bed(|bed| {
        for flow in KINDS {
            assert_learned(bed, &flow);
        }
    });
}

/// Not before it is in use: what is learned may still come to nothing.
#[test]
fn an_entry_that_is_new_does_not_change_when_the_next_try_is() {
    with_fast_bed(|bed| {
        for flow in KINDS {
            let key = flow.peer_key();
            let retry = Retry {
                tag: key.tag(),
                count: RETRY_PATIENCE + 4,
                until: u64::MAX,
            };
            bed.set_retry(&key, retry);
            assert_learned(bed, &flow);
            assert_eq!(bed.retry(&key), retry);
        }
    });
}

#[test]
fn a_pod_in_shortcut_mode() {
    with_fast_bed(|bed| {
        bed.set_endpoint(ifindex(crate::bed::POD), Some(ENDPOINT_SHORTCUT));
        for flow in KINDS {
            bed.set_egress_flow(&flow.pod_key(), inactive(&flow));
            let (pending, frame) = (flow.ingress_pending(bed), flow.at_pod().bytes());
            assert_eq!(
                enter(bed, pending, &frame),
                passed(&frame, Reason::IngressLearned)
            );
            let mut expected = learned(&flow, &pending);
            expected.state |= FLOW_SHORTCUT;
            assert_eq!(bed.ingress_flow(&flow.peer_key()), Some(expected));
        }
    });
}

#[test]
fn a_probe_renews_the_entry_and_is_absorbed() {
    with_fast_bed(|bed| {
        for flow in KINDS {
            let mut entry = assert_learned(bed, &flow);
            entry.state |= FLOW_ACTIVE;
            (entry.validated, entry.probed) = (17, 18);
            bed.set_ingress_flow(&flow.peer_key(), entry);
            let mut pending = flow.ingress_pending(bed);
            pending.kind |= PENDING_PROBE;
            let frame = flow.at_pod().bytes();
            assert_eq!(
                enter(bed, pending, &frame),
                absorbed(&frame, Reason::IngressLearned)
            );
            entry.validated = pending.entered;
            assert_eq!(bed.ingress_flow(&flow.peer_key()), Some(entry));
        }
    });
}

#[test]
fn a_probe_that_came_out_differently_replaces_the_entry() {
    let changes: [fn(&mut IngressFlow); 9] = [
        |entry| entry.epoch = entry.epoch.wrapping_add(1),
        |entry| entry.state ^= FLOW_SHORTCUT,
        |entry| entry.ifindex = ifindex(OTHER_POD),
        |entry| entry.stats += 1,
        |entry| entry.vtep = addr(FAR.vtep),
        |entry| entry.src = addr(FAR.pod(1)),
        |entry| entry.src_port = [1; 2],
        |entry| entry.dst_mac = [1; 6],
        |entry| entry.src_mac = [1; 6],
    ];
    with_fast_bed(move |bed| {
        for change in changes {
            let mut old = assert_learned(bed, &TCP_SERVICE);
            old.state |= FLOW_ACTIVE;
            (old.entered, old.left, old.left_at) = (5, 5, 5);
            change(&mut old);
            bed.set_ingress_flow(&TCP_SERVICE.peer_key(), old);
            let mut pending = TCP_SERVICE.ingress_pending(bed);
            pending.kind |= PENDING_PROBE;
            let frame = TCP_SERVICE.at_pod().bytes();
            assert_eq!(
                enter(bed, pending, &frame),
                absorbed(&frame, Reason::IngressLearned)
            );
            assert_eq!(
                bed.ingress_flow(&TCP_SERVICE.peer_key()),
                Some(learned(&TCP_SERVICE, &pending)),
                "instead of {old:?}"
            );
        }
    });
}

#[test]
fn a_destination_that_nat_has_changed() {
    with_fast_bed(|bed| {
        for flow in [UDP, TCP_SERVICE] {
            for pod in [(local_pod(6), flow.pod.1), (flow.pod.0, flow.pod.1 + 1)] {
                let changed = Flow { pod, ..flow };
                // The other direction is known, so that nothing else is missing.
                let prepare = |bed: &mut Bed| bed.set_egress_flow(&changed.pod_key(), inactive(&changed));
                let pending = flow.ingress_pending(bed);
                assert_refused_with(bed, &flow, pending, &changed.at_pod().bytes(), prepare);
                let mut probe = pending;
                probe.kind |= PENDING_PROBE;
                assert_refused_with(bed, &flow, probe, &changed.at_pod().bytes(), prepare);
            }
        }
    });
}

/// Somebody has cleared `tc_index`, or a mark is left from the slot's last use. A copy must not reach the pod; any other
/// packet must.
#[test]
fn a_ticket_that_may_be_a_probes_does_not_fit() {
    with_fast_bed(|bed| {
        let frame = TCP.at_pod().bytes();
        bed.set_egress_flow(&TCP.pod_key(), inactive(&TCP));
        let probe = changed(TCP.ingress_pending(bed), |pending| {
            pending.kind |= PENDING_PROBE;
            pending.generation += 1;
        });
        let not_learned = [Reason::UnknownTicket, Reason::IngressNotLearned];
        let absorbed = [&not_learned[..], &[Reason::IngressProbe]].concat();
        assert_eq!(enter(bed, probe, &frame), untouched(&frame, DROP, &absorbed));
        let another = changed(probe, |pending| pending.sequence[2] ^= 1);
        assert_eq!(enter(bed, another, &frame), untouched(&frame, PASS, &not_learned));
        assert!(bed.memory().ingress.is_empty());
    });
}

#[test]
fn a_peer_that_the_agent_does_not_know() {
    with_fast_bed(|bed| {
        bed.remove_peer(&NEAR);
        let pending = UDP.ingress_pending(bed);
        assert_refused_with(bed, &UDP, pending, &UDP.at_pod().bytes(), |_| {});
    });
}

#[test]
fn a_device_that_the_agent_does_not_know() {
    with_fast_bed(|bed| {
        let pod = ifindex(crate::bed::POD);
        bed.set_endpoint(pod, None);
        let pending = UDP.ingress_pending(bed);
        assert_refused_with(bed, &UDP, pending, &UDP.at_pod().bytes(), |_| {});
        bed.set_endpoint(pod, Some(ENDPOINT_FAST));
        assert_learned(bed, &UDP);
    });
}

/// What the pod sends in this flow must have been learned, from the same device and the same MAC address.
#[test]
fn the_other_direction_is_not_known_or_another_pods() {
    let changes: [fn(&mut EgressFlow); 8] = [
        // Its packets go elsewhere, so these are no answers to them.
        |entry| entry.dst = addr(FAR.pod(1)),
        |entry| entry.dst_port[1] ^= 1,
        |entry| entry.tag ^= 2,
        |entry| entry.epoch = entry.epoch.wrapping_add(1),
        |entry| entry.ifindex = ifindex(OTHER_POD),
        |entry| entry.ifindex = 0,
        |entry| entry.pod_mac[0] ^= 4,
        |entry| entry.pod_mac[5] ^= 1,
    ];
    with_fast_bed(move |bed| {
        for flow in KINDS {
            let (pending, frame) = (flow.ingress_pending(bed), flow.at_pod().bytes());
            assert_refused_with(bed, &flow, pending, &frame, Bed::forget_flows);
            for change in changes {
                let mut entry = inactive(&flow);
                change(&mut entry);
                assert_refused_with(bed, &flow, pending, &frame, |bed| {
                    bed.set_egress_flow(&flow.pod_key(), entry);
                });
            }
            assert_learned(bed, &flow);
        }
        // A bridge that does not know the pod's port floods the packet to all.
        bed.set_endpoint(ifindex(OTHER_POD), Some(ENDPOINT_FAST));
        bed.set_device_epoch(ifindex(OTHER_POD), DEVICE_EPOCH);
        bed.forget_flows();
        bed.set_egress_flow(&UDP.pod_key(), inactive(&UDP));
        let (pending, frame) = (UDP.ingress_pending(bed), UDP.at_pod().bytes());
        let before = bed.memory();
        bed.set_ticket(slot(bed), pending);
        let elsewhere = Context {
            ifindex: ifindex(OTHER_POD),
            ..context(slot(bed))
        };
        assert_eq!(
            bed.pod_egress(&frame, elsewhere),
            passed(&frame, Reason::IngressNotLearned)
        );
        assert_eq!(bed.memory().ingress, before.ingress);
        assert_eq!(bed.memory().egress, before.egress);
    });
}

/// A packet from a pod of this node to another one: what `vtep_egress` would have learned, it cannot.
#[test]
fn a_packet_that_never_leaves_the_node() {
    with_fast_bed(|bed| {
        // A service that has got an endpoint on this node.
        let here = Flow {
            remote: (local_pod(6), 53),
            ..UDP_SERVICE
        };
        let (mut pending, frame) = (here.egress_pending(), here.at_vtep().bytes());
        assert_eq!(pending.kind, PENDING_EGRESS);
        assert_refused_with(bed, &UDP, pending, &frame, |bed| {
            bed.set_egress_flow(&here.pod_key(), UDP_SERVICE.egress_entry());
            // What the fast path would ask for is all there.
            bed.set_egress_flow(&here.peer_key(), UDP.egress_entry());
        });
        bed.set_egress_flow(&TCP.pod_key(), TCP.egress_entry());
        let mut expected = bed.memory();
        pending.kind |= PENDING_PROBE;
        let changes: [fn(&mut Pending); 4] = [
            |pending| pending.total_len[1] ^= 1,
            |pending| pending.key.src = addr(local_pod(7)),
            |pending| pending.key.src_port[1] ^= 1,
            |pending| pending.key.protocol = PROTOCOL_TCP,
        ];
        for change in changes {
            assert_eq!(
                enter(bed, changed(pending, change), &frame),
                passed(&frame, Reason::IngressNotLearned),
                "not the packet that was noted"
            );
            let after = bed.memory();
            assert_eq!(after.egress, expected.egress);
        }
        assert_eq!(
            enter(bed, pending, &frame),
            absorbed(&frame, Reason::IngressNotLearned)
        );
        expected.egress.remove(&here.pod_key()).expect("it was there");
        let after = bed.memory();
        assert_eq!(
            (after.egress, after.ingress),
            (expected.egress, expected.ingress),
            "what it proved is that the entry is wrong"
        );
    });
}

/// The packet's mark is somebody else's, or its slot has been used again: it is no ticket, and stays as it is.
#[test]
fn a_mark_that_is_no_ticket() {
    with_fast_bed(|bed| {
        let frame = TCP.at_pod().bytes();
        bed.set_egress_flow(&TCP.pod_key(), inactive(&TCP));
        let good = TCP.ingress_pending(bed);
        let (mut reused, mut being_written) = (good, good);
        reused.generation += 1;
        being_written.generation = 0;
        for (pending, number) in [(reused, slot(bed)), (being_written, slot(bed)), (good, 200)] {
            bed.set_ticket(slot(bed), pending);
            let before = bed.memory();
            assert_eq!(
                bed.pod_egress(&frame, context(number)),
                untouched(&frame, PASS, &[Reason::UnknownTicket])
            );
            assert_eq!(bed.memory(), before);
        }
        let unmarked = Context {
            mark: FOREIGN_MARK,
            ..on_pod()
        };
        assert_eq!(bed.pod_egress(&frame, unmarked), untouched(&frame, PASS, &[]));
    });
}

#[test]
fn nothing_is_learned_and_no_mark_is_touched_while_the_fast_path_is_off() {
    with_fast_bed(|bed| {
        let config = fast_config(bed);
        bed.configure(Config {
            flags: config.flags & !FLAG_FASTPATH,
            ..config
        });
        bed.set_egress_flow(&UDP.pod_key(), inactive(&UDP));
        let (pending, frame) = (UDP.ingress_pending(bed), UDP.at_pod().bytes());
        assert_eq!(enter(bed, pending, &frame), untouched(&frame, PASS, &[]));
        assert!(bed.memory().ingress.is_empty());
    });
}
