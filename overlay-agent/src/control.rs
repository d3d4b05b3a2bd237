//! The level-triggered loop: it compares what is with what should be, and acts.
//!
//! A *whole* pass looks at everything. Kernel events, a timer, retries and whatever is unusual only decide *when* one
//! happens, never what it does. So a lost event costs time, not correctness. It looks, and compares, on other threads.
//!
//! Changes of single leases do not wait for that: a *focused* pass compares only what they can have to do with, in what
//! is known since the last whole pass ([`overlay_core::focus`]), so its cost does not grow with the cluster.

pub mod backoff;
pub mod execute;
#[cfg(test)]
pub(crate) mod fake;
pub mod groups;
pub mod kernel;
pub mod messages;
pub mod pass;
pub mod retries;
mod say;
pub mod schedule;
pub mod state;
pub mod summary;

use std::future::pending;
use std::time::Duration;

use anyhow::Result;
use overlay_core::model::{LeaseEvent, NodeFacts};
use overlay_core::observed::Observed;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep_until};

use self::kernel::Kernel;
use self::pass::{Compared, Comparison, Controller, Observation, Outcome};
use self::schedule::Schedule;

/// Lease events that one focused pass takes together, when they wait.
const BATCH: usize = 64;

/// Runs until `shutdown` is ready. What was programmed stays.
///
/// `kernel_events` says that something in the kernel may have changed; when its other end is gone, the timer remains.
pub async fn run<K: Kernel>(
    mut controller: Controller<K>,
    mut leases: Receiver<LeaseEvent>,
    mut kernel_events: Receiver<()>,
    resync: Duration,
    shutdown: impl Future<Output = ()>,
) {
    let work = async {
        let mut schedule = Schedule::new(resync);
        let mut whole: Option<Stage> = None;
        loop {
            let is_under_way = whole.is_some();
            let due = async {
                match schedule.due() {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            let stage = async {
                match whole.as_mut() {
                    Some(stage) => stage.end().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // What is due comes first: no stream of events can put a pass off.
                biased;
                ended = stage => match ended {
                    Ended::Looking(seen) => {
                        take(&mut controller, &mut leases, usize::MAX);
                        whole = Some(Stage::Comparing(controller.compare(*seen)));
                    }
                    Ended::Comparing(compared) => {
                        whole = None;
                        let outcome = controller.finish(*compared).await;
                        let now = Instant::now();
                        match outcome {
                            Outcome::Done(retry) => schedule.passed(now, retry),
                            Outcome::NeedsAll => {
                                schedule.passed(now, None);
                                schedule.leases_changed(now);
                            }
                        }
                    }
                },
                () = due, if !is_under_way => {
                    let now = Instant::now();
                    schedule.started(now);
                    whole = controller.begin().map(Stage::Looking);
                    if whole.is_none() {
                        schedule.passed(now, None);
                    }
                }
                Some(()) = kernel_events.recv() => schedule.kernel_changed(Instant::now()),
                Some(event) = leases.recv() => {
                    controller.apply(event);
                    take(&mut controller, &mut leases, BATCH - 1);
                    match controller.focused().await {
                        Outcome::Done(retry) => schedule.retry_at(retry),
                        // The whole pass that is under way knows of it, or looks at it when it ends.
                        Outcome::NeedsAll if is_under_way => {}
                        Outcome::NeedsAll => schedule.leases_changed(Instant::now()),
                    }
                }
            }
        }
    };
    // Dropping a pass in the middle is safe: every prefix of a plan is a valid state, and every action can be repeated.
    tokio::select! {
        () = shutdown => {}
        () = work => {}
    }
}

/// How far a whole pass has come.
enum Stage {
    Looking(Observation),
    Comparing(Comparison),
}

/// What a stage has ended with.
enum Ended {
    Looking(Box<Result<(NodeFacts, Observed)>>),
    Comparing(Box<Result<Compared>>),
}

impl Stage {
    /// Waits for its end. Dropping the future loses nothing.
    async fn end(&mut self) -> Ended {
        match self {
            Self::Looking(observation) => Ended::Looking(Box::new(observation.await)),
            Self::Comparing(comparison) => Ended::Comparing(Box::new(comparison.await)),
        }
    }
}

/// Takes lease events that wait.
fn take<K: Kernel>(controller: &mut Controller<K>, leases: &mut Receiver<LeaseEvent>, limit: usize) {
    for _ in 0..limit {
        let Ok(event) = leases.try_recv() else {
            return;
        };
        controller.apply(event);
    }
}

#[cfg(test)]
mod tests;
