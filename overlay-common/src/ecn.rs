//! Explicit Congestion Notification across the tunnel.

const ECN_MASK: u8 = 0b11;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// The TOS byte of the outer header for an inner one, as the kernel device computes it with `tos 0`: DSCP 0, ECN
/// copied, except that CE becomes ECT(0) (`INET_ECN_encapsulate`, include/net/inet_ecn.h; RFC 3168 §9.1.1).
#[inline(always)]
#[must_use]
pub const fn outer_tos(inner_tos: u8) -> u8 {
    match inner_tos & ECN_MASK {
        CE => ECT_0,
        ecn => ecn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecn_is_copied_and_dscp_is_not() {
        assert_eq!(outer_tos(0xb8), 0);
        assert_eq!(outer_tos(0xb8 | 0b01), 0b01);
        assert_eq!(outer_tos(0xb8 | 0b10), 0b10);
        assert_eq!(outer_tos(0b11), 0b10);
    }
}
