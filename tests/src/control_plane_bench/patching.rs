//! Patches of Node objects, with the moment at which the server had answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use super::churn::{Turn, Turns};
use super::objects::{joining, leaving};
use super::peers::Peer;
use crate::api_server::{ApiClient, ApiServer};

/// Whoever patches Nodes as an administrator.
#[derive(Clone, Debug)]
pub(super) struct Patcher(ApiClient);

impl Patcher {
    /// At this server.
    pub(super) fn new(server: &ApiServer) -> Self {
        Self(server.client().clone())
    }

    /// Applies a JSON merge patch to the Node `name`; when the whole answer had arrived.
    pub(super) fn patch(&self, name: &str, patch: &Value) -> Result<Instant> {
        let request = http::Request::builder()
            .method("PATCH")
            .uri(format!("/api/v1/nodes/{name}"))
            .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
            .body(patch.to_string().into_bytes())?;
        let client = self.0.kube();
        let answered = self.0.block_on(async move {
            client.request_text(request).await?;
            Ok(Instant::now())
        });
        answered.with_context(|| format!("cannot patch the Node {name}"))
    }

    fn turn(&self, turn: Turn) -> Result<Instant> {
        match turn {
            Turn::Leaves(peer) => self.patch(&peer.name(), &leaving()),
            Turn::Joins(peer) => self.patch(&peer.name(), &joining(peer)),
        }
    }
}

/// How many threads share the churn: one request at a time would not do where the server takes its time.
const THREADS: u32 = 4;

/// Threads that change nodes at a steady rate.
#[derive(Debug)]
pub(super) struct Churner {
    changes: Arc<AtomicU32>,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
    since: Instant,
}

impl Churner {
    /// Begins to change `peers`, `rate` times per second.
    pub(super) fn start(
        patcher: &Patcher,
        peers: impl Iterator<Item = Peer> + Clone,
        rate: u32,
    ) -> Result<Self> {
        let mut churner = Self {
            changes: Arc::new(AtomicU32::new(0)),
            end: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
            since: Instant::now(),
        };
        let share = usize::try_from(THREADS)?;
        for first in 0..share {
            let mut turns = Turns::new(peers.clone().skip(first).step_by(share));
            let patcher = patcher.clone();
            let (changes, end) = (Arc::clone(&churner.changes), Arc::clone(&churner.end));
            let pace = Duration::from_secs(1) * THREADS / rate;
            let work = move || {
                let steady = change(&patcher, &mut turns, pace, &changes, &end);
                // Whatever happened: the next measurement finds every node in place.
                while let Some(turn) = turns.come_home() {
                    patcher.turn(turn)?;
                }
                steady
            };
            let thread = thread::Builder::new().name("churn".to_owned()).spawn(work)?;
            churner.threads.push(thread);
        }
        Ok(churner)
    }

    /// How many changes there were so far.
    pub(super) fn changes(&self) -> u32 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Ends it, with every node in place again. Returns how many changes per second there were.
    pub(super) fn stop(self) -> Result<f64> {
        let rate = f64::from(self.changes()) / self.since.elapsed().as_secs_f64();
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("the churn panicked"))??;
        }
        Ok(rate)
    }
}

/// One change every `pace`, until the end.
fn change(
    patcher: &Patcher,
    turns: &mut Turns,
    pace: Duration,
    changes: &AtomicU32,
    end: &AtomicBool,
) -> Result<()> {
    let mut due = Instant::now();
    while !end.load(Ordering::Relaxed) {
        let turn = turns.next().context("there is no node to change")?;
        patcher.turn(turn)?;
        changes.fetch_add(1, Ordering::Relaxed);
        due += pace;
        let now = Instant::now();
        // Who is late catches up, but not for ever.
        due = due.max(now.checked_sub(10 * pace).unwrap_or(now));
        thread::sleep(due.saturating_duration_since(now));
    }
    Ok(())
}
