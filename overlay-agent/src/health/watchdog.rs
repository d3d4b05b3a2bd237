//! Notices that a step of the loop does not come to an end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use overlay_core::action::Action;
use overlay_core::model::NodeFacts;
use overlay_core::observed::Observed;
use tokio::time::Instant;

use crate::control::kernel::Kernel;

/// Which steps are being carried out, and since when. Clones are the same. A loop that waits for something to do carries out
/// none: the probe's own answer shows that the runtime is alive.
#[derive(Clone, Debug, Default)]
pub struct Watchdog(Arc<Mutex<Steps>>);

#[derive(Debug, Default)]
struct Steps {
    next: u64,
    running: BTreeMap<u64, (&'static str, Instant)>,
}

/// A step; it ends when this is dropped, however that happens.
#[derive(Debug)]
#[must_use]
pub struct Step {
    watchdog: Watchdog,
    number: u64,
}

impl Watchdog {
    /// A step begins.
    pub fn step(&self, what: &'static str) -> Step {
        let mut steps = self.steps();
        let number = steps.next;
        steps.next = number.wrapping_add(1);
        steps.running.insert(number, (what, Instant::now()));
        Step {
            watchdog: self.clone(),
            number,
        }
    }

    /// What has been going on longest, and for how long already.
    #[must_use]
    pub fn busy(&self, now: Instant) -> Option<(&'static str, Duration)> {
        let steps = self.steps();
        let (what, since) = steps.running.values().min_by_key(|(_, since)| *since)?;
        Some((what, now.saturating_duration_since(*since)))
    }

    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.watchdog.steps().running.remove(&self.number);
    }
}

/// A kernel whose steps are watched.
#[derive(Debug)]
pub struct Watched<K> {
    kernel: K,
    watchdog: Watchdog,
}

impl<K> Watched<K> {
    /// Watches the steps of `kernel`.
    pub const fn new(kernel: K, watchdog: Watchdog) -> Self {
        Self { kernel, watchdog }
    }
}

impl<K: Kernel> Kernel for Watched<K> {
    async fn facts(&mut self) -> Result<NodeFacts> {
        let _step = self.watchdog.step("finding out how this node is connected");
        self.kernel.facts().await
    }

    async fn observe(&mut self) -> Result<Observed> {
        let _step = self.watchdog.step("reading what the kernel holds");
        self.kernel.observe().await
    }

    fn observe_in_background(
        &mut self,
    ) -> impl Future<Output = Result<(NodeFacts, Observed)>> + Send + 'static {
        let step = self.watchdog.step("looking at the whole node in the background");
        let seen = self.kernel.observe_in_background();
        async move {
            let _step = step;
            seen.await
        }
    }

    async fn execute(&mut self, actions: &[&Action]) -> Vec<Result<()>> {
        let _step = self.watchdog.step("changing what the kernel holds");
        self.kernel.execute(actions).await
    }

    fn dataplane_name(&self) -> String {
        self.kernel.dataplane_name()
    }
}
