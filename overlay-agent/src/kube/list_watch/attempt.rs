//! One list, one watch.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;

use super::failure::Failure;
use super::request::{self, Since};
use super::{ANSWER, NEXT_PART, NodeEvent, SILENCE, Unheard};
use crate::control::backoff::Jitter;
use crate::kube::ask::chain;
use crate::kube::wire::{Encoding, ListEnd, ListReader, Malformed, WatchItem, WatchReader, status};

/// How much of an error's text is read.
const MAX_STATUS: usize = 64 << 10;
/// A watch is asked to last so long, and up to as long again, so that not all agents come back at once.
const WATCH_SECONDS: u64 = 300;

/// Lists all Nodes; the resource version of the list.
pub(super) async fn list(
    client: &Client,
    since: &Since,
    events: &Sender<NodeEvent>,
) -> Result<Result<String, Failure>, Unheard> {
    send(events, NodeEvent::ListBegins).await?;
    let mut page = None;
    loop {
        let end = match list_page(client, since, page.as_deref(), events).await? {
            Ok(end) => end,
            Err(failure) => return Ok(Err(failure)),
        };
        page = end.next;
        if page.is_none() {
            send(events, NodeEvent::ListEnds).await?;
            return Ok(Ok(end.resource_version));
        }
    }
}

async fn list_page(
    client: &Client,
    since: &Since,
    page: Option<&str>,
    events: &Sender<NodeEvent>,
) -> Result<Result<ListEnd, Failure>, Unheard> {
    let (encoding, mut body) = match answer("list", client, request::list(since, page)).await {
        Ok(answer) => answer,
        Err(failure) => return Ok(Err(failure)),
    };
    let mut reader = ListReader::new(encoding);
    loop {
        match next_part(&mut body, NEXT_PART).await {
            Ok(Some(part)) => reader.feed(&part),
            Ok(None) => return Ok(reader.end().map_err(|error| unreadable("list", &error))),
            Err(why) => return Ok(Err(Failure::Other(format!("cannot list Nodes: {why}")))),
        }
        loop {
            match reader.next() {
                Ok(Some(record)) => send(events, NodeEvent::Listed(record)).await?,
                Ok(None) => break,
                Err(error) => return Ok(Err(unreadable("list", &error))),
            }
        }
    }
}

/// Watches all Nodes from `version` on, which is kept up to date; calls `answered` when the server grants it.
pub(super) async fn watch(
    client: &Client,
    version: &mut String,
    events: &Sender<NodeEvent>,
    answered: impl FnOnce(),
) -> Result<Result<(), Failure>, Unheard> {
    let seconds = WATCH_SECONDS + Jitter::from_system().below(WATCH_SECONDS);
    let (encoding, mut body) = match answer("watch", client, request::watch(version, seconds)).await {
        Ok(answer) => answer,
        Err(failure) => return Ok(Err(failure)),
    };
    answered();
    let mut reader = WatchReader::new(encoding);
    loop {
        let part = tokio::select! {
            part = next_part(&mut body, SILENCE) => part,
            () = events.closed() => return Err(Unheard),
        };
        match part {
            Ok(Some(part)) => reader.feed(&part),
            Ok(None) => return Ok(Ok(())),
            // A connection that breaks is no failure: the next watch says whether there is one.
            Err(why) => {
                log::debug!("the watch of the Nodes breaks off: {why}");
                return Ok(Ok(()));
            }
        }
        loop {
            let item = match reader.next() {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(error) => return Ok(Err(unreadable("watch", &error))),
            };
            match item {
                WatchItem::Applied(record) => {
                    record.resource_version().clone_into(version);
                    send(events, NodeEvent::Applied(record)).await?;
                }
                WatchItem::Deleted(record) => {
                    record.resource_version().clone_into(version);
                    let name = record.name().to_owned();
                    send(events, NodeEvent::Deleted { name }).await?;
                }
                WatchItem::Bookmark(at) => *version = at,
                WatchItem::Error(status) => {
                    return Ok(Err(Failure::from_status("watch", None, &status)));
                }
            }
        }
    }
}

/// The beginning of an answer that is what was asked for.
async fn answer(
    verb: &str,
    client: &Client,
    request: Result<Request<Body>, http::Error>,
) -> Result<(Encoding, Body), Failure> {
    let other = |why: String| Failure::Other(format!("cannot {verb} Nodes: {why}"));
    let request = request.map_err(|error| other(error.to_string()))?;
    let response = timeout(ANSWER, client.send(request))
        .await
        .map_err(|_| {
            other(format!(
                "the API server does not answer within {} s",
                ANSWER.as_secs()
            ))
        })?
        .map_err(|error| other(chain(&error)))?;
    let encoding = Encoding::of(response.headers());
    if response.status().is_success() {
        return Ok((encoding, response.into_body()));
    }
    let http = response.status();
    let text = status(encoding, &error_body(response).await);
    Err(Failure::from_status(verb, Some(http), &text))
}

/// The beginning of the body of an error; what cannot be read of it is left out.
async fn error_body(response: Response<Body>) -> Vec<u8> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while bytes.len() < MAX_STATUS {
        match next_part(&mut body, NEXT_PART).await {
            Ok(Some(part)) => bytes.extend_from_slice(&part),
            Ok(None) | Err(_) => break,
        }
    }
    bytes
}

/// The next bytes of an answer; `None` at its end.
async fn next_part(body: &mut Body, patience: Duration) -> Result<Option<Bytes>, String> {
    loop {
        let frame = match timeout(patience, body.frame()).await {
            Err(_) => return Err(format!("nothing came for {} s", patience.as_secs())),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(chain(&error)),
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers are nothing to read.
        if let Ok(part) = frame.into_data() {
            return Ok(Some(part));
        }
    }
}

async fn send(events: &Sender<NodeEvent>, event: NodeEvent) -> Result<(), Unheard> {
    events.send(event).await.map_err(|_| Unheard)
}

fn unreadable(verb: &str, error: &Malformed) -> Failure {
    Failure::Other(format!(
        "cannot {verb} Nodes: the API server's answer cannot be read: {error}"
    ))
}
