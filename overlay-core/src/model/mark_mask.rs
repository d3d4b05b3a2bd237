//! Which bits of `skb->mark` the fast path may use.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Adjacent bits of `skb->mark`, at least [`MarkMask::MIN_BITS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MarkMask(u32);

/// Why a mask cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidMarkMask {
    /// Not a number of 32 bits.
    #[error("\"{0}\" is not a number of 32 bits: write it like 0xfff00000, or in decimal")]
    NotANumber(String),
    /// Bits that are not adjacent.
    #[error("{0:#010x} has a gap: the bits must be adjacent, as in 0xfff00000 or 0x00fff000")]
    Gap(u32),
    /// Too few bits.
    #[error(
        "{0:#010x} has {bits} bits, and at least {MIN} are needed, as in 0xfff00000",
        bits = .0.count_ones(),
        MIN = MarkMask::MIN_BITS
    )]
    TooFewBits(u32),
}

impl MarkMask {
    /// With fewer there would hardly be a slot for each CPU.
    pub const MIN_BITS: u32 = 8;
    /// Used unless the operator says otherwise: the upper half, which is clear of kube-proxy's bits.
    pub const DEFAULT: Self = Self(0xfff0_0000);
    /// The bits that kube-proxy uses: `KUBE-MARK-MASQ` and, formerly, `KUBE-MARK-DROP`.
    pub const KUBE_PROXY: u32 = 0xc000;

    /// The mask with these bits.
    ///
    /// # Errors
    ///
    /// When they are not adjacent or too few.
    pub const fn new(bits: u32) -> Result<Self, InvalidMarkMask> {
        if bits.count_ones() < Self::MIN_BITS {
            return Err(InvalidMarkMask::TooFewBits(bits));
        }
        if bits.leading_zeros() + bits.count_ones() + bits.trailing_zeros() != u32::BITS {
            return Err(InvalidMarkMask::Gap(bits));
        }
        Ok(Self(bits))
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Position of the lowest bit.
    #[must_use]
    pub const fn shift(self) -> u32 {
        self.0.trailing_zeros()
    }

    /// How many different numbers fit, 0 not counted: that is what other packets carry.
    #[must_use]
    pub const fn numbers(self) -> u32 {
        self.0 >> self.shift()
    }

    /// Whether kube-proxy uses some of the bits.
    #[must_use]
    pub const fn meets_kube_proxy(self) -> bool {
        self.0 & Self::KUBE_PROXY != 0
    }
}

impl FromStr for MarkMask {
    type Err = InvalidMarkMask;

    fn from_str(text: &str) -> Result<Self, InvalidMarkMask> {
        let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
        let bits = match hexadecimal {
            // `from_str_radix` takes a sign.
            Some(digits) if !digits.starts_with('+') => u32::from_str_radix(digits, 16).ok(),
            Some(_) => None,
            None => text.parse().ok(),
        };
        Self::new(bits.ok_or_else(|| InvalidMarkMask::NotANumber(text.to_owned()))?)
    }
}

impl fmt::Display for MarkMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_bits_in_both_notations() {
        let parse = |text: &str| text.parse::<MarkMask>();
        assert_eq!(parse("0xfff00000"), Ok(MarkMask::DEFAULT));
        assert_eq!(parse("4293918720"), Ok(MarkMask::DEFAULT));
        let mask = parse("0x00ff0000").unwrap();
        assert_eq!((mask.shift(), mask.numbers()), (16, 255));
        assert_eq!(mask.to_string(), "0x00ff0000");
        assert_eq!(parse("0xffffffff").unwrap().numbers(), u32::MAX);
        assert!(parse("0x0000ff00").unwrap().meets_kube_proxy());
        assert!(!MarkMask::DEFAULT.meets_kube_proxy());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (text, part) in [
            ("0xff00ff00", "adjacent"),
            ("0x7f", "7 bits"),
            ("0", "0 bits"),
            ("0x1ffffffff", "32 bits"),
            ("upper", "\"upper\""),
            ("0x+ff", "0x+ff"),
        ] {
            let error = text.parse::<MarkMask>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
