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
    last: Option<Instant>,
    wanted: Option<Instant>,
    retry: Option<Instant>,
}

impl Schedule {
    /// A pass at least every `resync`.
    #[must_use]
    pub const fn new(resync: Duration) -> Self {
        Self {
            resync,
            last: None,
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
        let gap = self.last.map_or(now, |last| last + KERNEL_GAP);
        self.want(gap.max(now + BURST));
    }

    /// A pass ended; what failed is due at `retry`.
    pub const fn passed(&mut self, now: Instant, retry: Option<Instant>) {
        self.last = Some(now);
        self.wanted = None;
        self.retry = retry;
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
}
