//! The request socket: many users take turns, changes go in batches, dumps are complete or an error.

use std::time::Duration;

use rtnetlink::packet_route::RouteNetlinkMessage;
use tokio::sync::Mutex;

use super::connection::{Connection, DumpError};
use super::error::RequestError;
use super::own::Sender;
use super::request::Change;

pub(super) use super::connection::Entry;

/// Requests in one datagram. Their answers, if all of them are refused (under 1 KiB of socket memory each), must fit the
/// default receive buffer (208 KiB) together: the kernel drops those that do not.
const BATCH: usize = 128;

/// Attempts at a dump that changes while it is read.
const DUMP_ATTEMPTS: u32 = 10;

/// Pause after the first of them; doubled after each.
const DUMP_PAUSE: Duration = Duration::from_millis(2);

/// A `NETLINK_ROUTE` socket of the network namespace it was first opened in; opened again when it fails.
pub(super) struct Socket {
    connection: Mutex<Option<Connection>>,
    own: Sender,
}

impl Socket {
    /// Opens the socket.
    pub(super) fn open() -> Result<Self, RequestError> {
        Ok(Self {
            connection: Mutex::new(Some(Connection::open()?)),
            own: Sender::default(),
        })
    }

    /// What causes notifications that are not news.
    pub(super) const fn own(&self) -> &Sender {
        &self.own
    }

    /// Sends the changes in order, many to a datagram; one result for each. Gives way to other tasks after each datagram,
    /// so that the notifications that it caused can be read before there are too many.
    pub(super) async fn change(&self, changes: &[Change]) -> Vec<Result<(), RequestError>> {
        let mut results = Vec::with_capacity(changes.len());
        let mut guard = self.connection.lock().await;
        for (number, batch) in changes.chunks(BATCH).enumerate() {
            if number > 0 {
                tokio::task::yield_now().await;
            }
            let answers = match usable(&mut guard) {
                Ok(open) => {
                    let notices = batch.iter().filter_map(|change| change.notice);
                    self.own.sending(open.port(), notices);
                    let answers = open.change(batch);
                    let refused = batch.iter().zip(&answers).filter(|(_, answer)| answer.is_err());
                    self.own.answered(refused.filter_map(|(change, _)| change.notice));
                    answers
                }
                Err(error) => vec![Err(error); batch.len()],
            };
            let lost = answers.iter().find_map(|answer| match answer {
                Err(error @ RequestError::Lost(_)) => Some(error.clone()),
                Err(RequestError::Refused { .. }) | Ok(()) => None,
            });
            results.extend(answers);
            if let Some(error) = lost {
                close(&mut guard);
                results.resize(changes.len(), Err(error));
                break;
            }
        }
        results
    }

    /// Sends one change.
    pub(super) async fn change_one(&self, change: Change) -> Result<(), RequestError> {
        let lost = || Err(RequestError::lost("the request was not sent"));
        self.change(&[change]).await.pop().unwrap_or_else(lost)
    }

    /// Index of the device of this name, if there is one.
    pub(super) async fn index_of(&self, device_name: &str) -> Result<Option<u32>, RequestError> {
        usable(&mut *self.connection.lock().await)?.index_of(device_name)
    }

    /// Asks for one object.
    pub(super) async fn get(
        &self,
        request: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, RequestError> {
        let mut guard = self.connection.lock().await;
        let answer = usable(&mut guard)?.get(request);
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
            let mut guard = self.connection.lock().await;
            match usable(&mut guard)?.dump(request.clone(), &read) {
                Ok(items) => {
                    // A long list takes long, and more than one may be read in a row.
                    drop(guard);
                    tokio::task::yield_now().await;
                    return Ok(items);
                }
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

/// The open socket; opens a new one if there is none.
fn usable(slot: &mut Option<Connection>) -> Result<&mut Connection, RequestError> {
    match slot {
        Some(open) => Ok(open),
        None => Ok(slot.insert(Connection::open()?)),
    }
}

/// Gives up a socket whose state is unknown; the next request opens another.
fn close(slot: &mut Option<Connection>) {
    *slot = None;
}
