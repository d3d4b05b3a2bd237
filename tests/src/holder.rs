//! The process that holds a node's namespaces together, and whose end is the node's end.
//!
//! PID 1 of the node's PID namespace is a shell that reads its standard input, whose other end only this process
//! has. When this process ends, by whatever cause, the shell reads end-of-file and exits; the kernel then kills
//! everything else in the PID namespace, and with the last process go the namespaces, links, mounts and BPF pins.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::space::{RUN_VARIABLE, Space};
use crate::wait::eventually;

/// Where a node keeps its leases, configuration and logs, on the tmpfs that only the node has.
pub const DIRECTORY: &str = "/run/testbed";

/// A new network namespace waits for the ends of others, which have connections by the ten thousand to forget.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// The process ID is read before the node's own /proc hides it.
const SCRIPT: &str = "set -e
read -r pid rest < /proc/self/stat
mount -t proc proc /proc
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/netns /run/testbed
ip link set lo up
echo \"$pid\"
while read -r order; do
    if [ \"$order\" = keep ]; then exec sleep infinity </dev/null >/dev/null 2>&1; fi
done
";

/// What proves that a process is a holder of a certain run, and not one that got the same number later.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Name of the node.
    pub name: String,
    /// PID 1 of the node, seen from the machine.
    pub pid: i32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
}

/// A node's namespaces. They end when this is dropped, unless they were told to stay.
#[derive(Debug)]
pub struct Holder {
    /// `unshare`, which waits for PID 1 of the node and kills it when it dies itself.
    child: Child,
    /// Closing it ends the node.
    stdin: Option<ChildStdin>,
    identity: Identity,
    run: String,
}

impl Holder {
    /// Makes new namespaces for a node called `name` of the testbed `run`.
    pub(crate) fn spawn(name: &str, run: &str) -> Result<Self> {
        // A session of its own: the terminal's hang-up must not end a testbed that was told to stay.
        let mut child = Command::new("setsid")
            .args([
                "unshare",
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                SCRIPT,
            ])
            .env(RUN_VARIABLE, run)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start unshare")?;
        let stdin = child.stdin.take();
        let pid = match first_line(&mut child) {
            Ok(pid) => pid,
            Err(error) => {
                drop(stdin);
                child.kill().ok();
                let mut reason = String::new();
                if let Some(mut stderr) = child.stderr.take() {
                    stderr.read_to_string(&mut reason).ok();
                }
                child.wait().ok();
                return Err(error).with_context(|| {
                    format!(
                        "cannot make the namespaces of {name} (needs root and namespaces): {}",
                        reason.trim()
                    )
                });
            }
        };
        let start_time = start_time(pid).with_context(|| format!("{name} ended at once"))?;
        let identity = Identity {
            name: name.to_owned(),
            pid,
            start_time,
        };
        Ok(Self {
            child,
            stdin,
            identity,
            run: run.to_owned(),
        })
    }

    /// Who the holder is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn space(&self) -> Result<Space> {
        Space::of_node(&self.identity.name, &self.run, self.identity.pid)
    }

    pub(crate) fn wiring(&self) -> Result<Space> {
        Space::of_wiring(&self.identity.name, &self.run, self.identity.pid)
    }

    /// Makes the node outlive this process.
    pub(crate) fn keep(mut self) -> Result<()> {
        let mut stdin = self.stdin.take().context("the node was told to end")?;
        stdin
            .write_all(b"keep\n")
            .context("cannot reach the node's first process")?;
        // It must have read the order before the pipe closes; then its command is no longer the shell.
        let path = format!("/proc/{}/comm", self.identity.pid);
        eventually(START_TIMEOUT, "the node's first process stays", || {
            let command = std::fs::read_to_string(&path)?;
            if command.trim() == "sleep" {
                Ok(())
            } else {
                Err(anyhow!("it is {}", command.trim()))
            }
        })?;
        self.stdin = Some(stdin);
        // Neither ended nor waited for: from here on the state file is what knows of it.
        std::mem::forget(self);
        Ok(())
    }

    /// Begins to end the node; dropping the holder waits for the end.
    pub(crate) fn release(&mut self) {
        self.stdin = None;
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.release();
        let ended = eventually(END_TIMEOUT, "end of the node", || {
            self.child
                .try_wait()?
                .ok_or_else(|| anyhow!("{} still runs", self.identity.name))
        });
        if ended.is_err() {
            // unshare takes PID 1 with it (--kill-child).
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

fn first_line(child: &mut Child) -> Result<i32> {
    let stdout = child.stdout.take().context("no pipe from unshare")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let result = BufReader::new(stdout).read_line(&mut line).map(|_| line);
        sender.send(result).ok();
    });
    let line = receiver
        .recv_timeout(START_TIMEOUT)
        .context("it does not answer")??;
    if line.trim().is_empty() {
        bail!("it ended at once");
    }
    line.trim()
        .parse()
        .with_context(|| format!("it answered {line:?}"))
}

/// When process `pid` started, in clock ticks since boot; none when there is no such process or only its zombie.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command is in parentheses and may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
