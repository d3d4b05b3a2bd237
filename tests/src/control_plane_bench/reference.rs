//! The reference: a client that watches the Nodes as the agent does, and does nothing about them. What it takes until it
//! has an event is the API server's and the machine's part of what an agent takes.

use std::pin::pin;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use futures_util::AsyncReadExt as _;
use futures_util::future::{Either, select};
use http::header::ACCEPT;
use serde_json::Value;
use tokio::sync::Notify;

use super::events::Witness;
use super::notifications::Change;
use super::peers::Peer;
use crate::api_server::ApiServer;
use crate::lock::lock;

/// What the agent asks for.
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// No event is larger.
const LARGEST: usize = 1 << 20;

/// A watch that is open.
#[derive(Debug)]
pub(super) struct Reference {
    expected: Arc<Mutex<Option<Peer>>>,
    /// When the expected event was there; an error when the watch has ended by itself.
    seen: Receiver<Result<Instant>>,
    end: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Reference {
    /// Begins to watch what happens from now on.
    pub(super) fn start(server: &ApiServer) -> Result<Self> {
        // Not the client that patches: what keeps one of them waiting must not keep both.
        let client = server.another_client()?;
        let list: Value = client.get("/api/v1/nodes?limit=1")?;
        let version = list
            .pointer("/metadata/resourceVersion")
            .and_then(Value::as_str)
            .context("a list without resourceVersion")?;
        let request = http::Request::builder()
            .uri(format!("/api/v1/nodes?watch=1&resourceVersion={version}"))
            .header(ACCEPT, PROTOBUF)
            .body(Vec::new())?;
        let (expected, end) = (Arc::new(Mutex::new(None)), Arc::new(Notify::new()));
        let (its_expected, its_end) = (Arc::clone(&expected), Arc::clone(&end));
        let ((opened, is_open), (sender, seen)) = (mpsc::channel(), mpsc::channel());
        let (kube, its_sender) = (client.kube(), sender.clone());
        let work = async move {
            let watching = pin!(watch(kube, request, &opened, &its_expected, &its_sender));
            match select(watching, pin!(its_end.notified())).await {
                Either::Left((ended, _)) => ended,
                Either::Right(_) => Ok(()),
            }
        };
        let run = move || {
            if let Err(error) = client.block_on(work) {
                // Nobody waits for an event any more when the benchmark has given up.
                sender.send(Err(error)).ok();
            }
        };
        let thread = thread::Builder::new().name("reference".to_owned()).spawn(run)?;
        let reference = Self {
            expected,
            seen,
            end,
            thread: Some(thread),
        };
        // Otherwise its end is what there is to see.
        if is_open.recv().is_err() {
            reference.wait(Duration::from_secs(1))?;
        }
        Ok(reference)
    }

    /// Ends the watch.
    pub(super) fn stop(mut self) -> Result<()> {
        self.end.notify_one();
        let thread = self.thread.take().context("it has ended")?;
        thread.join().map_err(|_| anyhow!("the watch panicked"))
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.end.notify_one();
    }
}

impl Witness for Reference {
    fn expect(&self, peer: Peer, _: Change) {
        *lock(&self.expected) = Some(peer);
    }

    fn wait(&self, patience: Duration) -> Result<Instant> {
        self.seen
            .recv_timeout(patience)
            .context("no event of the watch")?
    }
}

async fn watch(
    client: kube::Client,
    request: http::Request<Vec<u8>>,
    opened: &Sender<()>,
    expected: &Mutex<Option<Peer>>,
    seen: &Sender<Result<Instant>>,
) -> Result<()> {
    let mut stream = Box::pin(client.request_stream(request).await.context("cannot watch")?);
    // Whoever has started it waits for that.
    opened.send(()).ok();
    let mut event = Vec::new();
    loop {
        // As long as a frame says in its first four bytes.
        let mut length = [0; 4];
        stream.read_exact(&mut length).await.context("the watch ended")?;
        let length = usize::try_from(u32::from_be_bytes(length))?;
        ensure!(length <= LARGEST, "an event of {length} bytes");
        event.resize(length, 0);
        stream.read_exact(&mut event).await.context("the watch ended")?;
        let now = Instant::now();
        let mut expected = lock(expected);
        if expected.take_if(|peer| names(&event, *peer)).is_some() {
            // Nobody waits for it any more when the benchmark has given up.
            seen.send(Ok(now)).ok();
        }
    }
}

/// Whether the event is about this peer's Node.
fn names(event: &[u8], peer: Peer) -> bool {
    let name = peer.name();
    event.windows(name.len()).any(|part| part == name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_about_the_peer_that_it_names() {
        let event = b"k8s\0\n\x0bbench-00012\x12\x03abc";
        assert!(names(event, Peer(12)));
        assert!(!names(event, Peer(1)) && !names(event, Peer(120)) && !names(b"", Peer(12)));
    }
}
