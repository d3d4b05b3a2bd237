//! The outer headers of an encapsulated packet.

use bytemuck::Zeroable;

use crate::config::Config;
use crate::headers::{
    ETH_LEN, ETHERTYPE_IPV4, EncapV4, EthHeader, IPPROTO_UDP, IPV4_LEN, Ipv4Header, UDP_LEN, UdpHeader,
    VXLAN_FLAGS, VXLAN_LEN, VxlanHeader,
};
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

/// The 64 bytes before the inner IP packet, for the peer in `to` (RFC 7348 §5, Figure 1).
///
/// The outer UDP checksum is 0: `bpf_skb_adjust_room` cannot ask for tunnel checksums on GSO packets. DF is clear, as
/// the kernel device leaves it. The addresses of the outer Ethernet header are zero until the redirect fills them in.
#[inline(always)]
#[must_use]
pub fn headers_v4(config: &Config, to: &SubnetEntry, packet: Packet) -> EncapV4 {
    let mut ip = Ipv4Header {
        version_ihl: 0x45,
        tos: ecn::outer_tos(packet.inner_tos),
        total_len: low_16(packet.inner_len + IP_TO_INNER_IP),
        id: packet.ip_id,
        fragment: [0; 2],
        ttl: config.ttl,
        protocol: IPPROTO_UDP,
        checksum: [0; 2],
        src: config.vtep.low_v4(),
        dst: to.vtep.low_v4(),
    };
    ip.checksum = checksum::ipv4_header(&bytemuck::must_cast(ip));
    EncapV4 {
        eth: EthHeader {
            ethertype: ETHERTYPE_IPV4,
            ..EthHeader::zeroed()
        },
        ip,
        udp: UdpHeader {
            src: packet.source_port,
            dst: config.port,
            len: low_16(packet.inner_len + UDP_TO_INNER_IP),
            checksum: [0; 2],
        },
        vxlan: VxlanHeader {
            flags: VXLAN_FLAGS,
            vni: config.vni,
            reserved: 0,
        },
        inner_eth: EthHeader {
            dst: to.vtep_mac,
            src: config.vtep_mac,
            ethertype: ETHERTYPE_IPV4,
        },
    }
}

/// The low 16 bits in network byte order.
#[inline(always)]
const fn low_16(value: u32) -> [u8; 2] {
    let [_, _, high, low] = value.to_be_bytes();
    [high, low]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Addr;

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
        let bytes: [u8; 64] = bytemuck::must_cast(headers_v4(&config, &to, packet));
        let mut expected = vec![0; 12]; // outer MAC addresses: the redirect's
        expected.extend([0x08, 0x00]);
        // IPv4: 20 + 8 + 8 + 14 + 28 = 78 bytes, ECT(0) for an inner CE, no DF, TTL 64, UDP.
        expected.extend([0x45, 0x02, 0, 78, 0xab, 0xcd, 0, 0, 64, 17]);
        expected.extend(checksum::ipv4_header(&[
            0x45, 0x02, 0, 78, 0xab, 0xcd, 0, 0, 64, 17, 0, 0, 192, 168, 0, 1, 192, 168, 0, 2,
        ]));
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
            headers_v4(&Config::UNCONFIGURED, &to, packet).ip.total_len,
            [0xff, 0xff]
        );
    }
}
