//! The UDP source port, which carries the inner flow's entropy to switches and receive queues.

/// The source port for a flow hash, as the kernel's `udp_flow_src_port` computes it (include/net/udp.h), so that a flow
/// keeps its path through the underlay when it moves between the kernel device and the programs.
///
/// `min` is inclusive and `max` exclusive, both in host byte order, as `net.ipv4.ip_local_port_range` gives them.
/// Returns the port in network byte order.
#[inline(always)]
#[must_use]
pub const fn for_hash(hash: u32, min: u16, max: u16) -> [u8; 2] {
    let mixed = hash ^ (hash << 16);
    let range = max.saturating_sub(min) as u64;
    // (hash * range) >> 32 is below `range`, so the sum is at most `max`.
    #[expect(clippy::cast_possible_truncation, reason = "below `range`, which is 16 bits")]
    let offset = ((mixed as u64 * range) >> 32) as u16;
    min.saturating_add(offset).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stays_in_the_range(hash: u32, min in 1u16..60_000, width in 1u16..5_000) {
            let port = u16::from_be_bytes(for_hash(hash, min, min + width));
            prop_assert!((min..min + width).contains(&port));
        }
    }

    #[test]
    fn an_empty_range_gives_its_minimum() {
        assert_eq!(for_hash(0xdead_beef, 4000, 4000), 4000u16.to_be_bytes());
        assert_eq!(for_hash(0xdead_beef, 4000, 10), 4000u16.to_be_bytes());
    }

    #[test]
    fn spreads_over_the_default_range() {
        let ports: std::collections::BTreeSet<_> = (0..1000u32)
            .map(|i| for_hash(i.wrapping_mul(0x9e37_79b9), 32_768, 60_999))
            .collect();
        assert!(ports.len() > 950, "{} ports for 1000 flows", ports.len());
    }
}
