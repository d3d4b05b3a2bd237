//! Testbeds that outlive the process that made them, and how they are ended again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::holder::{Identity, start_time};
use crate::space::RUN_VARIABLE;
use crate::wait::eventually;

const DIRECTORY: &str = "/run/overlay-testbed";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is known of a detached testbed.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    run: String,
    boot: String,
    holders: Vec<Identity>,
}

/// What became of one detached testbed.
#[derive(Clone, Debug)]
pub struct Cleaned {
    /// Name of the testbed.
    pub run: String,
    /// Nodes that were ended.
    pub ended: Vec<String>,
    /// Nodes that were gone already.
    pub gone: Vec<String>,
}

/// Writes down who holds the testbed `run`.
pub(crate) fn record(run: &str, holders: Vec<Identity>) -> Result<PathBuf> {
    fs::create_dir_all(DIRECTORY).with_context(|| format!("cannot make {DIRECTORY}"))?;
    let record = Record {
        run: run.to_owned(),
        boot: boot()?,
        holders,
    };
    let file = Path::new(DIRECTORY).join(format!("{run}.json"));
    fs::write(&file, serde_json::to_string_pretty(&record)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// Ends every detached testbed, and only processes that are proven to be holders of one: the process with the
/// recorded number must have started at the recorded time of this boot and carry the testbed's name.
///
/// # Errors
///
/// When a record cannot be read or a node does not end.
pub fn clean() -> Result<Vec<Cleaned>> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return Ok(Vec::new());
    };
    let mut files: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let cleaned = files.iter().map(|file| clean_one(file)).collect::<Result<_>>()?;
    // Fails while another testbed is being recorded, which is right.
    fs::remove_dir(DIRECTORY).ok();
    Ok(cleaned)
}

/// Ends the detached testbed whose record is `file`.
///
/// # Errors
///
/// When the record cannot be read or a node does not end.
pub fn clean_one(file: &Path) -> Result<Cleaned> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let record: Record = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a testbed's record; nothing was ended", file.display()))?;
    let this_boot = boot()? == record.boot;
    let mut cleaned = Cleaned {
        run: record.run.clone(),
        ended: Vec::new(),
        gone: Vec::new(),
    };
    for holder in &record.holders {
        if !this_boot || !is_holder(holder, &record.run) {
            cleaned.gone.push(holder.name.clone());
            continue;
        }
        kill(Pid::from_raw(holder.pid), Signal::SIGKILL)
            .with_context(|| format!("cannot end {} (process {})", holder.name, holder.pid))?;
        eventually(Duration::from_secs(10), "end of the node", || {
            ensure!(!is_holder(holder, &record.run), "{} still runs", holder.name);
            Ok(())
        })?;
        cleaned.ended.push(holder.name.clone());
    }
    fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
    Ok(cleaned)
}

fn is_holder(holder: &Identity, run: &str) -> bool {
    start_time(holder.pid) == Some(holder.start_time) && carries(holder.pid, run)
}

/// Whether process `pid` belongs to the testbed `run`.
fn carries(pid: i32, run: &str) -> bool {
    let wanted = format!("{RUN_VARIABLE}={run}");
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|variables| {
        variables
            .split(|byte| *byte == 0)
            .any(|variable| variable == wanted.as_bytes())
    })
}

/// Every process of the testbed `run` that still lives, with its command: empty once it is gone.
///
/// # Errors
///
/// When /proc cannot be read.
pub fn processes_of(run: &str) -> Result<Vec<String>> {
    let own = std::process::id().cast_signed();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        if pid != own && start_time(pid).is_some() && carries(pid, run) {
            let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            found.push(format!("{pid} ({})", command.trim()));
        }
    }
    Ok(found)
}

fn boot() -> Result<String> {
    fs::read_to_string(BOOT_ID)
        .map(|text| text.trim().to_owned())
        .with_context(|| format!("cannot read {BOOT_ID}"))
}
