//! The Internet checksum (RFC 1071).

/// Folds a sum of 16-bit words into the one's complement that goes on the wire.
#[inline(always)]
#[must_use]
pub const fn fold(mut sum: u32) -> u16 {
    // A sum of at most 2^16 words needs no more than two folds.
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits above")]
    let folded = sum as u16;
    !folded
}

/// The checksum of a 20-byte IPv4 header whose checksum field is zero, in network byte order.
#[inline(always)]
#[must_use]
pub const fn ipv4_header(header: &[u8; 20]) -> [u8; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t] = *header;
    let sum = word(a, b)
        + word(c, d)
        + word(e, f)
        + word(g, h)
        + word(i, j)
        + word(k, l)
        + word(m, n)
        + word(o, p)
        + word(q, r)
        + word(s, t);
    fold(sum).to_be_bytes()
}

/// The checksum of a header in which 16-bit words were replaced, each given as before and after (RFC 1624, equation 3).
/// A checksum that was wrong stays wrong, so whoever receives the packet still notices.
#[inline(always)]
#[must_use]
pub fn updated<const N: usize>(checksum: [u8; 2], changes: [([u8; 2], [u8; 2]); N]) -> [u8; 2] {
    let mut sum = u32::from(!u16::from_be_bytes(checksum));
    for (before, after) in changes {
        sum += u32::from(!u16::from_be_bytes(before)) + u32::from(u16::from_be_bytes(after));
    }
    fold(sum).to_be_bytes()
}

/// One 16-bit word of the sum, from two bytes in network byte order.
#[inline(always)]
const fn word(high: u8, low: u8) -> u32 {
    u16::from_be_bytes([high, low]) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_header() {
        // The worked example of the IPv4 header checksum: 192.168.0.1 → 192.168.0.199, UDP, 115 bytes.
        let header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7,
        ];
        assert_eq!(ipv4_header(&header), [0xb8, 0x61]);
    }

    proptest! {
        #[test]
        fn an_update_equals_a_new_checksum(mut header: [u8; 20], new: [u8; 6]) {
            header[10] = 0;
            header[11] = 0;
            // A header is never all zero.
            header[0] = 0x45;
            let before = ipv4_header(&header);
            let changes = [
                ([header[8], header[9]], [new[0], new[1]]),
                ([header[16], header[17]], [new[2], new[3]]),
                ([header[18], header[19]], [new[4], new[5]]),
            ];
            header[8..10].copy_from_slice(&new[..2]);
            header[16..20].copy_from_slice(&new[2..6]);
            prop_assert_eq!(updated(before, changes), ipv4_header(&header));
        }

        #[test]
        fn a_header_with_its_checksum_sums_to_zero(mut header: [u8; 20]) {
            header[10] = 0;
            header[11] = 0;
            let [high, low] = ipv4_header(&header);
            header[10] = high;
            header[11] = low;
            let sum: u32 = header.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
            prop_assert_eq!(fold(sum), 0);
        }
    }
}
