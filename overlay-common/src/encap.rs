//! The outer headers of an encapsulated packet.

use crate::config::Config;
use crate::headers::{
    ETH_LEN, ETHERTYPE_IPV4, IPPROTO_UDP, IPV4_LEN, IPV4_PLAIN, UDP_LEN, VXLAN_FLAGS, VXLAN_LEN,
};
use crate::lanes::{lane, mac, number, pair, word};
use crate::maps::SubnetEntry;
use crate::{checksum, ecn};

/// Bytes that encapsulation adds over an IPv4 underlay: IPv4, UDP, VXLAN and the inner Ethernet header.
pub const OVERHEAD_V4: u32 = 50;

/// Bytes from the outer UDP header to the end of the inner Ethernet header.
const UDP_TO_INNER_IP: u32 = UDP_LEN + VXLAN_LEN + ETH_LEN;

/// Bytes of the outer IPv4 packet before the inner IP packet. (Equals [`OVERHEAD_V4`]: the outer Ethernet header takes
/// the place that the inner one had.)
const IP_TO_INNER_IP: u32 = IPV4_LEN + UDP_TO_INNER_IP;

const _: () = assert!(IP_TO_INNER_IP == OVERHEAD_V4);

/// Largest inner IP packet whose outer IPv4 length still fits its 16-bit field.
pub const MAX_INNER_V4: u32 = u16::MAX as u32 - OVERHEAD_V4;

/// The addresses of the outer Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Link {
    /// The words of the packet in which they stand, 0 where other fields do.
    words: [u64; 2],
}

impl Link {
    /// From `source` to `destination`.
    #[inline(always)]
    #[must_use]
    pub const fn new([a, b, c]: [u16; 3], [d, e, f]: [u16; 3]) -> Self {
        Self {
            words: [word([d, e, f, a]), word([b, c, 0, 0])],
        }
    }
}

/// What varies from packet to packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Length of the inner IP packet in bytes, all segments of a GSO packet together; at most [`MAX_INNER_V4`].
    pub inner_len: u32,
    /// TOS byte of the inner IP header.
    pub inner_tos: u8,
    /// Identification of the outer IPv4 header, any value.
    pub ip_id: [u8; 2],
    /// UDP source port, network byte order.
    pub source_port: [u8; 2],
}

/// The 64 bytes before the inner IP packet, for the peer in `to` (RFC 7348 §5, Figure 1): Ethernet, IPv4, UDP, VXLAN,
/// inner Ethernet.
///
/// The outer UDP checksum is 0: `bpf_skb_adjust_room` cannot ask for tunnel checksums on GSO packets. DF is clear, as
/// the kernel device leaves it.
#[inline(always)]
#[must_use]
pub const fn headers_v4(config: &Config, to: &SubnetEntry, link: Link, packet: Packet) -> [u64; 8] {
    let ethertype = lane(ETHERTYPE_IPV4[0], ETHERTYPE_IPV4[1]);
    let version_tos = lane(IPV4_PLAIN, ecn::outer_tos(packet.inner_tos));
    let len = number(packet.inner_len + IP_TO_INNER_IP);
    let id = lane(packet.ip_id[0], packet.ip_id[1]);
    let ttl_protocol = lane(config.ttl, IPPROTO_UDP);
    let ([src, src_low], [dst, dst_low]) = (pair(config.vtep.low_v4()), pair(to.vtep.low_v4()));
    let checksum = checksum::ipv4_header([
        version_tos,
        len,
        id,
        0,
        ttl_protocol,
        0,
        src,
        src_low,
        dst,
        dst_low,
    ]);
    let source_port = lane(packet.source_port[0], packet.source_port[1]);
    let port = lane(config.port[0], config.port[1]);
    let udp_len = number(packet.inner_len + UDP_TO_INNER_IP);
    let [flags, flags_low] = pair(VXLAN_FLAGS);
    let [vni, vni_high, vni_low] = config.vni;
    let [to_a, to_b, to_c] = mac(to.vtep_mac);
    let [from_a, from_b, from_c] = mac(config.vtep_mac);
    let [addresses, end_of_source] = link.words;
    [
        addresses,
        end_of_source | word([0, 0, ethertype, version_tos]),
        word([len, id, 0, ttl_protocol]),
        word([checksum, src, src_low, dst]),
        word([dst_low, source_port, port, udp_len]),
        word([0, flags, flags_low, lane(vni, vni_high)]),
        word([lane(vni_low, 0), to_a, to_b, to_c]),
        word([from_a, from_b, from_c, ethertype]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Addr;

    fn bytes(headers: [u64; 8]) -> [u8; 64] {
        bytemuck::must_cast(headers)
    }

    /// RFC 7348 §5 byte by byte, for a 28-byte inner packet.
    #[test]
    fn every_byte_of_the_header() {
        let config = Config {
            vtep: Addr::from_v4([192, 168, 0, 1]),
            vtep_mac: [2, 0, 0, 0, 0, 1],
            port: 8472u16.to_be_bytes(),
            ttl: 64,
            vni: [0, 0, 1],
            ..Config::UNCONFIGURED
        };
        let to = SubnetEntry::new(Addr::from_v4([192, 168, 0, 2]), [2, 0, 0, 0, 0, 2]);
        let packet = Packet {
            inner_len: 28,
            inner_tos: 0x03,
            ip_id: [0xab, 0xcd],
            source_port: [0x9c, 0x40],
        };
        let link = Link::new(mac([2, 0xaa, 3, 4, 5, 6]), mac([2, 0xbb, 9, 8, 7, 1]));
        let bytes = bytes(headers_v4(&config, &to, link, packet));
        let mut expected = vec![2, 0xbb, 9, 8, 7, 1, 2, 0xaa, 3, 4, 5, 6, 0x08, 0x00];
        // IPv4: 20 + 8 + 8 + 14 + 28 = 78 bytes, ECT(0) for an inner CE, no DF, TTL 64, UDP.
        expected.extend([0x45, 0x02, 0, 78, 0xab, 0xcd, 0, 0, 64, 17]);
        let header: [u8; 20] = [
            0x45, 0x02, 0, 78, 0xab, 0xcd, 0, 0, 64, 17, 0, 0, 192, 168, 0, 1, 192, 168, 0, 2,
        ];
        expected.extend(checksum::ipv4_header(bytemuck::must_cast(header)).to_ne_bytes());
        expected.extend([192, 168, 0, 1, 192, 168, 0, 2]);
        // UDP: port 40000 → 8472, 58 bytes, no checksum.
        expected.extend([0x9c, 0x40, 0x21, 0x18, 0, 58, 0, 0]);
        // VXLAN: the I flag, VNI 1.
        expected.extend([0x08, 0, 0, 0, 0, 0, 1, 0]);
        expected.extend([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00]);
        assert_eq!(bytes.as_slice(), expected.as_slice());
    }

    #[test]
    fn the_largest_packet_does_not_wrap() {
        let packet = Packet {
            inner_len: MAX_INNER_V4,
            inner_tos: 0,
            ip_id: [0; 2],
            source_port: [0; 2],
        };
        let to = SubnetEntry::new(Addr::UNSPECIFIED, [0; 6]);
        assert_eq!(
            bytes(headers_v4(&Config::UNCONFIGURED, &to, Link::default(), packet))[16..18],
            [0xff, 0xff]
        );
    }
}
