//! The agent on a node.

use std::env;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::exec::{COMMAND_TIMEOUT, Output, Process};
use crate::holder::DIRECTORY;
use crate::node::Node;
use crate::pod::NETWORK;
use crate::wait::eventually;

/// Environment variable that names the agent's binary, for testing a release.
pub const BINARY_VARIABLE: &str = "OVERLAY_AGENT_BIN";

const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How an agent is started.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// flannel's net-conf.json, as text.
    pub net_conf: String,
    /// Lease file or directory, as the node sees it.
    pub leases: PathBuf,
    /// Further arguments of `run`, as `["--dataplane", "kernel"]`.
    pub arguments: Vec<String>,
    /// How long it may take to become ready.
    pub ready_timeout: Duration,
}

impl AgentOptions {
    /// Name of the lease file in the node's directory.
    pub const LEASES: &'static str = "leases.yaml";
    /// Name of the network configuration in the node's directory.
    pub const NET_CONF: &'static str = "net-conf.json";
    /// Name of the agent's log in the node's directory.
    pub const LOG: &'static str = "agent.log";
    /// Where the agent pins its maps, as the node sees it.
    pub const PIN_DIRECTORY: &'static str = "/sys/fs/bpf/overlay";

    /// With further arguments of `run`.
    #[must_use]
    pub fn with_arguments<S: AsRef<str>>(mut self, arguments: &[S]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// With flannel's `Backend` section replaced, as `json!({"Type": "vxlan", "VNI": 7})`.
    #[must_use]
    pub fn with_backend(mut self, backend: &serde_json::Value) -> Self {
        self.net_conf = json!({ "Network": NETWORK, "Backend": backend }).to_string();
        self
    }
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            net_conf: String::new(),
            leases: Path::new(DIRECTORY).join(Self::LEASES),
            arguments: Vec::new(),
            ready_timeout: Duration::from_secs(20),
        }
        .with_backend(&json!({ "Type": "vxlan" }))
    }
}

/// A running agent. Killed when dropped; what it has programmed stays.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    node: Node,
    /// Where this agent's part of the log begins, in bytes.
    log_start: usize,
}

impl Agent {
    pub(crate) fn spawn(node: &Node, options: &AgentOptions) -> Result<Self> {
        let binary = binary()?;
        node.write_file(AgentOptions::NET_CONF, &options.net_conf)?;
        let mut words = vec![
            binary.display().to_string(),
            "run".to_owned(),
            "--leases".to_owned(),
            options.leases.display().to_string(),
            "--node".to_owned(),
            node.name().to_owned(),
            "--net-config-path".to_owned(),
            node.path(AgentOptions::NET_CONF).display().to_string(),
        ];
        words.extend(options.arguments.iter().cloned());
        let log_path = node.path_from_outside(AgentOptions::LOG);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .context("cannot open the agent's log")?;
        let log_start = usize::try_from(log.metadata()?.len())?;
        let process = node
            .space()
            .spawn(&words, Stdio::from(log.try_clone()?), Stdio::from(log))?;
        Ok(Self {
            process,
            node: node.clone(),
            log_start,
        })
    }

    /// Waits until it has programmed everything.
    ///
    /// # Errors
    ///
    /// Its log, when it ends or is not ready in time.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<()> {
        let mut ended = None;
        let ready = eventually(timeout, "the agent's line `ready:`", || {
            ended = self.process.ended()?;
            if ended.is_some() || self.log().contains("ready:") {
                Ok(())
            } else {
                Err(anyhow!("no such line"))
            }
        });
        let what = match (ready, ended) {
            (Ok(()), None) => return Ok(()),
            (Ok(()), Some(status)) => anyhow!("it ended ({status}) before it was ready"),
            (Err(error), _) => error,
        };
        Err(what).with_context(|| format!("agent on {}; its log:\n{}", self.node.name(), self.log()))
    }

    /// Runs another verb of the agent on `node`.
    pub(crate) fn command(node: &Node, arguments: &[&str]) -> Result<Output> {
        let binary = binary()?.display().to_string();
        let mut words = vec![binary.as_str()];
        words.extend_from_slice(arguments);
        node.space().output_args(&words, None, COMMAND_TIMEOUT)
    }

    /// The node that it runs on.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Process ID, seen from the machine.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn pid(&self) -> Result<i32> {
        self.process.pid()
    }

    /// What this agent has logged.
    #[must_use]
    pub fn log(&self) -> String {
        let text = self
            .node
            .read_file(AgentOptions::LOG)
            .unwrap_or_else(|error| format!("{error:#}"));
        text.get(self.log_start..).unwrap_or(&text).to_owned()
    }

    /// Waits until the log contains `text`.
    ///
    /// # Errors
    ///
    /// The log, when it does not.
    pub fn wait_log(&self, text: &str, timeout: Duration) -> Result<()> {
        eventually(timeout, "a line in the agent's log", || {
            let log = self.log();
            if log.contains(text) {
                Ok(())
            } else {
                Err(anyhow!("no {text:?} in the log:\n{log}"))
            }
        })
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Kills it at once (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    ///
    /// When the kernel does not let it go.
    pub fn kill9(mut self) -> Result<()> {
        self.process.kill9()
    }

    /// Ends it in an orderly way (SIGTERM).
    ///
    /// # Errors
    ///
    /// Its log, when it does not exit with 0 in time.
    pub fn stop(mut self) -> Result<()> {
        let asked = self.process.signal(Signal::SIGTERM);
        let status = asked.and_then(|()| self.process.wait(STOP_TIMEOUT));
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(anyhow!("{status}")),
            Err(error) => Err(error),
        }
        .with_context(|| {
            let log = self.log();
            format!(
                "agent on {} did not stop with exit code 0 after SIGTERM; its log:\n{log}",
                self.node.name()
            )
        })
    }

    /// Lets it run on without an owner, for a testbed that is detached.
    pub fn detach(self) {
        self.process.detach();
    }
}

/// The agent's binary: what [`BINARY_VARIABLE`] names, else built once by cargo.
///
/// # Errors
///
/// cargo's messages when the build fails.
pub fn binary() -> Result<&'static Path> {
    static BINARY: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| locate().map_err(|error| format!("{error:#}")));
    found.as_deref().map_err(|text| anyhow!("{text}"))
}

fn locate() -> Result<PathBuf> {
    if let Some(path) = env::var_os(BINARY_VARIABLE) {
        let path = PathBuf::from(path);
        return path.canonicalize().with_context(|| {
            format!(
                "{BINARY_VARIABLE} names {}, which does not exist; unset it to build the agent",
                path.display()
            )
        });
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command.args(["build", "--package", "overlay-agent", "--bin", "overlay-agent"]);
    command.arg("--message-format=json-render-diagnostics");
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("cannot start cargo to build the agent")?;
    if !output.status.success() {
        let mut text = "cannot build the agent (`cargo build -p overlay-agent`):\n".to_owned();
        // Writing to a String cannot fail.
        write!(text, "{}", String::from_utf8_lossy(&output.stderr)).ok();
        bail!(text);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| {
            message
                .pointer("/target/name")
                .is_some_and(|name| name == "overlay-agent")
        })
        .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .context("cargo built the agent but did not say where")
}
