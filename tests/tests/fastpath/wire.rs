//! Frames made by hand, and frames looked at.

use std::net::SocketAddrV4;
use std::time::Duration;

use overlay_testbed::capture::Packet;
use overlay_testbed::packet::{Ethernet, Frame, Ipv4, Mac, VxlanFrame};
use overlay_testbed::{Node, Space};
use serde_json::Value;

/// Long enough for a packet to arrive.
pub(crate) const SHORT: Duration = Duration::from_secs(5);

/// Address of a device.
pub(crate) fn mac_of(space: &Space, device: &str) -> Mac {
    let text = space.run(&format!("ip -j link show {device}")).unwrap();
    let link: Value = serde_json::from_str(&text).unwrap();
    let mut mac = [0; 6];
    let digits = link[0]["address"].as_str().unwrap().split(':');
    for (byte, digits) in mac.iter_mut().zip(digits) {
        *byte = u8::from_str_radix(digits, 16).unwrap();
    }
    Mac(mac)
}

/// Ethernet header of what a node's first pod sends to its gateway.
pub(crate) fn to_gateway(node: &Node) -> Ethernet {
    let pod = node.pod(1).unwrap();
    Ethernet::new(mac_of(pod.space(), "eth0"), mac_of(node.space(), "cni0"))
}

/// IPv4 header between two sockets.
pub(crate) fn ip_between(from: SocketAddrV4, to: SocketAddrV4) -> Ipv4 {
    Ipv4::new(*from.ip(), *to.ip())
}

/// What the VTEP of a node sends to that of another.
#[derive(Clone)]
pub(crate) struct Tunnel {
    outer: VxlanFrame,
    inner: Ethernet,
}

impl Tunnel {
    pub(crate) fn between(from: &Node, to: &Node) -> Self {
        let [source, destination] = [from, to].map(|node| mac_of(node.space(), node.underlay()));
        Self {
            outer: VxlanFrame::new(
                Ethernet::new(source, destination),
                Ipv4::new(from.address(), to.address()),
                Vec::new(),
            ),
            inner: Ethernet::new(from.lease().vtep_mac, to.lease().vtep_mac),
        }
    }

    /// `inner`, whose Ethernet header is replaced, with this outer TOS byte.
    pub(crate) fn carry(&self, inner: &Frame, outer_tos: u8) -> Vec<u8> {
        let mut inner = inner.clone();
        inner.eth = self.inner.clone();
        let mut outer = self.outer.clone();
        outer.ip.tos = outer_tos;
        outer.inner = inner.bytes();
        outer.bytes()
    }
}

/// Whether `marker` is in it.
pub(crate) fn contains(packet: &Packet, marker: &[u8]) -> bool {
    packet.bytes.windows(marker.len()).any(|window| window == marker)
}
