//! A place in which commands and sockets can be put: the network namespace of a node, a pod or the fabric.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::exec::{self, COMMAND_TIMEOUT, Output, Process};

/// Environment variable that marks every process of a testbed with the testbed's run.
pub const RUN_VARIABLE: &str = "OVERLAY_TESTBED_RUN";

/// A network namespace, together with the mounts and processes of the node that it belongs to.
///
/// A handle: cloning is cheap, and holding one keeps neither the node nor its processes alive.
#[derive(Clone)]
pub struct Space {
    inner: Arc<Inner>,
}

struct Inner {
    label: String,
    run: String,
    /// PID 1 of the node, seen from the machine.
    holder: i32,
    netns: File,
    nsenter: Vec<String>,
}

impl fmt::Debug for Space {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Space({})", self.inner.label)
    }
}

impl Space {
    /// The namespaces of the node whose PID 1 is `holder`.
    pub(crate) fn of_node(label: &str, run: &str, holder: i32) -> Result<Self> {
        let flags = ["-n".to_owned(), "-m".to_owned(), "-p".to_owned()];
        Self::open(label, run, holder, format!("/proc/{holder}/ns/net"), &flags)
    }

    /// The node's network namespace with the machine's mounts and process IDs, for moving links between nodes.
    pub(crate) fn of_wiring(label: &str, run: &str, holder: i32) -> Result<Self> {
        Self::open(
            label,
            run,
            holder,
            format!("/proc/{holder}/ns/net"),
            &["-n".to_owned()],
        )
    }

    /// The network namespace that the node calls `name` (`ip netns`), with the node's mounts and processes.
    pub(crate) fn named(&self, name: &str) -> Result<Self> {
        let Inner {
            label, run, holder, ..
        } = &*self.inner;
        let netns = format!("/proc/{holder}/root/run/netns/{name}");
        let flags = [format!("--net={netns}"), "-m".to_owned(), "-p".to_owned()];
        Self::open(&format!("{label}/{name}"), run, *holder, netns, &flags)
    }

    fn open(label: &str, run: &str, holder: i32, netns: String, flags: &[String]) -> Result<Self> {
        let netns =
            File::open(&netns).with_context(|| format!("cannot open the namespace {netns} of {label}"))?;
        let mut nsenter = vec!["-t".to_owned(), holder.to_string()];
        nsenter.extend_from_slice(flags);
        Ok(Self {
            inner: Arc::new(Inner {
                label: label.to_owned(),
                run: run.to_owned(),
                holder,
                netns,
                nsenter,
            }),
        })
    }

    /// Name for messages: `node-1`, `node-1/pod-2`, `fabric`.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.inner.label
    }

    /// PID 1 of the node, seen from the machine: what `nsenter -t` wants.
    #[must_use]
    pub fn holder_pid(&self) -> i32 {
        self.inner.holder
    }

    /// Runs `command`, split at white space, and returns its standard output.
    ///
    /// # Errors
    ///
    /// When it cannot be started, fails or takes longer than [`COMMAND_TIMEOUT`].
    pub fn run(&self, command: &str) -> Result<String> {
        self.output(command)?.success()
    }

    /// Runs `command`, split at white space; whether it succeeded is the caller's business.
    ///
    /// # Errors
    ///
    /// When it cannot be started or takes longer than [`COMMAND_TIMEOUT`].
    pub fn output(&self, command: &str) -> Result<Output> {
        let words: Vec<_> = command.split_whitespace().collect();
        self.output_args(&words, None, COMMAND_TIMEOUT)
    }

    /// Runs `words` with `input` on standard input, for at most `timeout`.
    ///
    /// # Errors
    ///
    /// When it cannot be started or takes longer than `timeout`.
    pub fn output_args<S: AsRef<OsStr>>(
        &self,
        words: &[S],
        input: Option<&str>,
        timeout: Duration,
    ) -> Result<Output> {
        let (command, label) = self.command(words);
        exec::run(command, &label, input, timeout)
    }

    /// Runs `lines` through `ip -batch -`; `arguments` are further options of `ip`, as in `-n pod-1`.
    ///
    /// # Errors
    ///
    /// Names the first line that failed.
    pub fn ip_batch(&self, arguments: &[&str], lines: &[String]) -> Result<()> {
        let mut words = vec!["ip"];
        words.extend_from_slice(arguments);
        words.extend_from_slice(&["-batch", "-"]);
        let text = lines.join("\n") + "\n";
        let result = self.output_args(&words, Some(&text), COMMAND_TIMEOUT)?.success();
        result
            .with_context(|| format!("ip -batch in {}:\n{text}", self.label()))
            .map(drop)
    }

    /// Starts `words` in the background, with standard output as told and standard error going to `stderr`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn spawn<S: AsRef<OsStr>>(&self, words: &[S], stdout: Stdio, stderr: Stdio) -> Result<Process> {
        let (mut command, label) = self.command(words);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        Process::spawn(command, label)
    }

    /// Runs `work` on a thread inside the network namespace: sockets that it opens belong to the namespace.
    ///
    /// Files are the machine's, except for `/proc/sys/net` and `/proc/thread-self/net`, which show the namespace.
    ///
    /// # Errors
    ///
    /// Those of `work`, and when the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.join_namespace()?;
                work()
            });
            worker
                .join()
                .map_err(|_| anyhow!("the thread in {} panicked", self.label()))?
        })
    }

    /// Like [`Self::enter`], on a thread that goes on by itself.
    pub fn spawn_inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> thread::JoinHandle<Result<T>> {
        let space = self.clone();
        thread::spawn(move || {
            space.join_namespace()?;
            drop(space);
            work()
        })
    }

    /// Moves the calling thread into the network namespace, for good.
    pub(crate) fn join_namespace(&self) -> Result<()> {
        setns(&self.inner.netns, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter the network namespace of {}", self.label()))
    }

    /// Sets a sysctl of the network namespace: `ipv4/ip_forward`, below `/proc/sys/net`.
    ///
    /// # Errors
    ///
    /// When the kernel does not know it or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(name);
        self.enter(|| fs::write(&path, value).with_context(|| format!("cannot set net/{name} to {value}")))
            .with_context(|| format!("in {}", self.label()))
    }

    /// Where the machine sees the node's `path`.
    #[must_use]
    pub fn path_from_outside(&self, path: &Path) -> PathBuf {
        let relative = path.strip_prefix("/").unwrap_or(path);
        Path::new("/proc")
            .join(self.inner.holder.to_string())
            .join("root")
            .join(relative)
    }

    fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> (Command, String) {
        let mut command = Command::new("nsenter");
        command
            .args(&self.inner.nsenter)
            .arg("--")
            .args(words)
            .env(RUN_VARIABLE, &self.inner.run);
        let text: Vec<_> = words.iter().map(|word| word.as_ref().to_string_lossy()).collect();
        (command, format!("{}: `{}`", self.label(), text.join(" ")))
    }
}
