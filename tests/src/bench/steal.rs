//! Time that the hypervisor gave to others: a slice with much of it says nothing about the mode.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::load::Cpus;

/// Where the kernel counts it (proc_stat(5)).
const STAT: &str = "/proc/stat";
/// `steal` among the words of a CPU's line.
const COLUMN: usize = 8;
/// `USER_HZ`, the unit: 100 on every architecture that this runs on.
const TICK: Duration = Duration::from_millis(10);

/// Stolen time since the machine was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stolen(Duration);

impl Stolen {
    /// Of the CPUs of both ends together.
    pub(super) fn read(cpus: Cpus) -> Result<Self> {
        let text = fs::read_to_string(STAT).with_context(|| format!("cannot read {STAT}"))?;
        of(&text, cpus).with_context(|| format!("{STAT} has no line for a CPU of the benchmark"))
    }

    /// What has been stolen since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

fn of(text: &str, cpus: Cpus) -> Option<Stolen> {
    let of_cpu = |cpu: usize| {
        let name = format!("cpu{cpu}");
        let mut lines = text.lines().map(str::split_whitespace);
        let mut words = lines.find(|words| words.clone().next() == Some(&name))?;
        words.nth(COLUMN)?.parse::<u32>().ok()
    };
    Some(Stolen(TICK * (of_cpu(cpus.sender)? + of_cpu(cpus.receiver)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\ncpu1 1 2 3 4 5 6 7 40 0 0\nintr 1\n";

    #[test]
    fn the_time_of_both_cpus_is_read() {
        let cpus = |sender, receiver| Cpus { sender, receiver };
        assert_eq!(of(TEXT, cpus(0, 1)), Some(Stolen(Duration::from_millis(480))));
        assert_eq!(of(TEXT, cpus(0, 2)), None);
        let (before, after) = (Stolen(TICK), Stolen(3 * TICK));
        assert_eq!(
            (after.since(before), before.since(after)),
            (2 * TICK, Duration::ZERO)
        );
    }

    #[test]
    fn this_machine_tells() {
        Stolen::read(Cpus {
            sender: 0,
            receiver: 0,
        })
        .unwrap();
    }
}
