//! The request socket: many users take turns, changes go in batches, dumps are complete or an error.

use std::time::Duration;

use rtnetlink::packet_route::RouteNetlinkMessage;
use tokio::sync::Mutex;

use super::connection::{Connection, DumpError};
use super::error::RequestError;

pub(super) use super::connection::{Change, Entry};

/// Requests in one datagram. Their acknowledgements (under 1 KiB of socket memory each) must fit the default receive
/// buffer (208 KiB) together: the kernel drops those that do not.
const BATCH: usize = 128;

/// Attempts at a dump that changes while it is read, or that finds another one of this socket unfinished.
const DUMP_ATTEMPTS: u32 = 10;

/// Pause after the first of them; doubled after each.
const DUMP_PAUSE: Duration = Duration::from_millis(2);

/// A `NETLINK_ROUTE` socket of the network namespace it was first opened in; opened again when it fails.
pub(super) struct Socket(Mutex<Option<Connection>>);

impl Socket {
    /// Opens the socket. Must be called on a tokio runtime.
    pub(super) fn open() -> Result<Self, RequestError> {
        Ok(Self(Mutex::new(Some(Connection::open()?))))
    }

    /// Sends the changes in order, many to a datagram; one result for each.
    pub(super) async fn change(&self, changes: Vec<Change>) -> Vec<Result<(), RequestError>> {
        let mut results = Vec::with_capacity(changes.len());
        let mut guard = self.0.lock().await;
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let batch: Vec<_> = changes.by_ref().take(BATCH).collect();
            let count = batch.len();
            let answers = match usable(&mut guard) {
                Ok(open) => open.change(batch).await,
                Err(error) => vec![Err(error); count],
            };
            let lost = answers.iter().find_map(|answer| match answer {
                Err(error @ RequestError::Lost(_)) => Some(error.clone()),
                Err(RequestError::Refused { .. }) | Ok(()) => None,
            });
            results.extend(answers);
            if let Some(error) = lost {
                close(&mut guard);
                results.extend(changes.by_ref().map(|_| Err(error.clone())));
            }
        }
        results
    }

    /// Sends one change.
    pub(super) async fn change_one(&self, change: Change) -> Result<(), RequestError> {
        let lost = || Err(RequestError::lost("the request was not sent"));
        self.change(vec![change]).await.pop().unwrap_or_else(lost)
    }

    /// Asks for one object.
    pub(super) async fn get(
        &self,
        request: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, RequestError> {
        let mut guard = self.0.lock().await;
        let answer = usable(&mut guard)?.get(request).await;
        if matches!(answer, Err(RequestError::Lost(_))) {
            close(&mut guard);
        }
        answer
    }

    /// Reads all objects that the request selects and `read` keeps. Complete and consistent, or an error.
    pub(super) async fn dump<T>(
        &self,
        request: RouteNetlinkMessage,
        read: impl Fn(Entry) -> Result<Option<T>, RequestError>,
    ) -> Result<Vec<T>, RequestError> {
        let mut pause = DUMP_PAUSE;
        for attempt in 1.. {
            let mut guard = self.0.lock().await;
            match usable(&mut guard)?.dump(request.clone(), &read).await {
                Ok(items) => return Ok(items),
                Err(DumpError::Transient(_)) if attempt < DUMP_ATTEMPTS => {}
                Err(DumpError::Transient(error) | DumpError::Final(error)) => {
                    if matches!(error, RequestError::Lost(_)) {
                        close(&mut guard);
                    }
                    return Err(error);
                }
            }
            drop(guard);
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
        Err(RequestError::lost("no attempt was made"))
    }
}

/// The open socket; opens a new one if there is none or its task has ended.
fn usable(slot: &mut Option<Connection>) -> Result<&mut Connection, RequestError> {
    if slot.as_ref().is_some_and(Connection::is_closed) {
        log::warn!("the netlink socket was closed by an error: opening another");
        *slot = None;
    }
    match slot {
        Some(open) => Ok(open),
        None => Ok(slot.insert(Connection::open()?)),
    }
}

/// Gives up a socket whose state is unknown; the next request opens another.
fn close(slot: &mut Option<Connection>) {
    *slot = None;
}
