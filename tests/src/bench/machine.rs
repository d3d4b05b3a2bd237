//! What the machine is, and what it must allow.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::result::Machine;
use crate::agent;

/// Open files of one end: 10,000 flows and some room.
const SOCKETS: u64 = 12_000;

/// Describes the machine.
pub(crate) fn describe(with_agent: bool) -> Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let processor = read("/proc/cpuinfo")?
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned());
    let load = read("/proc/loadavg")?;
    let load: f64 = load
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .parse()
        .unwrap_or_default();
    let agent = if with_agent {
        let binary = agent::binary()?;
        let output = Command::new(binary).arg("--version").output();
        let output = output.with_context(|| format!("cannot start {}", binary.display()))?;
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    } else {
        "none".to_owned()
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a load is a small positive number"
    )]
    let load_percent = (load * 100.0) as u32;
    Ok(Machine {
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        processor,
        cpus: thread::available_parallelism().map_or(0, Into::into),
        started_at: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
        seconds: 0,
        agent,
        load_percent,
    })
}

/// Allows each thread as many sockets as the largest case needs.
pub(super) fn allow_sockets() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < SOCKETS {
        setrlimit(Resource::RLIMIT_NOFILE, SOCKETS, hard.max(SOCKETS)).with_context(|| {
            format!(
                "10,000 flows need {SOCKETS} open files, and this process may have {soft} (hard limit {hard}) and not raise \
                 the limit: raise it before with `ulimit -n {SOCKETS}`"
            )
        })?;
    }
    Ok(())
}
