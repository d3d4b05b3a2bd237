//! Requests that failed are made again: later each time, and not by all nodes at once.

use std::time::Duration;

use crate::control::backoff::Jitter;

/// The longest wait after the first failure.
pub const FIRST: Duration = Duration::from_secs(1);
/// The longest wait at all.
pub const LONGEST: Duration = Duration::from_secs(60);

/// What one kind of request has met so far. Says what is wrong once, not at every attempt, and says when it is over.
#[derive(Debug)]
pub struct Retry {
    failures: u32,
    said: Option<String>,
    jitter: Jitter,
}

impl Default for Retry {
    fn default() -> Self {
        Self::new(Jitter::from_system())
    }
}

impl Retry {
    /// Nothing has failed yet.
    #[must_use]
    pub const fn new(jitter: Jitter) -> Self {
        Self {
            failures: 0,
            said: None,
            jitter,
        }
    }

    /// An attempt failed: logs `text` at `level` if that is news, and says how long to wait.
    pub fn failed(&mut self, level: log::Level, text: String) -> Duration {
        self.failures = self.failures.saturating_add(1);
        if self.said.as_ref() != Some(&text) {
            log::log!(level, "{text}");
            self.said = Some(text);
        }
        delay(self.failures, &mut self.jitter)
    }

    /// An attempt succeeded; `what` works again if it did not before.
    pub fn succeeded(&mut self, what: &str) {
        if self.failures > 0 && self.said.take().is_some() {
            log::info!(
                "{what}: done after {} failed attempt{}",
                self.failures,
                if self.failures == 1 { "" } else { "s" }
            );
        }
        self.failures = 0;
    }

    /// What was said last and still holds.
    #[must_use]
    pub fn said(&self) -> Option<&str> {
        self.said.as_deref()
    }
}

/// The wait after the `failures`th failure in a row (1 is the first): 1 s doubled each time up to 60 s, less up to half of it
/// by chance, so that thousands of nodes do not come back in the same moment.
#[must_use]
pub fn delay(failures: u32, jitter: &mut Jitter) -> Duration {
    doubled(FIRST, LONGEST, failures, jitter)
}

/// `first` doubled with each of `times` but the first, up to `longest`, less up to half of it by chance.
#[must_use]
pub fn doubled(first: Duration, longest: Duration, times: u32, jitter: &mut Jitter) -> Duration {
    let factor = 1_u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
    let full = first.saturating_mul(factor).min(longest);
    let half = u64::try_from(full.as_micros() / 2).unwrap_or(u64::MAX);
    full.saturating_sub(Duration::from_micros(jitter.below(half)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_from_a_second_to_a_minute() {
        let mut jitter = Jitter::seeded(7);
        for (failures, full) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (40, 60), (u32::MAX, 60)] {
            let wait = delay(failures, &mut jitter);
            assert!(wait <= Duration::from_secs(full), "{failures}: {wait:?}");
            assert!(wait >= Duration::from_secs(full) / 2, "{failures}: {wait:?}");
        }
    }

    #[test]
    fn says_it_once_per_change_and_forgets_it_on_success() {
        let mut retry = Retry::new(Jitter::seeded(1));
        retry.failed(log::Level::Error, "a".to_owned());
        retry.failed(log::Level::Error, "a".to_owned());
        assert_eq!(retry.said(), Some("a"));
        retry.failed(log::Level::Error, "b".to_owned());
        assert_eq!((retry.said(), retry.failures), (Some("b"), 3));
        retry.succeeded("x");
        assert_eq!((retry.said(), retry.failures), (None, 0));
    }
}
