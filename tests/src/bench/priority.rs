//! The benchmark before everything else on the machine, and the machine afterwards as it was.

use std::fs;
use std::process::{self, Command};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigSet, Signal};

/// As `nice` counts: the highest there is.
const HIGHEST: &str = "-20";
/// Priority of this process's session, where the kernel shares the CPUs between sessions first (CONFIG_SCHED_AUTOGROUP,
/// sched(7)). It outlives the process: the session is that of the user's shell.
const SESSION: &str = "/proc/self/autogroup";

/// While it exists, this process and what it starts come before everything else: a benchmark measures best alone.
#[derive(Debug)]
pub(crate) struct Priority {
    session_before: Option<String>,
}

impl Priority {
    /// Call it before any other thread is started.
    pub(crate) fn raise() -> Result<Self> {
        let pid = process::id().to_string();
        let output = Command::new("renice").args(["-n", HIGHEST, "-p", &pid]).output();
        let output = output.context("cannot start renice")?;
        ensure!(
            output.status.success(),
            "cannot raise the benchmark's priority: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let Ok(before) = fs::read_to_string(SESSION) else {
            return Ok(Self { session_before: None });
        };
        // `/autogroup-2428 nice 0`
        let before = before.split_whitespace().last().unwrap_or("0").to_owned();
        restore_when_interrupted(before.clone())?;
        fs::write(SESSION, HIGHEST).with_context(|| format!("cannot write {HIGHEST} to {SESSION}"))?;
        Ok(Self {
            session_before: Some(before),
        })
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        if let Some(before) = &self.session_before {
            restore(before);
        }
    }
}

fn restore(before: &str) {
    if let Err(error) = fs::write(SESSION, before) {
        eprintln!(
            "the priority of this session stays raised; `echo {before} > {SESSION}` resets it: {error}"
        );
    }
}

/// Ends this process at a signal as it would end without, but not before the session is what it was.
///
/// Other threads inherit the mask, and so do children (since Rust 1.66): what is started meanwhile ends by SIGKILL only.
fn restore_when_interrupted(before: String) -> Result<()> {
    let signals: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]
        .into_iter()
        .collect();
    signals.thread_block().context("cannot hold signals back")?;
    let wait = move || {
        let signal = signals.wait().map_or(Signal::SIGINT, |signal| signal);
        restore(&before);
        eprintln!("\n✗ The benchmark was ended by {signal}; its nodes end with it");
        // The shell's way of saying which signal it was. The nodes end with the process.
        process::exit(128 + signal as i32);
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)
        .context("cannot start a thread")?;
    Ok(())
}
