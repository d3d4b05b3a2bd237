//! The Internet checksum (RFC 1071), of words as they are in memory: the sum does not depend on their byte order (§2 B).

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

/// The checksum of an IPv4 header without options whose checksum field is zero, as it goes into the field.
#[inline(always)]
#[must_use]
pub const fn ipv4_header(header: [u16; 10]) -> u16 {
    let [a, b, c, d, e, f, g, h, i, j] = header;
    let (a, b, c, d, e) = (a as u32, b as u32, c as u32, d as u32, e as u32);
    let (f, g, h, i, j) = (f as u32, g as u32, h as u32, i as u32, j as u32);
    fold(a + b + c + d + e + f + g + h + i + j)
}

/// The checksum of a header in which 16-bit words were replaced, each given as before and after (RFC 1624, equation 3).
/// A checksum that was wrong stays wrong, so whoever receives the packet still notices.
#[inline(always)]
#[must_use]
pub fn updated<const N: usize>(checksum: u16, changes: [(u16, u16); N]) -> u16 {
    let mut sum = u32::from(!checksum);
    for (before, after) in changes {
        sum += u32::from(!before) + u32::from(after);
    }
    fold(sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lanes::lane;

    fn of(header: [u8; 20]) -> [u8; 2] {
        ipv4_header(bytemuck::must_cast(header)).to_ne_bytes()
    }

    #[test]
    fn known_header() {
        // The worked example of the IPv4 header checksum: 192.168.0.1 → 192.168.0.199, UDP, 115 bytes.
        let header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7,
        ];
        assert_eq!(of(header), [0xb8, 0x61]);
    }

    proptest! {
        #[test]
        fn an_update_equals_a_new_checksum(mut header: [u8; 20], new: [u8; 6]) {
            header[10] = 0;
            header[11] = 0;
            // A header is never all zero.
            header[0] = 0x45;
            let [first, second] = of(header);
            let changes = [
                (lane(header[8], header[9]), lane(new[0], new[1])),
                (lane(header[16], header[17]), lane(new[2], new[3])),
                (lane(header[18], header[19]), lane(new[4], new[5])),
            ];
            header[8..10].copy_from_slice(&new[..2]);
            header[16..20].copy_from_slice(&new[2..6]);
            prop_assert_eq!(updated(lane(first, second), changes).to_ne_bytes(), of(header));
        }

        #[test]
        fn a_header_with_its_checksum_sums_to_zero(mut header: [u8; 20]) {
            header[10] = 0;
            header[11] = 0;
            let [high, low] = of(header);
            header[10] = high;
            header[11] = low;
            let sum: u32 = header.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
            prop_assert_eq!(fold(sum), 0);
        }
    }
}
