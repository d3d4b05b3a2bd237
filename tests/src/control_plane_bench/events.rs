//! From the API server's answer to a patch until somebody has followed it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::time::ClockId;

use super::absence::Absences;
use super::notifications::Change;
use super::objects::{joining, leaving};
use super::patching::{Churner, Patcher};
use super::peers::Peer;
use super::process::cpu;

/// How long a single peer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// CPU time is told in windows of this length: what the agent puts off, and does for several events at once, is in it.
const WINDOW: Duration = Duration::from_secs(1);

/// Whoever sees that a change of a Node has been followed.
pub(super) trait Witness {
    /// From now on this change of `peer` is awaited.
    fn expect(&self, peer: Peer, change: Change);

    /// When it was followed.
    ///
    /// # Errors
    ///
    /// When that has not happened within `patience`.
    fn wait(&self, patience: Duration) -> Result<Instant>;
}

/// So many times as many changes as asked for, at most: what was disturbed is measured again.
const AGAIN: usize = 4;

/// What was measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    /// Milliseconds until the witness saw a new peer.
    pub(super) add_ms: Vec<f64>,
    /// Milliseconds until it saw that a peer was gone.
    pub(super) remove_ms: Vec<f64>,
    /// Microseconds of the agent's CPU time per changed Node, one for each second.
    pub(super) event_cpu_us: Vec<f64>,
    /// Samples that do not count: a CPU was away meanwhile.
    pub(super) disturbed: usize,
}

/// Lets `peers` leave and join again one after the other, a patch every `pace`, until each has been seen `count` times
/// undisturbed. `agent` is the clock of its CPU time, if there is an agent.
pub(super) fn measure(
    patcher: &Patcher,
    witness: &impl Witness,
    agent: Option<ClockId>,
    churner: Option<&Churner>,
    peers: impl Iterator<Item = Peer>,
    count: usize,
    pace: Duration,
) -> Result<Samples> {
    let mut samples = Samples::default();
    let absences = Absences::watch()?;
    let mut meter = agent.map(|agent| Meter::start(agent, churner)).transpose()?;
    let mut due = Instant::now();
    for peer in peers.take(AGAIN * count) {
        if samples.add_ms.len().min(samples.remove_ms.len()) == count {
            break;
        }
        for change in [Change::Gone, Change::New] {
            witness.expect(peer, change);
            let patch = match change {
                Change::Gone => leaving(),
                Change::New => joining(peer),
            };
            let sent = Instant::now();
            let answered = patcher.patch(&peer.name(), &patch)?;
            let done = witness.wait(PATIENCE).with_context(|| match change {
                Change::Gone => format!("{} is not removed", peer.name()),
                Change::New => format!("{} is not programmed", peer.name()),
            })?;
            let (all, milliseconds) = match change {
                Change::Gone => (&mut samples.remove_ms, between(answered, done)),
                Change::New => (&mut samples.add_ms, between(answered, done)),
            };
            // The next one follows when the agent is at rest, however long this one took.
            due = (due + pace).max(done + pace / 2);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if absences.overlap(sent, answered.max(done)) {
                samples.disturbed += 1;
            } else if all.len() < count {
                all.push(milliseconds);
            }
            if let Some(meter) = &mut meter {
                samples.event_cpu_us.extend(meter.event()?);
            }
        }
    }
    absences.stop()?;
    Ok(samples)
}

/// Milliseconds from `start` to `end`, negative if `end` came first.
fn between(start: Instant, end: Instant) -> f64 {
    let forward = end.saturating_duration_since(start);
    let backward = start.saturating_duration_since(end);
    (forward.as_secs_f64() - backward.as_secs_f64()) * 1e3
}

/// CPU time per event, window by window.
struct Meter<'a> {
    clock: ClockId,
    churner: Option<&'a Churner>,
    since: Instant,
    cpu: Duration,
    others: u32,
    own: u32,
}

impl<'a> Meter<'a> {
    fn start(clock: ClockId, churner: Option<&'a Churner>) -> Result<Self> {
        Ok(Self {
            clock,
            churner,
            since: Instant::now(),
            cpu: cpu(clock)?,
            others: churner.map_or(0, Churner::changes),
            own: 0,
        })
    }

    /// One more event is over; microseconds per event, at the end of a window.
    fn event(&mut self) -> Result<Option<f64>> {
        self.own += 1;
        if self.since.elapsed() < WINDOW {
            return Ok(None);
        }
        let next = Self::start(self.clock, self.churner)?;
        let events = next.others.wrapping_sub(self.others) + self.own;
        let used = next.cpu.saturating_sub(self.cpu);
        *self = next;
        Ok(Some(used.as_secs_f64() * 1e6 / f64::from(events)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_can_be_there_before_the_answer() {
        let (early, late) = (Instant::now(), Instant::now() + Duration::from_millis(3));
        assert!((between(early, late) - 3.0).abs() < 0.1);
        assert_eq!(between(early, late), -between(late, early));
    }
}
