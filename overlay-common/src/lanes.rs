//! Headers as 16-bit lanes and 64-bit words, each as it is in memory.
//!
//! A header that is put together field by field is many small stores, and whoever reads it in larger pieces at once (the
//! kernel does, in helpers) has to wait until they have all arrived in the cache. Words that are put together in registers
//! are stored in one piece.

/// Two bytes of a header.
#[inline(always)]
#[must_use]
pub const fn lane(first: u8, second: u8) -> u16 {
    u16::from_ne_bytes([first, second])
}

/// Four bytes of a header.
#[inline(always)]
#[must_use]
pub const fn pair([a, b, c, d]: [u8; 4]) -> [u16; 2] {
    [lane(a, b), lane(c, d)]
}

/// A link-layer address.
#[inline(always)]
#[must_use]
pub const fn mac([a, b, c, d, e, f]: [u8; 6]) -> [u16; 3] {
    [lane(a, b), lane(c, d), lane(e, f)]
}

/// The low 16 bits of a number, in network byte order.
#[inline(always)]
#[must_use]
pub const fn number(value: u32) -> u16 {
    let [_, _, high, low] = value.to_be_bytes();
    lane(high, low)
}

/// Four lanes in the order of memory.
#[inline(always)]
#[must_use]
pub const fn word([a, b, c, d]: [u16; 4]) -> u64 {
    let (a, b, c, d) = (a as u64, b as u64, c as u64, d as u64);
    if cfg!(target_endian = "big") {
        a << 48 | b << 32 | c << 16 | d
    } else {
        a | b << 16 | c << 32 | d << 48
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_keep_the_order_of_memory() {
        let words = [word([lane(1, 2), lane(3, 4), lane(5, 6), lane(7, 8)]), {
            let ([a, b], [c, d, _]) = (pair([9, 10, 11, 12]), mac([13, 14, 15, 16, 17, 18]));
            word([a, b, c, d])
        }];
        let bytes: [u8; 16] = bytemuck::must_cast(words);
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(number(0x0001_2345).to_ne_bytes(), [0x23, 0x45]);
    }
}
