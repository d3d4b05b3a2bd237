//! How long to wait before something that failed is tried again.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// The wait after the first failure.
pub const FIRST: Duration = Duration::from_millis(100);
/// The longest wait.
pub const LONGEST: Duration = Duration::from_secs(30);

/// A source of numbers that differ from node to node, so that the nodes of a cluster do not retry in step.
#[derive(Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// Seeded by the operating system.
    #[must_use]
    pub fn from_system() -> Self {
        Self::seeded(RandomState::new().build_hasher().finish())
    }

    /// For tests.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `limit` (0 for 0); xorshift64 (Marsaglia, 2003).
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.checked_rem(limit).unwrap_or(0)
    }
}

/// The wait after the `failures`th failure in a row (1 is the first): 0.1 s doubled each time up to 30 s, less up to a
/// fifth of it by chance.
#[must_use]
pub fn delay(failures: u32, jitter: &mut Jitter) -> Duration {
    let doubled = FIRST.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let longest = doubled.min(LONGEST);
    let spread = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX) / 5;
    longest.saturating_sub(Duration::from_micros(jitter.below(spread)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_from_a_tenth_of_a_second_to_half_a_minute() {
        let mut jitter = Jitter::seeded(42);
        for (failures, expected) in [
            (1, 100),
            (2, 200),
            (3, 400),
            (9, 25_600),
            (10, 30_000),
            (100, 30_000),
        ] {
            let delay = delay(failures, &mut jitter);
            assert!(delay <= Duration::from_millis(expected), "{failures}: {delay:?}");
            assert!(
                delay >= Duration::from_millis(expected * 4 / 5),
                "{failures}: {delay:?}"
            );
        }
    }

    #[test]
    fn two_nodes_do_not_wait_equally_long() {
        let waits = |seed| {
            let mut jitter = Jitter::seeded(seed);
            (1..10).map(|n| delay(n, &mut jitter)).collect::<Vec<_>>()
        };
        assert_ne!(waits(1), waits(2_000_001));
    }
}
