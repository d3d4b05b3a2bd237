//! Child processes that always end: commands with a deadline, and background processes that die with their owner.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::wait::eventually;

/// How long a command may take unless it says otherwise.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// Where and what was run, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Standard error, invalid UTF-8 replaced.
    pub stderr: String,
}

impl Output {
    /// Standard output of a command that succeeded.
    ///
    /// # Errors
    ///
    /// The command's name, exit status and both outputs when it failed.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!(
            "{} failed ({}): {}{}",
            self.command,
            self.status,
            self.stderr.trim(),
            self.stdout.trim()
        )
    }
}

/// Runs `command` to its end, feeding it `input`; kills its process group at the deadline.
pub(crate) fn run(
    mut command: Command,
    label: &str,
    input: Option<&str>,
    timeout: Duration,
) -> Result<Output> {
    let stdin = if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    command
        .process_group(0)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {label}"))?;
    let deadline = Instant::now() + timeout;
    let (done, finished) = mpsc::channel();
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (in_time, stdout, stderr) = thread::scope(|scope| {
        if let (Some(mut pipe), Some(text)) = (stdin, input) {
            // A command that ends without reading its input shows in its status, not here.
            scope.spawn(move || pipe.write_all(text.as_bytes()).ok());
        }
        let reader = |pipe: Option<_>| {
            let done = done.clone();
            scope.spawn(move || {
                let text = read_all(pipe);
                done.send(()).ok();
                text
            })
        };
        let stdout = reader(stdout.map(|p| Box::new(p) as Box<dyn Read + Send>));
        let stderr = reader(stderr.map(|p| Box::new(p) as Box<dyn Read + Send>));
        let in_time = (0..2).all(|_| finished.recv_timeout(remaining(deadline)).is_ok());
        if !in_time {
            end(&mut child).ok();
        }
        (
            in_time,
            stdout.join().unwrap_or_default(),
            stderr.join().unwrap_or_default(),
        )
    });
    let status = if in_time {
        wait_until(&mut child, deadline)?
    } else {
        child.wait()?
    };
    if !in_time {
        bail!("{label} did not end within {timeout:?} and was killed; its output: {stdout}{stderr}");
    }
    Ok(Output {
        command: label.to_owned(),
        status,
        stdout,
        stderr,
    })
}

fn read_all(pipe: Option<Box<dyn Read + Send>>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What was read before an error is still the best description of what happened.
        pipe.read_to_end(&mut bytes).ok();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn wait_until(child: &mut Child, deadline: Instant) -> Result<ExitStatus> {
    let status = eventually(remaining(deadline), "end of the process", || {
        child
            .try_wait()?
            .ok_or_else(|| anyhow!("process {} still runs", child.id()))
    });
    if status.is_err() {
        end(child)?;
    }
    status
}

/// Kills what runs inside the namespace, so that `nsenter` sees its end and reaps it, and then `nsenter` itself.
///
/// Killing both at once would leave the inner process to the node's first process, which reaps nobody, and would
/// return before its sockets and locks are gone.
fn end(child: &mut Child) -> std::io::Result<ExitStatus> {
    for process in descendants(child.id().cast_signed()) {
        // It may have ended in between.
        kill(Pid::from_raw(process), Signal::SIGKILL).ok();
    }
    let ended = eventually(Duration::from_secs(2), "end of a killed process", || {
        child
            .try_wait()?
            .ok_or_else(|| anyhow!("process {} still runs", child.id()))
    });
    ended.or_else(|_| {
        // The group may be gone already; there is nothing to do about any other failure.
        killpg(pid(child), Signal::SIGKILL).ok();
        child.wait()
    })
}

fn descendants(process: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    children
        .flat_map(|child| [vec![child], descendants(child)].concat())
        .collect()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// A process in a namespace, running in the background. Killed when dropped.
///
/// It is the child of an `nsenter` process in a process group of its own.
pub struct Process {
    child: Option<Child>,
    label: String,
}

impl fmt::Debug for Process {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Process")
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

impl Process {
    pub(crate) fn spawn(mut command: Command, label: String) -> Result<Self> {
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {label}"))?;
        Ok(Self {
            child: Some(child),
            label,
        })
    }

    /// Process ID, seen from the machine, of the process inside the namespace.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn pid(&self) -> Result<i32> {
        let parent = self.child()?.id();
        eventually(
            Duration::from_secs(5),
            "start of the process in its namespace",
            || {
                let path = format!("/proc/{parent}/task/{parent}/children");
                let children = fs::read_to_string(&path).with_context(|| path.clone())?;
                let first = children.split_whitespace().next().context("no child yet")?;
                Ok(first.parse()?)
            },
        )
        .with_context(|| format!("{} has no process", self.label))
    }

    /// Sends `signal` to the process inside the namespace.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid()?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot send {signal} to {}", self.label))
    }

    /// Kills the process at once (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    ///
    /// When the kernel does not let it go.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            end(&mut child).with_context(|| format!("cannot wait for {}", self.label))?;
        }
        Ok(())
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Errors
    ///
    /// When it still runs at the deadline; it is killed then.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let mut child = self
            .child
            .take()
            .with_context(|| format!("{} was waited for twice", self.label))?;
        let status = wait_until(&mut child, Instant::now() + timeout);
        status.with_context(|| format!("{} did not end and was killed", self.label))
    }

    /// How the process ended, if it has.
    ///
    /// # Errors
    ///
    /// When the process was waited for before.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let child = self
            .child
            .as_mut()
            .with_context(|| format!("{} was waited for before", self.label))?;
        Ok(child.try_wait()?)
    }

    /// Takes what the process has written to its piped standard output.
    pub(crate) fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.as_mut()?.stdout.take()
    }

    /// Lets the process live on without an owner; it still ends with its node.
    pub fn detach(mut self) {
        self.child = None;
    }

    fn child(&self) -> Result<&Child> {
        self.child
            .as_ref()
            .with_context(|| format!("{} has ended", self.label))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill9() {
            eprintln!("{error:#}");
        }
    }
}
