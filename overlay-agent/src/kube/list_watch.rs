//! Every Node, first as a list and then as it changes, for as long as the agent runs.
//!
//! * The list comes from the API server's cache (`resourceVersion=0`), so that thousands of agents that start at once do not
//!   reach etcd. It is read while it arrives; see `wire`.
//! * A watch that ends goes on from where it was, after any error and any outage. Only when the server no longer knows that
//!   place (410) the Nodes are listed again.
//! * Whatever fails is tried again after a wait that doubles, and that is different on every node.
//! * A connection on which not even a bookmark has come for [`SILENCE`] is given up.

mod attempt;
mod failure;
mod request;

use std::time::Duration;

use kube::Client;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep};

use self::attempt::{list, watch};
use self::failure::{Failure, Reports};
use self::request::Since;
use super::api_state::ApiState;
use super::record::NodeRecord;
use crate::control::backoff::Jitter;

/// An answer must begin within this time. The server itself gives a list up after a minute.
const ANSWER: Duration = Duration::from_secs(75);
/// The next part of a list must come within this time.
const NEXT_PART: Duration = Duration::from_secs(30);
/// A watch says something every minute: a bookmark, if nothing else.
const SILENCE: Duration = Duration::from_secs(150);
/// A watch that ends by itself sooner than this is a server that is going down, or one that does not work.
const SHORT: Duration = Duration::from_secs(1);
/// The longest wait after the first failure…
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// …and after many.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Failures in a row that count at most when a resource version is no longer known: the wait is up to two seconds.
const AFTER_EXPIRY: u32 = 2;

/// What happens to the Nodes.
#[derive(Clone, PartialEq, Debug)]
pub enum NodeEvent {
    /// A complete list begins. What was listed before and is not in it is gone.
    ListBegins,
    /// A Node of that list.
    Listed(NodeRecord),
    /// The list was complete. Without this it begins again.
    ListEnds,
    /// A Node is new, or has changed in some way.
    Applied(NodeRecord),
    /// A Node is gone.
    Deleted {
        /// Its name.
        name: String,
    },
}

/// Nobody listens to the events any more.
#[derive(Debug)]
struct Unheard;

/// Lists and watches Nodes until nobody listens to `events` any more. `state` is told how the connection is.
pub async fn run(client: Client, events: Sender<NodeEvent>, state: tokio::sync::watch::Sender<ApiState>) {
    let mut reports = Reports::new(state);
    let mut jitter = Jitter::from_system();
    let mut failures = 0_u32;
    let mut next = Next::List(Since::Cache);
    loop {
        let begun = Instant::now();
        let done = match next {
            Next::List(since) => match list(&client, &since, &events).await {
                Err(Unheard) => return,
                Ok(Ok(version)) => {
                    reports.works();
                    next = Next::Watch(version);
                    continue;
                }
                Ok(Err(failure)) => {
                    next = Next::List(since.after(&failure));
                    Err(failure)
                }
            },
            Next::Watch(mut version) => match watch(&client, &mut version, &events, || reports.works()).await
            {
                Err(Unheard) => return,
                Ok(Err(Failure::Expired(why))) => {
                    log::info!(
                        "the API server no longer knows the changes since resource version {version} ({why}): listing \
                         the Nodes again"
                    );
                    next = Next::List(Since::NotOlderThan(version));
                    // No failure, but never a tight loop, and not all agents at once.
                    failures = failures.min(AFTER_EXPIRY);
                    Ok(())
                }
                Ok(Err(failure @ Failure::FromTheFuture(_))) => {
                    next = Next::List(Since::Now);
                    Err(failure)
                }
                Ok(result) => {
                    next = Next::Watch(version);
                    result
                }
            },
        };
        if begun.elapsed() >= SHORT && matches!(next, Next::Watch(_)) && done.is_ok() {
            failures = 0;
        } else {
            failures = failures.saturating_add(1);
        }
        if let Err(failure) = done {
            reports.fails(&failure);
        }
        tokio::select! {
            () = sleep(wait(failures, &mut jitter)) => {}
            () = events.closed() => return,
        }
    }
}

/// What to do next.
enum Next {
    List(Since),
    /// From this resource version on.
    Watch(String),
}

/// How long to wait after so many failures in a row: anything up to half a second, doubled each time up to 30 s. The whole
/// of it is chance: after an outage the agents of a cluster come back evenly spread.
fn wait(failures: u32, jitter: &mut Jitter) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else {
        return Duration::ZERO;
    };
    let longest = FIRST_WAIT
        .saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX))
        .min(LONGEST_WAIT);
    Duration::from_micros(jitter.below(u64::try_from(longest.as_micros()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests;
