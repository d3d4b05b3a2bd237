//! Packets byte by byte: built with every field settable, and taken apart with every checksum verified.
//!
//! Written from RFC 791, 768, 793, 792 and 7348, and deliberately without any code of the product.

use std::fmt;

mod decode;
mod frame;
mod headers;

pub use decode::{
    Decoded, DecodedIcmp, DecodedIpv4, DecodedTcp, DecodedUdp, DecodedVxlan, Inner, Transport, decode,
};
pub use frame::{Frame, Layer4, VxlanFrame};
pub use headers::{Checksum, Ethernet, Icmp, Ipv4, Tcp, Udp, Vxlan};

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IP protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// flannel's VXLAN port: the Linux kernel's default, not the one that IANA assigned.
pub const VXLAN_PORT: u16 = 8472;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The Internet checksum (RFC 1071) of `parts`, one after the other; each but the last of even length.
///
/// Over data that contains its own checksum the result is 0 if that is right.
#[must_use]
pub fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            let high = pair.first().copied().unwrap_or_default();
            let low = pair.get(1).copied().unwrap_or_default();
            sum += u64::from(u16::from_be_bytes([high, low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The pseudo header that UDP and TCP checksums cover besides their segment (RFC 768).
fn pseudo_header(source: [u8; 4], destination: [u8; 4], protocol: u8, length: usize) -> [u8; 12] {
    let [s0, s1, s2, s3] = source;
    let [d0, d1, d2, d3] = destination;
    let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    [s0, s1, s2, s3, d0, d1, d2, d3, 0, protocol, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_rfc_1071() {
        // Section 3: the sum is ddf2.
        assert_eq!(
            internet_checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]),
            !0xddf2
        );
        assert_eq!(internet_checksum(&[&[0x00, 0x01, 0xf2], &[]]), !0xf201);
    }
}
