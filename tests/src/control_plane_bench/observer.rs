//! When a peer's last entry has come or gone, seen from outside the agent.
//!
//! The kernel tells of routes, neighbours and forwarding entries by itself. Maps tell nothing, so they are looked at,
//! and only in the moment that counts: once the kernel's three entries are there (or gone) the two map entries are
//! there as well or follow within microseconds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::prctl::set_timerslack;

use super::events::Witness;
use super::maps::PeerMaps;
use super::notifications::{Change, Notification, Notifications, Object};
use super::peers::Peer;
use crate::lock::lock;
use crate::space::Space;

/// How often the thread looks whether it shall end.
const PATIENCE: Duration = Duration::from_millis(200);
/// From one look at the maps to the next, at first and later. Always with a pause: who spins keeps the agent waiting where
/// the scheduler has put both on one CPU (a system call of the agent's wakes this thread).
const PAUSE: Duration = Duration::from_micros(20);
const LONG_PAUSE: Duration = Duration::from_micros(200);
/// How long the short pause is enough.
const SOON: Duration = Duration::from_millis(5);
/// By how many nanoseconds the kernel may prolong a pause; as it comes, 50 µs.
const TIMER_SLACK: u64 = 1;
/// How long the maps may lag behind the kernel at all.
const MAPS: Duration = Duration::from_secs(3);

/// Waits in the node's namespace for one peer at a time.
#[derive(Debug)]
pub(super) struct Observer {
    target: Arc<Mutex<Option<Target>>>,
    done: Receiver<Result<Instant>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// A peer whose entries are awaited.
#[derive(Clone, Debug)]
struct Target {
    peer: Peer,
    change: Change,
    missing: Vec<Object>,
}

impl Target {
    fn new(peer: Peer, change: Change) -> Self {
        let missing = vec![
            Object::Route(peer.subnet()),
            Object::Neighbour(peer.subnet()),
            Object::Fdb(peer.vtep_mac()),
        ];
        Self {
            peer,
            change,
            missing,
        }
    }

    /// Takes note of what happened; whether nothing is missing any more.
    fn saw(&mut self, notifications: &[Notification]) -> bool {
        for seen in notifications.iter().filter(|seen| seen.change == self.change) {
            self.missing.retain(|object| *object != seen.object);
        }
        self.missing.is_empty()
    }
}

impl Observer {
    /// Begins to observe the node of `space`, whose agent has made its maps.
    pub(super) fn start(space: &Space) -> Result<Self> {
        let maps = PeerMaps::open(space)?;
        let (target, end) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        let (sender, done) = mpsc::channel();
        let (opened, is_open) = mpsc::channel();
        let (its_target, its_end) = (Arc::clone(&target), Arc::clone(&end));
        let thread = space.spawn_inside(move || {
            let notifications = set_timerslack(TIMER_SLACK)
                .context("cannot set the timer slack")
                .and_then(|()| Notifications::open(PATIENCE));
            opened.send(()).ok();
            observe(notifications?, &maps, &its_target, &its_end, &sender)
        });
        // What happens from here on is seen.
        is_open.recv().context("the observing thread ended at once")?;
        Ok(Self {
            target,
            done,
            end,
            thread: Some(thread),
        })
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// What it stumbled over.
    pub(super) fn stop(mut self) -> Result<()> {
        self.end.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it has ended")?;
        thread
            .join()
            .map_err(|_| anyhow!("the observing thread panicked"))?
    }
}

impl Witness for Observer {
    fn expect(&self, peer: Peer, change: Change) {
        *lock(&self.target) = Some(Target::new(peer, change));
    }

    /// The error says what is missing.
    fn wait(&self, patience: Duration) -> Result<Instant> {
        match self.done.recv_timeout(patience) {
            Ok(when) => when,
            Err(RecvTimeoutError::Timeout) => {
                let missing = lock(&self.target).take();
                bail!("not within {patience:?}: {missing:?}")
            }
            Err(RecvTimeoutError::Disconnected) => bail!("the observing thread has ended"),
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

fn observe(
    mut notifications: Notifications,
    maps: &PeerMaps,
    target: &Mutex<Option<Target>>,
    end: &AtomicBool,
    done: &Sender<Result<Instant>>,
) -> Result<()> {
    while !end.load(Ordering::Relaxed) {
        let (when, seen) = notifications.receive()?;
        let complete = lock(target).take_if(|target| target.saw(&seen));
        if let Some(complete) = complete {
            let there = complete.change == Change::New;
            // Nobody listens any more when the benchmark has given up.
            done.send(in_maps(maps, complete.peer, there, when)).ok();
        }
    }
    Ok(())
}

/// When the maps have (or no longer have) the peer: `before` if they do at the first look.
fn in_maps(maps: &PeerMaps, peer: Peer, there: bool, before: Instant) -> Result<Instant> {
    if maps.has(peer, there)? {
        return Ok(before);
    }
    thread::sleep(PAUSE);
    loop {
        let is_so = maps.has(peer, there)?;
        let now = Instant::now();
        let waited = now.duration_since(before);
        match is_so {
            true => return Ok(now),
            false if waited > MAPS => bail!("the maps do not follow the kernel: {}", peer.name()),
            false if waited > SOON => thread::sleep(LONG_PAUSE),
            false => thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_complete_with_its_last_entry() {
        let peer = Peer(5);
        let of = |change, object| Notification { change, object };
        let mut target = Target::new(peer, Change::Gone);
        assert!(!target.saw(&[of(Change::Gone, Object::Route(peer.subnet()))]));
        // Somebody else's, and what comes instead of going.
        assert!(!target.saw(&[
            of(Change::Gone, Object::Fdb(Peer(6).vtep_mac())),
            of(Change::New, Object::Fdb(peer.vtep_mac())),
            of(Change::Gone, Object::Neighbour(peer.subnet())),
        ]));
        assert!(target.saw(&[of(Change::Gone, Object::Fdb(peer.vtep_mac()))]));
    }
}
