//! A packet that begins or ends a connection, from the pod (`pod_ingress`) and from the peer (`underlay_ingress`): what is
//! known of both directions goes, and the packet itself is left to the stack.

use overlay_common::flow::{FlowKey, RETRY_AFTER_END, RETRY_PATIENCE, Retry};
use overlay_common::reason::Reason;
use overlay_testbed::packet::{Frame, Layer4, Tcp};

use crate::bed::memory::now;
use crate::bed::{Bed, NEAR, Outcome};
use crate::flows::{Flow, MS, TCP, TCP_SERVICE, UDP, on_pod, tunnelled, with_fast_bed};
use crate::frames::{accepted, left_to_kernel};

/// Where a packet comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Pod,
    Peer,
}

impl Side {
    pub(crate) fn key(self, flow: &Flow) -> FlowKey {
        match self {
            Self::Pod => flow.pod_key(),
            Self::Peer => flow.peer_key(),
        }
    }

    /// What is noted of a flow whose next miss is to be marked.
    pub(crate) fn due(self, flow: &Flow) -> Retry {
        Retry {
            tag: self.key(flow).tag(),
            count: RETRY_PATIENCE,
            until: 0,
        }
    }

    /// Makes both directions of the flow usable, and its next miss a marked one.
    pub(crate) fn establish(self, bed: &mut Bed, flow: &Flow) {
        bed.set_egress_flow(&flow.pod_key(), flow.egress_entry());
        bed.set_ingress_flow(&flow.peer_key(), flow.ingress_entry());
        bed.set_retry(&self.key(flow), self.due(flow));
    }

    /// A packet of the flow, as it comes, with these TCP flags.
    pub(crate) fn with_flags(self, flow: &Flow, flags: u8) -> Vec<u8> {
        let set = |mut frame: Frame| {
            if let Layer4::Tcp(tcp) = &mut frame.layer4 {
                tcp.flags = flags;
            }
            frame
        };
        match self {
            Self::Pod => set(flow.sent_by_pod()).bytes(),
            Self::Peer => tunnelled(&NEAR, &set(flow.inside_tunnel())).bytes(),
        }
    }

    fn run(self, bed: &mut Bed, frame: &[u8]) -> Outcome {
        match self {
            Self::Pod => bed.pod_ingress(frame, on_pod()),
            Self::Peer => bed.ingress(frame),
        }
    }

    /// The packet goes through the stack; from a pod for this reason.
    fn slow(self, frame: &[u8], reason: Reason) -> Outcome {
        match self {
            Self::Pod => left_to_kernel(frame, reason),
            Self::Peer => accepted(frame, &NEAR),
        }
    }

    const fn ended(self) -> Reason {
        match self {
            Self::Pod => Reason::EgressEnded,
            Self::Peer => Reason::IngressEnded,
        }
    }

    /// Both entries are gone, and the packet itself is left to the stack.
    pub(crate) fn assert_ends(self, bed: &mut Bed, flow: &Flow, flags: u8) {
        self.establish(bed, flow);
        self.establish(bed, &UDP);
        let frame = self.with_flags(flow, flags);
        let mut expected = bed.memory();
        let mut outcome = self.slow(&frame, Reason::PodIneligible);
        let size = frame.len() as u64;
        outcome.counters.insert(self.ended().label(), (1, size));
        assert_eq!(self.run(bed, &frame), outcome);
        expected.egress.remove(&flow.pod_key()).expect("it was there");
        expected.ingress.remove(&flow.peer_key()).expect("it was there");
        assert_eq!(bed.memory(), expected, "no other flow is concerned");
        // The second time there is nothing to end.
        assert_eq!(self.run(bed, &frame), self.slow(&frame, Reason::PodIneligible));
    }
}

/// Connections with and without NAT, from both sides.
fn each(test: impl Fn(&mut Bed, Side, &Flow) + Send + 'static) {
    with_fast_bed(move |bed| {
        for side in [Side::Pod, Side::Peer] {
            for flow in [TCP, TCP_SERVICE] {
                test(bed, side, &flow);
            }
        }
    });
}

#[test]
fn a_syn_ends_the_flow_and_starts_the_count_again() {
    each(|bed, side, flow| {
        for flags in [
            Tcp::SYN,
            Tcp::SYN | Tcp::ACK,
            Tcp::SYN | Tcp::FIN,
            Tcp::SYN | Tcp::RST,
            0x3f,
        ] {
            side.assert_ends(bed, flow, flags);
            let again = Retry {
                count: 0,
                ..side.due(flow)
            };
            assert_eq!(bed.retry(&side.key(flow)), again);
        }
    });
}

#[test]
fn a_fin_or_rst_ends_the_flow_and_the_last_packets_do_not_try_again() {
    each(|bed, side, flow| {
        for flags in [
            Tcp::FIN,
            Tcp::FIN | Tcp::ACK,
            Tcp::FIN | Tcp::PSH | Tcp::ACK,
            Tcp::RST,
            Tcp::RST | Tcp::ACK,
            Tcp::FIN | Tcp::RST,
        ] {
            let start = now();
            side.assert_ends(bed, flow, flags);
            let (key, last) = (side.key(flow), side.with_flags(flow, Tcp::ACK));
            let retry = bed.retry(&key);
            assert_eq!((retry.tag, retry.count), (key.tag(), RETRY_PATIENCE + 1));
            // The coarse clock is up to a tick behind.
            assert!((start - 10 * MS..=now()).contains(&(retry.until - RETRY_AFTER_END)));
            assert_eq!(side.run(bed, &last), side.slow(&last, Reason::PodMiss));
        }
    });
}

#[test]
fn tcp_without_an_acknowledgement_ends_nothing() {
    each(|bed, side, flow| {
        for flags in [0, Tcp::PSH, 0x20, 0xc0] {
            side.establish(bed, flow);
            let (before, frame) = (bed.memory(), side.with_flags(flow, flags));
            assert_eq!(side.run(bed, &frame), side.slow(&frame, Reason::PodIneligible));
            assert_eq!(bed.memory(), before);
            assert_eq!(bed.retry(&side.key(flow)), side.due(flow));
        }
    });
}
