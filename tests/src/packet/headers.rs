//! Headers as they are written. A field that is `Option` is computed when it is `None`.

use std::net::Ipv4Addr;

use super::{
    ETHERTYPE_IPV4, Mac, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, VXLAN_PORT, internet_checksum,
    pseudo_header,
};

/// How a checksum field is filled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksum {
    /// With the right value.
    #[default]
    Valid,
    /// With zero, which means "none" in UDP.
    Zero,
    /// With this value.
    Raw(u16),
}

impl Checksum {
    fn value(self, valid: impl FnOnce() -> u16) -> u16 {
        match self {
            Self::Valid => valid(),
            Self::Zero => 0,
            Self::Raw(value) => value,
        }
    }
}

/// An Ethernet II header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ethernet {
    /// Destination address.
    pub destination: Mac,
    /// Source address.
    pub source: Mac,
    /// An 802.1Q tag's control information (priority and VLAN), if there is a tag.
    pub vlan: Option<u16>,
    /// Type of the payload.
    pub ether_type: u16,
}

impl Default for Ethernet {
    fn default() -> Self {
        Self {
            destination: Mac([0x02, 0, 0, 0, 0, 0xd0]),
            source: Mac([0x02, 0, 0, 0, 0, 0x50]),
            vlan: None,
            ether_type: ETHERTYPE_IPV4,
        }
    }
}

impl Ethernet {
    /// A header for IPv4.
    #[must_use]
    pub fn new(source: Mac, destination: Mac) -> Self {
        Self {
            destination,
            source,
            ..Self::default()
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.destination.0);
        out.extend(self.source.0);
        if let Some(tag) = self.vlan {
            out.extend(0x8100_u16.to_be_bytes());
            out.extend(tag.to_be_bytes());
        }
        out.extend(self.ether_type.to_be_bytes());
    }
}

/// An IPv4 header (RFC 791).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ipv4 {
    /// Version, 4.
    pub version: u8,
    /// Header length in 32-bit words; computed from the options.
    pub header_words: Option<u8>,
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// Length of header and payload in bytes; computed.
    pub total_length: Option<u16>,
    /// Identification.
    pub identification: u16,
    /// Flags (0x4000: don't fragment, 0x2000: more fragments) and fragment offset in units of 8 bytes.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload; that of the layer above when not given.
    pub protocol: Option<u8>,
    /// Header checksum.
    pub checksum: Checksum,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
}

impl Ipv4 {
    /// Don't fragment, in [`Ipv4::fragment`].
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// More fragments follow, in [`Ipv4::fragment`].
    pub const MORE_FRAGMENTS: u16 = 0x2000;

    /// A header without options, TTL 64.
    #[must_use]
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        Self {
            version: 4,
            header_words: None,
            tos: 0,
            total_length: None,
            identification: 0,
            fragment: 0,
            ttl: 64,
            protocol: None,
            checksum: Checksum::Valid,
            source,
            destination,
            options: Vec::new(),
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>, protocol: u8, payload: usize) {
        let length = 20 + self.options.len();
        let words = self.header_words.unwrap_or_else(|| truncate(length / 4));
        let mut header = vec![(self.version << 4) | (words & 0x0f), self.tos];
        header.extend(
            self.total_length
                .unwrap_or_else(|| truncate16(length + payload))
                .to_be_bytes(),
        );
        header.extend(self.identification.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol.unwrap_or(protocol), 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        header.extend(&self.options);
        let checksum = self.checksum.value(|| internet_checksum(&[&header]));
        put(&mut header, 10, checksum);
        out.extend(header);
    }
}

/// A UDP header (RFC 768) and its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Udp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Length of header and payload in bytes; computed.
    pub length: Option<u16>,
    /// Checksum.
    pub checksum: Checksum,
    /// What the datagram carries.
    pub payload: Vec<u8>,
}

impl Udp {
    /// A datagram.
    #[must_use]
    pub fn new(source_port: u16, destination_port: u16, payload: &[u8]) -> Self {
        Self {
            source_port,
            destination_port,
            length: None,
            checksum: Checksum::Valid,
            payload: payload.to_vec(),
        }
    }

    pub(super) fn bytes(&self, ip: &Ipv4) -> Vec<u8> {
        let mut segment = Vec::with_capacity(8 + self.payload.len());
        segment.extend(self.source_port.to_be_bytes());
        segment.extend(self.destination_port.to_be_bytes());
        segment.extend(
            self.length
                .unwrap_or_else(|| truncate16(8 + self.payload.len()))
                .to_be_bytes(),
        );
        segment.extend([0, 0]);
        segment.extend(&self.payload);
        // Zero would mean "none": the equivalent other zero is written (RFC 768).
        let valid = || match transport_checksum(ip, PROTOCOL_UDP, &segment) {
            0 => u16::MAX,
            checksum => checksum,
        };
        let checksum = self.checksum.value(valid);
        put(&mut segment, 6, checksum);
        segment
    }
}

