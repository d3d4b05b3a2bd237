//! What failed, and when it may be tried again.

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::action::Subject;
use tokio::time::Instant;

use super::backoff::{self, Jitter};

/// Failed steps by what they do.
#[derive(Debug)]
pub struct Retries {
    jitter: Jitter,
    failed: BTreeMap<String, Failed>,
}

#[derive(Debug)]
struct Failed {
    subject: Subject,
    failures: u32,
    until: Instant,
    message: String,
}

impl Retries {
    /// Nothing has failed yet.
    #[must_use]
    pub const fn new(jitter: Jitter) -> Self {
        Self {
            jitter,
            failed: BTreeMap::new(),
        }
    }

    /// Whether `step` failed and its wait is not over.
    #[must_use]
    pub fn is_held(&self, step: &str, now: Instant) -> bool {
        self.failed.get(step).is_some_and(|failed| failed.until > now)
    }

    /// `step`, which is about `subject`, failed (again); `message` says how, for people.
    pub fn failed(&mut self, step: &str, subject: Subject, message: String, now: Instant) {
        let failures = self
            .failed
            .get(step)
            .map_or(0, |failed| failed.failures)
            .saturating_add(1);
        let until = now + backoff::delay(failures, &mut self.jitter);
        self.failed.insert(
            step.to_owned(),
            Failed {
                subject,
                failures,
                until,
                message,
            },
        );
    }

    /// `step` worked.
    pub fn succeeded(&mut self, step: &str) {
        self.failed.remove(step);
    }

    /// Whether nothing fails.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.failed.is_empty()
    }

    /// Forgets what the plan for what `concerns` it does not ask for any more.
    pub fn keep_only(&mut self, planned: &BTreeSet<String>, concerns: impl Fn(&Subject) -> bool) {
        self.failed
            .retain(|step, failed| planned.contains(step) || !concerns(&failed.subject));
    }

    /// When the first wait is over.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.failed.values().map(|failed| failed.until).min()
    }

    /// What fails at present: step → message.
    #[must_use]
    pub fn messages(&self) -> BTreeMap<String, String> {
        self.failed
            .iter()
            .map(|(step, failed)| (step.clone(), failed.message.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_step_waits_for_itself() {
        let mut retries = Retries::new(Jitter::seeded(7));
        let start = Instant::now();
        retries.failed("a", Subject::default(), "a is refused".to_owned(), start);
        retries.failed("a", Subject::default(), "a is refused".to_owned(), start);
        retries.failed("b", Subject::default(), "b is refused".to_owned(), start);
        assert!(retries.is_held("a", start) && retries.is_held("b", start) && !retries.is_held("c", start));
        let later = start + Duration::from_millis(101);
        assert!(retries.is_held("a", later) && !retries.is_held("b", later));
        assert!(retries.next().unwrap() < later);
        retries.succeeded("b");
        assert_eq!(
            retries.messages(),
            [("a".to_owned(), "a is refused".to_owned())].into()
        );
        retries.keep_only(&BTreeSet::new(), |_| false);
        assert!(!retries.is_empty());
        retries.keep_only(&BTreeSet::new(), |_| true);
        assert_eq!(retries.next(), None);
    }
}
