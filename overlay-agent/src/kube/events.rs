//! Kubernetes Events about conflicts between this node's lease and others'.
//!
//! Nothing depends on them: without the rule `create events` there is one warning, and the log says the same things.

mod notice;
mod outbox;
mod post;
#[cfg(test)]
mod tests;

use self::notice::notices;
use self::outbox::{Next, Outbox};
use self::post::Reporter;
use kube::Client;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::record::NodeRecord;
use super::retry::Retry;
use crate::control::state::State;

/// Reports conflicts as long as the other ends live.
///
/// Each is reported once for as long as it holds (and renewed before the API server forgets it), at most ten a minute, the
/// rest as one. A failed request is made again later, and never keeps anything else waiting.
pub async fn report(
    client: Client,
    node: String,
    mut own: watch::Receiver<Option<NodeRecord>>,
    mut state: watch::Receiver<State>,
) {
    let reporter = Reporter::new(client, node.clone());
    let (mut outbox, mut retry) = (Outbox::default(), Retry::default());
    loop {
        let current = notices(&node, &state.borrow_and_update().problems);
        // The event names the Node by its uid.
        let uid = own
            .borrow_and_update()
            .as_ref()
            .map(|record| record.uid().to_owned());
        let wait = match (uid, outbox.next(&current, Instant::now())) {
            (
                Some(uid),
                Next::Send {
                    notice,
                    times,
                    instead_of,
                },
            ) => {
                outbox.spent(Instant::now());
                match reporter.report(&uid, &notice, times).await {
                    Ok(()) => {
                        retry.succeeded("reporting conflicts as Kubernetes Events");
                        outbox.reported(notice, times, instead_of, Instant::now());
                    }
                    Err(refusal) => {
                        let text = format!(
                            "{refusal}; conflicts between nodes stay in this log, and everything else works"
                        );
                        let wait = retry.failed(log::Level::Warn, text);
                        sleep(wait).await;
                    }
                }
                continue;
            }
            (Some(_), Next::Wait(until)) => until,
            (None, _) => None,
        };
        let due = async {
            match wait {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let waits_for_own = own.borrow().is_none();
        let ended = tokio::select! {
            changed = state.changed() => changed.is_err(),
            changed = own.changed(), if waits_for_own => changed.is_err(),
            () = due => false,
        };
        if ended {
            return;
        }
    }
}
