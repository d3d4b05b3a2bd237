//! When a CPU was away: not even the most urgent thread got it. On a virtual machine the hypervisor gives it to somebody
//! else, for milliseconds at a time. (Work of the kernel's without a break would look the same; hence it is counted with and
//! without an agent.)
//!
//! `/proc/stat` tells of such time (steal) in hundredths of a second only: too coarse for a single event.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::unistd::gettid;

use crate::cpus;
use crate::lock::lock;

/// How often each CPU is asked for.
const PERIOD: Duration = Duration::from_micros(500);
/// A thread that was to run that much earlier has been kept from it. The kernel alone takes microseconds.
const LATE: Duration = Duration::from_millis(2);
/// Of SCHED_FIFO (sched(7)): before everything else that is not as urgent itself.
const PRIORITY: &str = "50";

type Gaps = Arc<Mutex<Vec<(Instant, Instant)>>>;

/// Asks for every CPU again and again, until dropped.
#[derive(Debug)]
pub(super) struct Absences {
    gaps: Gaps,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Absences {
    /// Begins to ask, on every CPU that this process may use.
    pub(super) fn watch() -> Result<Self> {
        let mut absences = Self {
            gaps: Gaps::default(),
            end: Arc::default(),
            threads: Vec::new(),
        };
        for cpu in cpus::allowed()? {
            absences.ask_for(cpu)?;
        }
        Ok(absences)
    }

    fn ask_for(&mut self, cpu: usize) -> Result<()> {
        let (gaps, end) = (Arc::clone(&self.gaps), Arc::clone(&self.end));
        let (ready, is_ready) = mpsc::channel();
        let work = move || {
            let urgent = become_urgent(cpu);
            let failed = urgent.is_err();
            // Whoever has started it waits for that.
            ready.send(urgent).ok();
            if !failed {
                ask(&gaps, &end);
            }
        };
        let thread = thread::Builder::new()
            .name(format!("absence-{cpu}"))
            .spawn(work)?;
        self.threads.push(thread);
        is_ready.recv().context("the thread ended at once")?
    }

    /// Whether a CPU was away between the two, as far as that is known: call it a few milliseconds later.
    pub(super) fn overlap(&self, start: Instant, end: Instant) -> bool {
        lock(&self.gaps)
            .iter()
            .any(|(from, to)| *from < end && start < *to)
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> Result<()> {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread
                .join()
                .map_err(|_| anyhow!("a thread that asks for a CPU panicked"))?;
        }
        Ok(())
    }
}

impl Drop for Absences {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// The calling thread stays on `cpu`, and comes first there.
fn become_urgent(cpu: usize) -> Result<()> {
    cpus::pin(cpu)?;
    let output = Command::new("chrt")
        .args(["--fifo", "--pid", PRIORITY, &gettid().to_string()])
        .output()
        .context("cannot start chrt (Debian: util-linux)")?;
    ensure!(
        output.status.success(),
        "cannot get a real-time priority: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

fn ask(gaps: &Gaps, end: &AtomicBool) {
    let mut last = Instant::now();
    while !end.load(Ordering::Relaxed) {
        thread::sleep(PERIOD);
        let now = Instant::now();
        if now.duration_since(last) > PERIOD + LATE {
            lock(gaps).push((last + PERIOD, now));
        }
        last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_touches_a_gap_is_told_from_what_does_not() {
        let zero = Instant::now();
        let at = |millis| zero + Duration::from_millis(millis);
        let absences = Absences {
            gaps: Arc::new(Mutex::new(vec![(at(10), at(15)), (at(30), at(31))])),
            end: Arc::default(),
            threads: Vec::new(),
        };
        let touched = [(0, 9), (0, 11), (12, 13), (14, 20), (15, 20), (16, 40), (31, 50)]
            .map(|(start, end)| absences.overlap(at(start), at(end)));
        assert_eq!(touched, [false, true, true, true, false, true, false]);
    }
}
