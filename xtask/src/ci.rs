//! `cargo xtask ci`: everything that must hold before a change goes in; `.ci/run` calls it.

#[cfg(test)]
mod script;

use std::{process::ExitCode, time::Instant};

use anyhow::Result;

use crate::{
    build_ebpf, demo, host, lint,
    setup::{self, Need},
    test::{self, Tally},
};

/// Runs setup, lint, build-ebpf, test and demo, and closes with the line `N passed, N failed`.
///
/// Tests count one each; so do every check of lint, and setup, build-ebpf and demo as a whole.
/// Nothing is printed after that line; the exit code says the same.
pub(crate) fn run() -> ExitCode {
    let tally = steps();
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn steps() -> Tally {
    let ready = step("setup", || {
        host::require_root("the suites and the demo", "ci")?;
        setup::ensure(&[Need::Build, Need::Lint, Need::Run, Need::Api])?;
        Ok(Tally { passed: 1, failed: 0 })
    });
    if ready.failed > 0 {
        // Nothing below can say anything sensible on this machine.
        return ready;
    }
    let rest = [
        step("lint", || {
            Ok(lint::results().into_iter().map(|(_, clean)| one(clean)).sum())
        }),
        step("build-ebpf", || build_ebpf::run().map(|()| one(true))),
        step("test", test::check),
        step("demo", || demo::check().map(|()| one(true))),
    ];
    [ready].into_iter().chain(rest).sum()
}

fn one(good: bool) -> Tally {
    Tally {
        passed: usize::from(good),
        failed: usize::from(!good),
    }
}

fn step(name: &str, work: impl FnOnce() -> Result<Tally>) -> Tally {
    println!("\n##### {name}");
    let started = Instant::now();
    let tally = work().unwrap_or_else(|error| {
        eprintln!("{name}: {error:#}");
        one(false)
    });
    let verdict = if tally.failed == 0 { "good" } else { "FAILED" };
    println!(
        "##### {name}: {verdict} after {:.0} s",
        started.elapsed().as_secs_f64()
    );
    tally
}
