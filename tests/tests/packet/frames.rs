//! The packets that the tests start from, and the outcomes that they compare with.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use overlay_common::reason::Reason;
use overlay_testbed::packet::{Checksum, Ethernet, Frame, Icmp, Ipv4, Mac, Tcp, Udp, Vxlan, VxlanFrame};

use crate::bed::{NEAR, NEAR_MAC, Outcome, PASS, Peer, UNDERLAY_MAC, VTEP, VTEP_MAC, local_pod};

/// Length of an Ethernet header.
pub(crate) const ETH: usize = 14;
/// Everything before the inner IP packet of a tunnel frame.
pub(crate) const HEADERS: usize = 64;

/// A frame as the stack hands it to the VTEP device: from a pod of this node to a pod of `peer`.
pub(crate) fn to_pod_of(peer: &Peer) -> Frame {
    Frame::udp(
        Ethernet::new(Mac(VTEP_MAC), Mac(peer.mac)),
        Ipv4::new(local_pod(5), peer.pod(7)),
        Udp::new(4000, 53, b"a datagram"),
    )
}

/// The same way, but TCP with `len` bytes of payload.
pub(crate) fn tcp_to_pod_of(peer: &Peer, len: usize) -> Frame {
    let udp = to_pod_of(peer);
    Frame::tcp(udp.eth, udp.ip, Tcp::new(4000, 80, &vec![0x55; len]))
}

/// The same way, but ICMP.
pub(crate) fn ping_to_pod_of(peer: &Peer) -> Frame {
    let udp = to_pod_of(peer);
    Frame::icmp(udp.eth, udp.ip, Icmp::echo_request(7, 1, &[1; 56]))
}

/// What the encapsulation of `inner` for `peer` must look like. The identification and the source port are the program's
/// to choose, so they are taken from `sent`.
pub(crate) fn encapsulated(inner: &[u8], peer: &Peer, sent: &[u8], tos: u8) -> Vec<u8> {
    let word = |at: usize| u16::from_be_bytes([sent[at], sent[at + 1]]);
    VxlanFrame {
        eth: Ethernet::new(Mac(UNDERLAY_MAC), Mac(peer.next_hop_mac)),
        ip: Ipv4 {
            tos,
            identification: word(18),
            ..Ipv4::new(VTEP, peer.vtep)
        },
        udp: Udp {
            checksum: Checksum::Zero,
            ..Udp::new(word(34), 8472, &[])
        },
        vxlan: Vxlan::new(1),
        inner: inner.to_vec(),
    }
    .bytes()
}

/// A tunnel frame as it arrives from [`NEAR`]: a pod of the peer to a pod of this node.
pub(crate) fn tunnel() -> VxlanFrame {
    tunnel_with(NEAR.vtep, VTEP, NEAR.pod(7), local_pod(5))
}

/// A tunnel frame with these outer and inner addresses.
pub(crate) fn tunnel_with(
    outer_src: Ipv4Addr,
    outer_dst: Ipv4Addr,
    inner_src: Ipv4Addr,
    inner_dst: Ipv4Addr,
) -> VxlanFrame {
    let inner = Frame::udp(
        Ethernet::new(Mac(NEAR.mac), Mac(VTEP_MAC)),
        Ipv4::new(inner_src, inner_dst),
        Udp::new(53, 4000, b"an answer"),
    );
    VxlanFrame::new(
        Ethernet::new(Mac(NEAR_MAC), Mac(UNDERLAY_MAC)),
        Ipv4::new(outer_src, outer_dst),
        inner.bytes(),
    )
}

/// The packet was left unchanged with this verdict, counted for these reasons and for no peer.
pub(crate) fn untouched(frame: &[u8], verdict: i32, reasons: &[Reason]) -> Outcome {
    Outcome {
        verdict,
        bytes: frame.to_vec(),
        marked: None,
        priority: None,
        counters: reasons
            .iter()
            .map(|reason| (reason.label(), (1, frame.len() as u64)))
            .collect(),
        peers: BTreeMap::new(),
    }
}

/// The packet was left to the kernel device for `reason`.
pub(crate) fn left_to_kernel(frame: &[u8], reason: Reason) -> Outcome {
    untouched(frame, PASS, &[reason])
}

/// The tunnel frame was verified, counted for `peer`, and left to the kernel device.
pub(crate) fn accepted(tunnel: &[u8], peer: &Peer) -> Outcome {
    Outcome {
        peers: peer_stats(peer.vtep, [0, 0, 1, (tunnel.len() - HEADERS) as u64]),
        ..left_to_kernel(tunnel, Reason::Accepted)
    }
}

/// Statistics of one peer.
pub(crate) fn peer_stats(vtep: Ipv4Addr, delta: [u64; 4]) -> BTreeMap<IpAddr, [u64; 4]> {
    BTreeMap::from([(IpAddr::V4(vtep), delta)])
}
