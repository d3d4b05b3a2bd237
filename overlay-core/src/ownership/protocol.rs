//! The protocols of our routes; [`super`] says why there are several.

use std::ops::RangeInclusive;

use ipnet::IpNet;

/// `RTPROT_BOOT`: what `ip route` and flannel write.
pub const ROUTE_PROTOCOL: u8 = 3;

/// Protocols of our routes where there are many.
pub const SPREAD_PROTOCOLS: RangeInclusive<u8> = 200..=247;

/// Routes on a device from which on new ones get a protocol of [`SPREAD_PROTOCOLS`]. Below it the cost that this avoids
/// is under 100 µs for a route (beside 1,000 others it is 0.1 to 0.2 ms: their records are in no CPU's cache), and the
/// routes look like flannel's.
pub const SPREAD_FROM: usize = 512;

/// Whether our routes have this `rtm_protocol`.
#[must_use]
pub const fn is_own_protocol(protocol: u8) -> bool {
    protocol == ROUTE_PROTOCOL
        || (*SPREAD_PROTOCOLS.start() <= protocol && protocol <= *SPREAD_PROTOCOLS.end())
}

/// The `rtm_protocol` for a new route to this subnet on a device that has `others` routes.
#[must_use]
pub fn route_protocol(destination: IpNet, others: usize) -> u8 {
    let IpNet::V4(destination) = destination else {
        // IPv6 routes have no such table.
        return ROUTE_PROTOCOL;
    };
    if others < SPREAD_FROM {
        return ROUTE_PROTOCOL;
    }
    // Fibonacci hashing: neighbouring subnets, which differ in a few bits, get far apart.
    let [high, low, ..] = u32::from(destination.network())
        .wrapping_mul(0x9E37_79B1)
        .to_be_bytes();
    let (first, last) = SPREAD_PROTOCOLS.into_inner();
    let numbers = u16::from(last.abs_diff(first)) + 1;
    let offset = u16::from_be_bytes([high, low]) % numbers;
    u8::try_from(offset).map_or(first, |offset| first.saturating_add(offset))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ipnet::Ipv4Net;

    use super::*;

    #[test]
    fn own_protocols_are_boot_and_the_range() {
        let own: Vec<u8> = (0..=u8::MAX)
            .filter(|protocol| is_own_protocol(*protocol))
            .collect();
        assert_eq!(own, [3].into_iter().chain(200..=247).collect::<Vec<_>>());
    }

    #[test]
    fn few_routes_are_like_flannels() {
        let subnet = "10.244.1.0/24".parse().unwrap();
        assert_eq!(route_protocol(subnet, 0), ROUTE_PROTOCOL);
        assert_eq!(route_protocol(subnet, SPREAD_FROM - 1), ROUTE_PROTOCOL);
        assert_ne!(route_protocol(subnet, SPREAD_FROM), ROUTE_PROTOCOL);
        assert_eq!(
            route_protocol("fd00:1::/64".parse().unwrap(), 100_000),
            ROUTE_PROTOCOL
        );
    }

    /// Red with the hash replaced by the low bits of the network: subnets of one length have the same ones.
    #[test]
    fn many_routes_are_spread_evenly_whatever_their_length() {
        for bits in [20, 22, 24, 25, 26, 28] {
            let mut counts = BTreeMap::new();
            for number in 0..15_000_u32 {
                let address = 0x0a00_0000 + (number << (32 - u32::from(bits)));
                let subnet = Ipv4Net::new(address.into(), bits).unwrap();
                *counts
                    .entry(route_protocol(subnet.into(), usize::MAX))
                    .or_insert(0_u32) += 1;
            }
            assert!(counts.keys().all(|protocol| SPREAD_PROTOCOLS.contains(protocol)));
            assert_eq!(counts.len(), 48, "/{bits}");
            let fullest = counts.values().max().unwrap();
            assert!(*fullest < 2 * 15_000 / 48, "/{bits}: {counts:?}");
        }
    }
}
