//! What goes one way only: one end sends without pause, the other counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Client, Sample};

/// How long the sender sends before the counting begins, so that both ends and their caches are warm.
const BEFORE: Duration = Duration::from_millis(20);
/// How long it sends after the counting has ended: its own clock began a little earlier.
const AFTER: Duration = Duration::from_millis(5);
/// From one look for what is still on its way to the next.
const REST: Duration = Duration::from_millis(3);
/// What a slice takes apart from the time that counts, about.
pub(in crate::bench) const MARGINS: Duration = Duration::from_millis(30);
/// Reading the clock and the counter may take so long; else it was interrupted in between.
const AT_ONCE: Duration = Duration::from_micros(50);

/// How much has arrived.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrived(Arc<AtomicU64>);

impl Arrived {
    pub(super) fn add(&self, amount: usize) {
        self.0.fetch_add(amount as u64, Ordering::Relaxed);
    }

    /// The counter and when it was read.
    fn now(&self) -> (u64, Instant) {
        loop {
            let before = Instant::now();
            let count = self.0.load(Ordering::Relaxed);
            if before.elapsed() < AT_ONCE {
                return (count, before);
            }
        }
    }

    /// Lets `sender` send and counts for `duration` in the middle of it.
    pub(super) fn measure(&self, sender: &Client, duration: Duration) -> Result<Sample> {
        let whole = BEFORE + duration + AFTER;
        sender.order(whole)?;
        thread::sleep(BEFORE);
        let (first, start) = self.now();
        thread::sleep(duration);
        let (last, end) = self.now();
        sender.answer(whole)?;
        self.wait_for_the_rest();
        Ok(Sample {
            amount: last - first,
            elapsed: end - start,
            lost: 0,
        })
    }

    /// What is still on its way must not burden the next slice.
    fn wait_for_the_rest(&self) {
        let mut seen = self.0.load(Ordering::Relaxed);
        for _ in 0..100 {
            thread::sleep(REST);
            let now = self.0.load(Ordering::Relaxed);
            if now == seen {
                return;
            }
            seen = now;
        }
    }
}
