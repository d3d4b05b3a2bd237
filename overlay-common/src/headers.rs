//! Header layouts as they are on the wire: byte arrays in network byte order, no padding.
//!
//! Aligned to 2 bytes, as every header behind an Ethernet header in an aligned buffer is: the BPF target then compares
//! half-words instead of bytes.

use bytemuck::{Pod, Zeroable};

use crate::checksum;
use crate::lanes::{lane, pair};

/// Length of an Ethernet header in bytes.
pub const ETH_LEN: u32 = 14;
/// Length of an IPv4 header without options, in bytes.
pub const IPV4_LEN: u32 = 20;
/// Length of a UDP header in bytes.
pub const UDP_LEN: u32 = 8;
/// Length of a VXLAN header in bytes.
pub const VXLAN_LEN: u32 = 8;

/// `EtherType` of IPv4, network byte order.
pub const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];

/// `EtherType`s of a VLAN tag in the frame: 802.1Q and 802.1ad, network byte order.
pub const ETHERTYPES_VLAN: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
/// The VLAN identifier in a tag's control information (IEEE 802.1Q); 0 is a priority tag, which belongs to no VLAN.
pub const VLAN_ID_MASK: u16 = 0x0fff;

/// IP protocol number of TCP.
pub const IPPROTO_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const IPPROTO_UDP: u8 = 17;

/// Version 4, no options: the first byte of an IPv4 header.
pub const IPV4_PLAIN: u8 = 0x45;

/// Offset of the data offset and flags in a TCP header (RFC 9293 §3.1).
pub const TCP_FLAGS_OFFSET: u32 = 12;
/// Least length of a TCP header in 32-bit words.
pub const TCP_MIN_WORDS: u8 = 5;
/// TCP flags that begin or end a connection: FIN, SYN, RST.
pub const TCP_CONTROL: u8 = 0b0000_0111;
/// TCP flag: SYN.
pub const TCP_SYN: u8 = 0b0000_0010;
/// TCP flag: ACK. Every segment of an established connection has it.
pub const TCP_ACK: u8 = 0b0001_0000;
/// Offset of the checksum in a TCP header.
pub const TCP_CHECKSUM_OFFSET: u32 = 16;
/// Offset of the checksum in a UDP header.
pub const UDP_CHECKSUM_OFFSET: u32 = 6;

/// The first word of a VXLAN header whose VNI is valid and that has no extension (RFC 7348 §5).
pub const VXLAN_FLAGS: [u8; 4] = [0x08, 0, 0, 0];
/// The bit of the first byte that Group Based Policy sets (draft-smith-vxlan-group-policy).
pub const VXLAN_GBP_BIT: u8 = 0x80;

/// Ethernet II header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C, align(2))]
pub struct EthHeader {
    /// Destination address.
    pub dst: [u8; 6],
    /// Source address.
    pub src: [u8; 6],
    /// `EtherType`.
    pub ethertype: [u8; 2],
}

/// IPv4 header without options (RFC 791).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C, align(2))]
pub struct Ipv4Header {
    /// Version (4) and header length in 32-bit words.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of header and payload in bytes.
    pub total_len: [u8; 2],
    /// Identification.
    pub id: [u8; 2],
    /// Flags and fragment offset.
    pub fragment: [u8; 2],
    /// Time to live.
    pub ttl: u8,
    /// Payload protocol.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: [u8; 2],
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
}

/// UDP header (RFC 768).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C, align(2))]
pub struct UdpHeader {
    /// Source port.
    pub src: [u8; 2],
    /// Destination port.
    pub dst: [u8; 2],
    /// Length of header and payload in bytes.
    pub len: [u8; 2],
    /// Checksum; 0 is "none" over IPv4.
    pub checksum: [u8; 2],
}

/// VXLAN header (RFC 7348 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C, align(2))]
pub struct VxlanHeader {
    /// Flags and reserved bits, or Group Based Policy fields.
    pub flags: [u8; 4],
    /// VXLAN network identifier.
    pub vni: [u8; 3],
    /// Reserved, zero.
    pub reserved: u8,
}

/// The start of an IPv4 packet in an Ethernet frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C, align(2))]
pub struct EthIpv4 {
    /// Ethernet header.
    pub eth: EthHeader,
    /// IPv4 header, first 20 bytes.
    pub ip: Ipv4Header,
}

/// A frame with an IPv4 packet without options and the first 8 bytes of its transport header: ports, and the sequence
/// number of TCP or length and checksum of UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C, align(2))]
pub struct FlowV4 {
    /// Ethernet header.
    pub eth: EthHeader,
    /// IPv4 header.
    pub ip: Ipv4Header,
    /// Source port.
    pub src_port: [u8; 2],
    /// Destination port.
    pub dst_port: [u8; 2],
    /// TCP: sequence number. UDP: length and checksum.
    pub rest: [u8; 4],
}

