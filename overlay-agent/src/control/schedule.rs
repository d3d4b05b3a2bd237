//! When the next pass is due.

use std::time::Duration;

use tokio::time::Instant;

/// Changes in the kernel come in bursts: wait for the rest of one.
pub const BURST: Duration = Duration::from_millis(20);
/// The shortest time between passes that only the kernel asks for: another program that undoes what the agent does
/// must not keep it busy.
pub const KERNEL_GAP: Duration = Duration::from_millis(200);

/// When the next pass is due, and why. Any number of wishes become one pass.
#[derive(Debug)]
pub struct Schedule {
    resync: Duration,
    started: Option<Instant>,
    last: Option<Instant>,
    /// How long the last pass took.
    took: Duration,
    wanted: Option<Instant>,
    retry: Option<Instant>,
}

impl Schedule {
    /// A pass at least every `resync`.
    #[must_use]
    pub const fn new(resync: Duration) -> Self {
        Self {
            resync,
            started: None,
            last: None,
            took: Duration::ZERO,
            wanted: None,
            retry: None,
        }
    }

    /// The leases changed: now.
    pub fn leases_changed(&mut self, now: Instant) {
        self.want(now);
    }

    /// Something changed in the kernel (perhaps by our own doing): soon.
    pub fn kernel_changed(&mut self, now: Instant) {
        let gap = self.last.map_or(now, |last| last + self.gap());
        self.want(gap.max(now + BURST));
    }

    /// A pass looks at everything from now on, whatever it was wanted for.
    pub fn started(&mut self, now: Instant) {
        self.started = Some(now);
        self.wanted = None;
    }

    /// A pass ended; what failed is due at `retry`. It may have looked before a change of which the kernel told meanwhile.
    pub fn passed(&mut self, now: Instant, retry: Option<Instant>) {
        self.took = self
            .started
            .take()
            .map_or(Duration::ZERO, |started| now.saturating_duration_since(started));
        self.last = Some(now);
        self.wanted = self.wanted.map(|wanted| wanted.max(now + self.gap()));
        self.retry = retry;
    }

    /// What failed is due at `retry`.
    pub const fn retry_at(&mut self, retry: Option<Instant>) {
        self.retry = retry;
    }

    /// A pass over a large cluster costs more, so others may ask for it more rarely.
    fn gap(&self) -> Duration {
        KERNEL_GAP.max(self.took * 2)
    }

    /// When the next pass is due; `None` before anything has happened.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let resync = self.last.map(|last| last + self.resync);
        [self.wanted, self.retry, resync].into_iter().flatten().min()
    }

    fn want(&mut self, at: Instant) {
        self.wanted = Some(self.wanted.map_or(at, |wanted| wanted.min(at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESYNC: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn leases_now_kernel_soon_retry_later_resync_at_last() {
        let start = Instant::now();
        let mut schedule = Schedule::new(RESYNC);
        assert_eq!(schedule.due(), None);
        schedule.kernel_changed(start);
        assert_eq!(schedule.due(), Some(start + BURST));
        schedule.leases_changed(start);
        assert_eq!(schedule.due(), Some(start));
        schedule.started(start);
        schedule.passed(start, Some(start + Duration::from_secs(3)));
        assert_eq!(schedule.due(), Some(start + Duration::from_secs(3)));
        schedule.passed(start, None);
        assert_eq!(schedule.due(), Some(start + RESYNC));
    }

    #[tokio::test(start_paused = true)]
    async fn the_kernel_cannot_ask_for_passes_all_the_time() {
        let start = Instant::now();
        let mut schedule = Schedule::new(RESYNC);
        schedule.passed(start, None);
        schedule.kernel_changed(start + Duration::from_millis(1));
        assert_eq!(schedule.due(), Some(start + KERNEL_GAP));
        // The first event of a burst decides: a steady stream of events does not put the pass off for ever.
        schedule.kernel_changed(start + Duration::from_millis(199));
        assert_eq!(schedule.due(), Some(start + KERNEL_GAP));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_kernel_says_during_a_pass_asks_for_another() {
        let start = Instant::now();
        let mut schedule = Schedule::new(RESYNC);
        schedule.leases_changed(start);
        schedule.started(start);
        schedule.kernel_changed(start + Duration::from_millis(10));
        schedule.passed(start + Duration::from_millis(50), None);
        assert_eq!(
            schedule.due(),
            Some(start + Duration::from_millis(50) + KERNEL_GAP)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_that_takes_long_is_not_asked_for_as_often() {
        let start = Instant::now();
        let mut schedule = Schedule::new(RESYNC);
        schedule.started(start);
        let end = start + Duration::from_secs(1);
        schedule.passed(end, None);
        schedule.kernel_changed(end);
        assert_eq!(schedule.due(), Some(end + Duration::from_secs(2)));
    }
}
