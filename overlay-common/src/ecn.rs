//! Explicit Congestion Notification across the tunnel.

const ECN_MASK: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
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

/// The inner TOS byte after decapsulation, as the kernel device computes it; `None` where it drops the packet: congestion
/// was signalled to a transport that cannot be told (`INET_ECN_decapsulate`, include/net/inet_ecn.h; RFC 6040 §4.2).
#[inline(always)]
#[must_use]
pub const fn decapsulated_tos(outer_tos: u8, inner_tos: u8) -> Option<u8> {
    match (outer_tos & ECN_MASK, inner_tos & ECN_MASK) {
        (CE, NOT_ECT) => None,
        (CE, _) => Some(inner_tos | CE),
        (ECT_1, ECT_0) => Some(inner_tos & !ECN_MASK | ECT_1),
        (_, _) => Some(inner_tos),
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
    #[test]
    fn decapsulation_follows_rfc_6040() {
        let (not_ect, ect_1, ect_0, ce) = (0b00, 0b01, 0b10, 0b11);
        // Rows: inner; columns: outer not-ECT, ECT(0), ECT(1), CE.
        let expected = [
            (not_ect, [Some(not_ect), Some(not_ect), Some(not_ect), None]),
            (ect_0, [Some(ect_0), Some(ect_0), Some(ect_1), Some(ce)]),
            (ect_1, [Some(ect_1), Some(ect_1), Some(ect_1), Some(ce)]),
            (ce, [Some(ce), Some(ce), Some(ce), Some(ce)]),
        ];
        for (inner, row) in expected {
            for (outer, result) in [not_ect, ect_0, ect_1, ce].into_iter().zip(row) {
                let dscp = 0xb8;
                assert_eq!(
                    decapsulated_tos(outer, dscp | inner),
                    result.map(|ecn| dscp | ecn),
                    "{outer} {inner}"
                );
            }
        }
    }
}
