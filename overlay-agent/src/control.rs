//! The level-triggered loop: whatever wakes it, it looks at everything, compares, and acts.
//!
//! Lease events, kernel events, a timer and retries only decide *when* a pass happens, never what it does. So a lost
//! event costs time, not correctness.

pub mod backoff;
pub mod execute;
#[cfg(test)]
pub(crate) mod fake;
pub mod groups;
pub mod kernel;
pub mod messages;
pub mod pass;
pub mod retries;
pub mod schedule;
pub mod summary;

use std::time::Duration;

use overlay_core::model::LeaseEvent;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep_until};

use self::kernel::Kernel;
use self::pass::Controller;
use self::schedule::Schedule;

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
        loop {
            let due = async {
                match schedule.due() {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What is due comes first: no stream of events can put a pass off.
                biased;
                () = due => {
                    while let Ok(event) = leases.try_recv() {
                        controller.apply(event);
                    }
                    let retry = controller.pass().await;
                    schedule.passed(Instant::now(), retry);
                }
                Some(event) = leases.recv() => {
                    controller.apply(event);
                    schedule.leases_changed(Instant::now());
                }
                Some(()) = kernel_events.recv() => schedule.kernel_changed(Instant::now()),
            }
        }
    };
    // Dropping a pass in the middle is safe: every prefix of a plan is a valid state, and every action can be repeated.
    tokio::select! {
        () = shutdown => {}
        () = work => {}
    }
}

#[cfg(test)]
mod tests;
