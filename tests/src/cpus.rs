//! The CPUs of this machine, and staying on one.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Those that the calling thread may use, in order.
pub(crate) fn allowed() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("cannot ask which CPUs may be used")?;
    // Only a number of `count` or more is refused.
    Ok((0..CpuSet::count())
        .filter(|cpu| allowed.is_set(*cpu).is_ok_and(|is_set| is_set))
        .collect())
}

/// Keeps the calling thread on `cpu`.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &only))
        .with_context(|| format!("cannot keep a thread on CPU {cpu}"))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn who_is_pinned_may_use_one_cpu_and_others_all() {
        let before = allowed().unwrap();
        let last = *before.last().unwrap();
        let pinned = thread::spawn(move || {
            pin(last).unwrap();
            allowed().unwrap()
        });
        assert_eq!(pinned.join().unwrap(), [last]);
        assert_eq!(allowed().unwrap(), before);
        assert!(pin(CpuSet::count()).is_err());
    }
}
