//! Packets whose ticket teaches nothing, where the stack sends them into the tunnel (`vtep_egress`) and where it hands
//! them to a pod (`pod_egress`).

use overlay_common::flow::{PENDING_MAX_AGE, Pending};
use overlay_testbed::packet::{Frame, Ipv4};

use crate::bed::Bed;
use crate::bed::memory::now;
use crate::flows::{Flow, TCP, UDP, changed, with_fast_bed};
use crate::{pod_learning, vtep_learning};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    IntoTunnel,
    IntoPod,
}

impl Way {
    fn pending(self, bed: &Bed, flow: &Flow) -> Pending {
        match self {
            Self::IntoTunnel => flow.egress_pending(),
            Self::IntoPod => flow.ingress_pending(bed),
        }
    }

    fn frame(self, flow: &Flow) -> Frame {
        match self {
            Self::IntoTunnel => flow.at_vtep(),
            Self::IntoPod => flow.at_pod(),
        }
    }

    /// It is the packet of the ticket, and teaches nothing.
    fn assert_refused(self, bed: &mut Bed, flow: &Flow, pending: Pending) {
        let frame = self.frame(flow).bytes();
        match self {
            Self::IntoTunnel => vtep_learning::assert_refused(bed, flow, pending, &frame),
            Self::IntoPod => pod_learning::assert_refused(bed, flow, pending, &frame),
        }
    }

    /// It is another packet than that of the ticket.
    fn assert_another(self, bed: &mut Bed, flow: &Flow, pending: Pending, frame: &[u8]) {
        match self {
            Self::IntoTunnel => vtep_learning::assert_another(bed, flow, pending, frame),
            Self::IntoPod => pod_learning::assert_another(bed, flow, pending, frame),
        }
    }
}

fn each(test: impl Fn(&mut Bed, Way, &Flow) + Send + 'static) {
    with_fast_bed(move |bed| {
        for way in [Way::IntoTunnel, Way::IntoPod] {
            for flow in [UDP, TCP] {
                test(bed, way, &flow);
            }
        }
    });
}

/// The slot is that of another packet: each difference alone.
#[test]
fn a_packet_that_is_not_the_one_that_was_noted() {
    let changes: [fn(&mut Pending); 5] = [
        |pending| pending.key.protocol ^= 23, // 17 (UDP) and 6 (TCP)
        |pending| pending.sequence[0] ^= 1,
        |pending| pending.sequence[3] ^= 1,
        |pending| pending.total_len[0] ^= 1,
        |pending| pending.total_len[1] ^= 1,
    ];
    each(move |bed, way, flow| {
        for change in changes {
            let pending = changed(way.pending(bed, flow), change);
            way.assert_another(bed, flow, pending, &way.frame(flow).bytes());
        }
    });
}

/// Rules of the host may change these on the way; the fast path would not.
#[test]
fn a_packet_that_was_not_forwarded_as_the_fast_path_would() {
    let changes: [fn(&mut Pending); 4] = [
        |pending| pending.ttl += 1,
        |pending| pending.ttl -= 1,
        |pending| pending.tos ^= 1,
        |pending| pending.tos ^= 0x80,
    ];
    each(move |bed, way, flow| {
        for change in changes {
            let pending = changed(way.pending(bed, flow), change);
            way.assert_refused(bed, flow, pending);
        }
    });
}

#[test]
fn a_packet_that_was_in_the_stack_for_too_long() {
    each(|bed, way, flow| {
        for age in [PENDING_MAX_AGE, 10 * PENDING_MAX_AGE] {
            let pending = changed(way.pending(bed, flow), |pending| pending.entered = now() - age);
            way.assert_refused(bed, flow, pending);
        }
    });
}

#[test]
fn a_packet_that_entered_before_the_epoch_did() {
    each(|bed, way, flow| {
        let pending = changed(way.pending(bed, flow), |pending| pending.epoch -= 1);
        way.assert_refused(bed, flow, pending);
    });
}

#[test]
fn a_packet_that_the_fast_path_never_takes() {
    each(|bed, way, flow| {
        let pending = way.pending(bed, flow);
        let mut fragment = way.frame(flow);
        fragment.ip.fragment |= Ipv4::MORE_FRAGMENTS;
        way.assert_another(bed, flow, pending, &fragment.bytes());
        let mut padded = way.frame(flow).bytes();
        padded.push(0);
        way.assert_another(bed, flow, pending, &padded);
    });
}
