//! Whole frames.

use super::{Ethernet, Icmp, Ipv4, PROTOCOL_TCP, PROTOCOL_UDP, Tcp, Udp, Vxlan};

/// What an IPv4 packet carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Layer4 {
    /// A UDP datagram.
    Udp(Udp),
    /// A TCP segment.
    Tcp(Tcp),
    /// An ICMP message.
    Icmp(Icmp),
    /// These bytes, of this protocol.
    Raw(u8, Vec<u8>),
}

/// An IPv4 packet in an Ethernet frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Ethernet header.
    pub eth: Ethernet,
    /// IPv4 header.
    pub ip: Ipv4,
    /// What the packet carries.
    pub layer4: Layer4,
}

impl Frame {
    /// A frame with a UDP datagram.
    #[must_use]
    pub fn udp(eth: Ethernet, ip: Ipv4, udp: Udp) -> Self {
        Self {
            eth,
            ip,
            layer4: Layer4::Udp(udp),
        }
    }

    /// A frame with a TCP segment.
    #[must_use]
    pub fn tcp(eth: Ethernet, ip: Ipv4, tcp: Tcp) -> Self {
        Self {
            eth,
            ip,
            layer4: Layer4::Tcp(tcp),
        }
    }

    /// A frame with an ICMP message.
    #[must_use]
    pub fn icmp(eth: Ethernet, ip: Ipv4, icmp: Icmp) -> Self {
        Self {
            eth,
            ip,
            layer4: Layer4::Icmp(icmp),
        }
    }

    /// The frame as it is sent.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let (protocol, payload) = match &self.layer4 {
            Layer4::Udp(udp) => (PROTOCOL_UDP, udp.bytes(&self.ip)),
            Layer4::Tcp(tcp) => (PROTOCOL_TCP, tcp.bytes(&self.ip)),
            Layer4::Icmp(icmp) => (Icmp::PROTOCOL, icmp.bytes()),
            Layer4::Raw(protocol, bytes) => (*protocol, bytes.clone()),
        };
        let mut out = Vec::new();
        self.eth.write(&mut out);
        self.ip.write(&mut out, protocol, payload.len());
        out.extend(payload);
        out
    }
}

/// A frame inside a VXLAN packet, every field of which can be set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VxlanFrame {
    /// Outer Ethernet header.
    pub eth: Ethernet,
    /// Outer IPv4 header.
    pub ip: Ipv4,
    /// Outer UDP header; its payload is ignored.
    pub udp: Udp,
    /// VXLAN header.
    pub vxlan: Vxlan,
    /// The inner frame from its Ethernet header on.
    pub inner: Vec<u8>,
}

impl VxlanFrame {
    /// `inner` as flannel's device would send it between `ip`'s addresses: VNI 1, port 8472, with UDP checksum.
    #[must_use]
    pub fn new(eth: Ethernet, ip: Ipv4, inner: Vec<u8>) -> Self {
        Self {
            eth,
            ip,
            udp: Udp::default(),
            vxlan: Vxlan::default(),
            inner,
        }
    }

    /// The frame as it is sent.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut payload = self.vxlan.bytes().to_vec();
        payload.extend(&self.inner);
        let udp = Udp {
            payload,
            ..self.udp.clone()
        };
        Frame::udp(self.eth.clone(), self.ip.clone(), udp).bytes()
    }
}
