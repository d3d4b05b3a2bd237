//! How often what somebody else changed is put right.
//!
//! Somebody who changes what the agent wrote once is corrected at once. Somebody who keeps doing so (a second agent or flannel
//! with the same node name, a controller) must not turn the API server into a battlefield: each correction makes the next
//! one wait longer.

use std::time::Duration;

use tokio::time::Instant;

use super::retry::doubled;
use crate::control::backoff::Jitter;

/// The wait before the second correction.
pub const FIRST: Duration = Duration::from_secs(5);
/// The longest wait.
pub const LONGEST: Duration = Duration::from_secs(300);
/// After this long without a correction the other one has given up, and everything is forgotten.
pub const QUIET: Duration = Duration::from_secs(900);

/// The corrections so far.
#[derive(Debug)]
pub struct Corrections {
    number: u32,
    last: Option<Instant>,
    wait: Duration,
    jitter: Jitter,
}

impl Default for Corrections {
    fn default() -> Self {
        Self::new(Jitter::from_system())
    }
}

impl Corrections {
    /// None yet.
    #[must_use]
    pub const fn new(jitter: Jitter) -> Self {
        Self {
            number: 0,
            last: None,
            wait: Duration::ZERO,
            jitter,
        }
    }

    /// When the next correction may be made.
    #[must_use]
    pub fn due(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| (last + self.wait).max(now))
    }

    /// A correction was made now: says how long the next one has to wait, with the number of corrections so far.
    pub fn made(&mut self, now: Instant) -> (u32, Duration) {
        let quiet = self.last.is_none_or(|last| now > last + self.wait + QUIET);
        self.number = if quiet { 1 } else { self.number.saturating_add(1) };
        self.wait = doubled(FIRST, LONGEST, self.number, &mut self.jitter);
        self.last = Some(now);
        (self.number, self.wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_is_made_at_once_and_the_others_wait_longer_each_time() {
        let mut corrections = Corrections::new(Jitter::seeded(3));
        let mut now = Instant::now();
        assert_eq!(corrections.due(now), now);
        let mut waits = Vec::new();
        for number in 1..=10 {
            let (made, wait) = corrections.made(now);
            assert_eq!((made, corrections.due(now)), (number, now + wait));
            waits.push(wait);
            now += wait;
        }
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST, "{waits:?}");
        assert!(waits[9] >= LONGEST / 2 && waits[9] <= LONGEST, "{waits:?}");
        // An hour of fighting costs few requests.
        let total: Duration = waits.iter().sum();
        assert!(total > Duration::from_secs(600), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn peace_is_believed_after_a_while() {
        let mut corrections = Corrections::new(Jitter::seeded(3));
        let mut now = Instant::now();
        for _ in 0..5 {
            let (_, wait) = corrections.made(now);
            now += wait;
        }
        now += QUIET + Duration::from_secs(1);
        assert_eq!(corrections.due(now), now);
        assert_eq!(corrections.made(now).0, 1);
    }
}