/// What a tunnel packet looks like after its outer IPv4 header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C, align(2))]
pub struct TunnelV4 {
    /// Outer UDP header.
    pub udp: UdpHeader,
    /// VXLAN header.
    pub vxlan: VxlanHeader,
    /// Inner Ethernet header.
    pub inner_eth: EthHeader,
    /// Inner IPv4 header, first 20 bytes.
    pub inner_ip: Ipv4Header,
}

const _: () = assert!(size_of::<EthHeader>() == ETH_LEN as usize);
const _: () = assert!(size_of::<Ipv4Header>() == IPV4_LEN as usize);
const _: () = assert!(size_of::<UdpHeader>() == UDP_LEN as usize);
const _: () = assert!(size_of::<VxlanHeader>() == VXLAN_LEN as usize);
const _: () = assert!(size_of::<EthIpv4>() == 34);
const _: () = assert!(size_of::<FlowV4>() == 42);
const _: () = assert!(size_of::<TunnelV4>() == 50);

impl Ipv4Header {
    /// Length of the header with options, in bytes; `None` unless this is an IPv4 header of legal length.
    #[inline(always)]
    #[must_use]
    pub const fn header_len(&self) -> Option<u32> {
        let words = (self.version_ihl & 0x0f) as u32;
        if self.version_ihl >> 4 == 4 && words >= 5 {
            Some(words * 4)
        } else {
            None
        }
    }

    /// The header as 16-bit lanes.
    #[inline(always)]
    #[must_use]
    pub const fn lanes(self) -> [u16; 10] {
        bytemuck::must_cast(self)
    }

    /// The header after one more hop and a change of addresses and TOS, checksum included.
    #[inline(always)]
    #[must_use]
    pub fn forwarded(self, tos: u8, src: [u8; 4], dst: [u8; 4]) -> [u16; 10] {
        let [version_tos, len, id, fragment, ttl_protocol, checksum, a, b, c, d] = self.lanes();
        let new_version_tos = lane(self.version_ihl, tos);
        let new_ttl_protocol = lane(self.ttl.wrapping_sub(1), self.protocol);
        let ([e, f], [g, h]) = (pair(src), pair(dst));
        let changes = [
            (version_tos, new_version_tos),
            (ttl_protocol, new_ttl_protocol),
            (a, e),
            (b, f),
            (c, g),
            (d, h),
        ];
        let checksum = checksum::updated(checksum, changes);
        [
            new_version_tos,
            len,
            id,
            fragment,
            new_ttl_protocol,
            checksum,
            e,
            f,
            g,
            h,
        ]
    }

    /// Whether the packet is a fragment: more follow, or this is not the first.
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        u16::from_be_bytes(self.fragment) & 0x3fff != 0
    }

    /// Whether the packet is a fragment other than the first, so that its payload does not start with a transport
    /// header.
    #[inline(always)]
    #[must_use]
    pub const fn is_later_fragment(&self) -> bool {
        u16::from_be_bytes(self.fragment) & 0x1fff != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version_ihl: u8, fragment: u16) -> Ipv4Header {
        Ipv4Header {
            version_ihl,
            fragment: fragment.to_be_bytes(),
            ..Ipv4Header::zeroed()
        }
    }

    #[test]
    fn header_length_needs_version_four_and_five_words() {
        assert_eq!(header(0x45, 0).header_len(), Some(20));
        assert_eq!(header(0x4f, 0).header_len(), Some(60));
        for bad in [0x44, 0x65, 0x05, 0xff, 0x00] {
            assert_eq!(header(bad, 0).header_len(), None, "{bad:#x}");
        }
    }

    #[test]
    fn a_forwarded_header_has_the_right_checksum() {
        let mut header = Ipv4Header {
            version_ihl: IPV4_PLAIN,
            ttl: 64,
            protocol: IPPROTO_TCP,
            total_len: [0, 60],
            src: [10, 244, 1, 7],
            dst: [10, 96, 0, 10],
            ..Ipv4Header::zeroed()
        };
        header.checksum = checksum::ipv4_header(header.lanes()).to_ne_bytes();
        let forwarded: Ipv4Header = bytemuck::must_cast(header.forwarded(0x03, header.src, [10, 244, 2, 9]));
        assert_eq!(
            (forwarded.ttl, forwarded.tos, forwarded.dst),
            (63, 3, [10, 244, 2, 9])
        );
        let plain = Ipv4Header {
            checksum: [0; 2],
            ..forwarded
        };
        assert_eq!(
            forwarded.checksum,
            checksum::ipv4_header(plain.lanes()).to_ne_bytes()
        );
    }

    #[test]
    fn fragments_are_told_from_the_dont_fragment_bit() {
        assert!(!header(0x45, 0x4000).is_fragment(), "DF alone is no fragment");
        assert!(header(0x45, 0x2000).is_fragment(), "MF");
        assert!(
            !header(0x45, 0x2000).is_later_fragment(),
            "MF with offset 0 is the first"
        );
        assert!(header(0x45, 0x0001).is_fragment() && header(0x45, 0x0001).is_later_fragment());
    }
}
