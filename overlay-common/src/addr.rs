//! IP addresses and prefixes of either family in one shape, so that one map and one code path serve both.

use bytemuck::{Pod, Zeroable};

use crate::lanes::{pair, word};

/// The first 12 bytes of an IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2).
const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// Bits that precede an IPv4 address in its mapped form.
pub const V4_MAPPED_BITS: u32 = 96;

/// An IPv4 or IPv6 address, 16 bytes in network byte order; IPv4 is stored IPv4-mapped (`::ffff:a.b.c.d`).
///
/// Aligned to 8 bytes, so that the BPF target handles it as two words and not as 16 bytes; bytes by type, so that bpftool
/// shows it as such.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Addr {
    octets: [u8; 16],
}

const _: () = assert!(size_of::<Addr>() == 16);

impl Addr {
    /// `::`, which is never a valid VTEP, subnet or pod address here.
    pub const UNSPECIFIED: Self = Self { octets: [0; 16] };

    /// From the 16 bytes of an IPv6 header, network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn from_v6(octets: [u8; 16]) -> Self {
        Self { octets }
    }

    /// From the 4 bytes of an IPv4 header, network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        let [high, low] = pair(v4);
        bytemuck::must_cast([0, word([0, 0xffff, high, low])])
    }

    /// The 16 bytes in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn octets(&self) -> [u8; 16] {
        self.octets
    }

    /// The last 4 bytes in network byte order: the IPv4 address, if this is one.
    #[inline(always)]
    #[must_use]
    pub const fn low_v4(&self) -> [u8; 4] {
        let [_, [_, low]]: [[[u8; 4]; 2]; 2] = bytemuck::must_cast(self.words());
        low
    }

    /// Whether this is an IPv4 address.
    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.octets().starts_with(&V4_MAPPED)
    }

    /// The address as two 64-bit words in memory order, for comparing and masking without a loop.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        bytemuck::must_cast(*self)
    }

    /// Equality by two word compares (a derived `==` on an array becomes a `memcmp` call on the BPF target).
    #[inline(always)]
    #[must_use]
    pub const fn same(&self, other: &Self) -> bool {
        let ([a, b], [c, d]) = (self.words(), other.words());
        a == c && b == d
    }
}

/// A prefix as address and mask, for the one-compare membership test of the datapath.
///
/// The mask of an absent prefix is all zero and its address all ones, which no address matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct MaskedPrefix {
    address: Addr,
    mask: Addr,
}

const _: () = assert!(size_of::<MaskedPrefix>() == 32);

impl MaskedPrefix {
    /// Contains no address.
    pub const NONE: Self = Self {
        address: Addr::from_v6([0xff; 16]),
        mask: Addr::UNSPECIFIED,
    };

    /// The prefix `address/bits`, where `bits` counts in the 128-bit form: an IPv4 `/24` is `V4_MAPPED_BITS + 24`.
    /// Host bits of `address` are cleared; more than 128 bits count as 128.
    #[must_use]
    pub const fn new(address: Addr, bits: u32) -> Self {
        let bits = if bits > 128 { 128 } else { bits };
        let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
        let address = u128::from_be_bytes(address.octets()) & mask;
        Self {
            address: Addr::from_v6(address.to_be_bytes()),
            mask: Addr::from_v6(mask.to_be_bytes()),
        }
    }

    /// First address of the prefix.
    #[must_use]
    pub const fn address(&self) -> Addr {
        self.address
    }

    /// Length of the prefix in the 128-bit form; meaningless for [`Self::NONE`].
    #[must_use]
    pub const fn bits(&self) -> u32 {
        u128::from_be_bytes(self.mask.octets()).leading_ones()
    }

    /// Whether `address` lies inside.
    #[inline(always)]
    #[must_use]
    pub const fn contains(&self, address: &Addr) -> bool {
        let ([a, b], [m, n], [p, q]) = (address.words(), self.mask.words(), self.address.words());
        a & m == p && b & n == q
    }
}

mod convert {
    use core::fmt;
    use core::net::{IpAddr, Ipv6Addr};

    use super::Addr;

    impl From<IpAddr> for Addr {
        fn from(ip: IpAddr) -> Self {
            match ip {
                IpAddr::V4(v4) => Self::from_v4(v4.octets()),
                IpAddr::V6(v6) => Self::from_v6(v6.octets()),
            }
        }
    }

    impl From<Addr> for IpAddr {
        fn from(addr: Addr) -> Self {
            Ipv6Addr::from(addr.octets()).to_canonical()
        }
    }

    impl fmt::Debug for Addr {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt::Display::fmt(self, f)
        }
    }

    impl fmt::Display for Addr {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            IpAddr::from(*self).fmt(f)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn v4_is_mapped() {
        let addr = Addr::from_v4([10, 244, 1, 7]);
        assert!(addr.is_v4());
        assert_eq!(addr.low_v4(), [10, 244, 1, 7]);
        assert_eq!(addr.octets()[..12], V4_MAPPED);
    }

    #[test]
    fn none_contains_nothing() {
        assert!(!MaskedPrefix::NONE.contains(&Addr::UNSPECIFIED));
        assert!(!MaskedPrefix::NONE.contains(&Addr::from_v4([255; 4])));
        assert!(!MaskedPrefix::NONE.contains(&Addr::from_v6([0xff; 16])));
    }

    proptest! {
        #[test]
        fn contains_agrees_with_integer_arithmetic(net: u128, bits in 0u32..=128, probe: u128, near: bool) {
            // Half of the probes share the prefix's high bits: a random address hardly ever does.
            let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
            let probe = if near { (net & mask) | (probe & !mask) } else { probe };
            let prefix = MaskedPrefix::new(Addr::from_v6(net.to_be_bytes()), bits);
            prop_assert_eq!(prefix.contains(&Addr::from_v6(probe.to_be_bytes())), probe & mask == net & mask);
        }

        #[test]
        fn same_agrees_with_eq(a: u128, b: u128, equal: bool) {
            let b = if equal { a } else { b };
            let (a, b) = (Addr::from_v6(a.to_be_bytes()), Addr::from_v6(b.to_be_bytes()));
            prop_assert_eq!(a.same(&b), a == b);
        }
    }
}