/// A TCP header (RFC 793) and its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tcp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Flags, FIN in the lowest bit.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Checksum.
    pub checksum: Checksum,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// What the segment carries.
    pub payload: Vec<u8>,
}

impl Tcp {
    /// FIN, in [`Tcp::flags`].
    pub const FIN: u8 = 1;
    /// SYN, in [`Tcp::flags`].
    pub const SYN: u8 = 2;
    /// RST, in [`Tcp::flags`].
    pub const RST: u8 = 4;
    /// PSH, in [`Tcp::flags`].
    pub const PSH: u8 = 8;
    /// ACK, in [`Tcp::flags`].
    pub const ACK: u8 = 16;

    /// A segment with ACK set, in the middle of a connection.
    #[must_use]
    pub fn new(source_port: u16, destination_port: u16, payload: &[u8]) -> Self {
        Self {
            source_port,
            destination_port,
            sequence: 1000,
            acknowledgement: 2000,
            flags: Self::ACK,
            window: 0xffff,
            checksum: Checksum::Valid,
            options: Vec::new(),
            payload: payload.to_vec(),
        }
    }

    pub(super) fn bytes(&self, ip: &Ipv4) -> Vec<u8> {
        let words: u8 = truncate((20 + self.options.len()) / 4);
        let mut segment = Vec::with_capacity(20 + self.options.len() + self.payload.len());
        segment.extend(self.source_port.to_be_bytes());
        segment.extend(self.destination_port.to_be_bytes());
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledgement.to_be_bytes());
        segment.extend([words << 4, self.flags]);
        segment.extend(self.window.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(&self.options);
        segment.extend(&self.payload);
        let checksum = self
            .checksum
            .value(|| transport_checksum(ip, PROTOCOL_TCP, &segment));
        put(&mut segment, 16, checksum);
        segment
    }
}

/// An ICMP message (RFC 792) and its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Icmp {
    /// Type: 8 is an echo request, 0 its reply.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The four bytes after the checksum: identifier and sequence number of an echo.
    pub rest: [u8; 4],
    /// Checksum.
    pub checksum: Checksum,
    /// What follows.
    pub payload: Vec<u8>,
}

impl Icmp {
    /// An echo request.
    #[must_use]
    pub fn echo_request(identifier: u16, sequence: u16, payload: &[u8]) -> Self {
        let ([a, b], [c, d]) = (identifier.to_be_bytes(), sequence.to_be_bytes());
        Self {
            kind: 8,
            code: 0,
            rest: [a, b, c, d],
            checksum: Checksum::Valid,
            payload: payload.to_vec(),
        }
    }

    pub(super) const PROTOCOL: u8 = PROTOCOL_ICMP;

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut message = vec![self.kind, self.code, 0, 0];
        message.extend(self.rest);
        message.extend(&self.payload);
        let checksum = self.checksum.value(|| internet_checksum(&[&message]));
        put(&mut message, 2, checksum);
        message
    }
}

/// A VXLAN header (RFC 7348).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vxlan {
    /// Flags; 0x08 says that the VNI is valid.
    pub flags: u8,
    /// Three reserved bytes (GBP: 0x80 in `flags`, then a reserved byte and the policy ID).
    pub reserved: [u8; 3],
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// One reserved byte.
    pub reserved2: u8,
}

impl Vxlan {
    /// A valid header.
    #[must_use]
    pub fn new(vni: u32) -> Self {
        Self {
            flags: 0x08,
            reserved: [0; 3],
            vni,
            reserved2: 0,
        }
    }

    /// The eight bytes of the header.
    #[must_use]
    pub fn bytes(&self) -> [u8; 8] {
        let [r0, r1, r2] = self.reserved;
        let [_, v0, v1, v2] = self.vni.to_be_bytes();
        [self.flags, r0, r1, r2, v0, v1, v2, self.reserved2]
    }
}

impl Default for Vxlan {
    fn default() -> Self {
        Self::new(1)
    }
}

/// UDP towards flannel's port with a typical source port.
impl Default for Udp {
    fn default() -> Self {
        Self::new(49_152, VXLAN_PORT, &[])
    }
}

fn transport_checksum(ip: &Ipv4, protocol: u8, segment: &[u8]) -> u16 {
    let pseudo = pseudo_header(
        ip.source.octets(),
        ip.destination.octets(),
        protocol,
        segment.len(),
    );
    internet_checksum(&[&pseudo, segment])
}

fn put(bytes: &mut [u8], offset: usize, value: u16) {
    if let Some(field) = bytes.get_mut(offset..offset + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// A length that does not fit saturates: the packet is too long for the field, as a test may want.
fn truncate16(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

fn truncate(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}
