//! The loop that finds the devices of pods and keeps programs and entries on them as they should be.
//!
//! Independent of the loop for peers, and on a thread of its own: a pass over 15,000 peers must not delay a pod. As
//! there, events, a timer and retries only decide when a pass happens. What differs: what is attached is remembered
//! between passes and read again where a notification says that it may have changed, and everywhere at the start, after
//! lost notifications and at each resync. Reading it takes the RTNL lock for each device, for which many wait when many
//! pods start.

mod events;
mod links;
mod pass;
mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use self::events::Events;
use self::pass::Pods;
use crate::dataplane::AttachChoice;

/// Changes come in bursts (a pod's device is made, named, put into the bridge and set up): wait for the rest of one.
const BURST: Duration = Duration::from_millis(3);

/// Wait before another look when what was seen was not complete, and after the first one that failed.
const SHORT_PAUSE: Duration = Duration::from_millis(50);

/// The longest wait where nothing can be seen at all.
const BLIND_PAUSE: Duration = Duration::from_secs(1);

/// What the loop must know.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where things are pinned.
    pub pin_dir: PathBuf,
    /// How programs are attached.
    pub attach: AttachChoice,
    /// Everything is read again at least this often.
    pub resync: Duration,
}

/// Starts the loop in the calling thread's network namespace; it ends with the process. What it has attached stays.
///
/// Tell the answer ([`Notify::notify_one`]) when programs were loaded, or the configuration was written.
///
/// # Errors
///
/// When the thread cannot be started.
pub fn start(options: Options) -> Result<Arc<Notify>> {
    let configured = Arc::new(Notify::new());
    let trigger = Arc::clone(&configured);
    thread::Builder::new()
        .name("pods".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(run(options, &trigger)),
                Err(error) => log::error!("pods get no fast path: cannot start their event loop: {error}"),
            }
        })
        .context("cannot start the thread that looks after pods")?;
    Ok(configured)
}

async fn run(options: Options, configured: &Notify) {
    // Before the first look, so that nothing is missed.
    let mut events = loop {
        match Events::subscribe() {
            Ok(events) => break events,
            Err(error) => {
                log::error!(
                    "pods get no fast path: cannot subscribe to changes of links: {error}; trying again in \
                     {BLIND_PAUSE:?}"
                );
                sleep(BLIND_PAUSE).await;
            }
        }
    };
    let resync = options.resync;
    let mut pods = Pods::new(options);
    let mut next_resync = Instant::now();
    let mut due = next_resync;
    let mut failures: u32 = 0;
    loop {
        let replaced = tokio::select! {
            biased;
            () = sleep_until(due.min(next_resync)) => false,
            () = configured.notified() => true,
            () = events.changed() => {
                sleep(BURST).await;
                false
            }
        };
        let news = events.drain();
        let now = Instant::now();
        let thorough = now >= next_resync || news.lost || replaced;
        if thorough {
            next_resync = now + resync;
        }
        let outcome = pods.pass(news, thorough);
        events.own_port = pods.own_port();
        match outcome {
            Ok(outcome) => {
                failures = 0;
                events.subnet = outcome.subnet;
                let soon = outcome.incomplete.then(|| Instant::now() + SHORT_PAUSE);
                due = soon.into_iter().chain(outcome.retry).min().unwrap_or(next_resync);
            }
            Err(error) => {
                pods.cannot_see(&error);
                due = Instant::now() + pause_after(failures);
                failures = failures.saturating_add(1);
            }
        }
    }
}

/// How long to wait where so many looks before this one have failed, too: most failures are over in a moment.
fn pause_after(failures: u32) -> Duration {
    let doubled = 1_u32
        .checked_shl(failures)
        .map(|factor| SHORT_PAUSE.saturating_mul(factor));
    doubled.map_or(BLIND_PAUSE, |pause| pause.min(BLIND_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_look_is_repeated_soon_and_then_each_second() {
        for (failures, expected) in [
            (0, 50),
            (1, 100),
            (4, 800),
            (5, 1000),
            (31, 1000),
            (u32::MAX, 1000),
        ] {
            assert_eq!(
                pause_after(failures),
                Duration::from_millis(expected),
                "{failures}"
            );
        }
    }
}
