//! The agent as a DaemonSet starts it.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use overlay_testbed::agent::binary;
use overlay_testbed::api_server::{Answer, http_get};
use overlay_testbed::exec::Process;
use overlay_testbed::{AgentOptions, Node, eventually};

use crate::bed::{KUBECONFIG, NET_CONF};

pub(crate) const SUBNET_ENV: &str = "subnet.env";
const HEALTH_PORT: u16 = 8081;

/// To be ready after what can be done at once.
pub(crate) const READY: Duration = Duration::from_secs(30);
/// To be ready after something was tried in vain: the agent tries again at least this often, and a bit.
pub(crate) const RETRIED: Duration = Duration::from_secs(90);

/// A running agent. Killed when dropped; what it has made stays.
pub(crate) struct KubeAgent {
    process: Process,
    node: Node,
    /// Where its part of the log begins, in bytes.
    log_start: usize,
}

impl KubeAgent {
    /// Starts it with `NODE_NAME`, and waits until `/readyz` says so.
    pub(crate) fn start(node: &Node) -> Self {
        let agent = Self::spawn(node, &[]);
        agent.wait_ready(READY);
        agent
    }

    /// Starts it with `NODE_NAME` and further `arguments`.
    pub(crate) fn spawn(node: &Node, arguments: &[&str]) -> Self {
        Self::spawn_with(node, &[("NODE_NAME", node.name())], arguments)
    }

    /// Starts it with an environment.
    pub(crate) fn spawn_with(node: &Node, environment: &[(&str, &str)], arguments: &[&str]) -> Self {
        let file = |name: &str| node.path(name).display().to_string();
        let mut words = vec!["env".to_owned()];
        words.extend(environment.iter().map(|(name, value)| format!("{name}={value}")));
        words.extend([
            binary().unwrap().display().to_string(),
            "run".to_owned(),
            "--kube-subnet-mgr".to_owned(),
            format!("--kubeconfig-file={}", file(KUBECONFIG)),
            format!("--net-config-path={}", file(NET_CONF)),
            format!("--subnet-file={}", file(SUBNET_ENV)),
            format!("--healthz-port={HEALTH_PORT}"),
        ]);
        words.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let path = node.path_from_outside(AgentOptions::LOG);
        let log = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let log_start = usize::try_from(log.metadata().unwrap().len()).unwrap();
        let process = node
            .space()
            .spawn(&words, Stdio::from(log.try_clone().unwrap()), Stdio::from(log))
            .unwrap();
        Self {
            process,
            node: node.clone(),
            log_start,
        }
    }

    /// What `/readyz` or `/healthz` says.
    pub(crate) fn health(&self, path: &str) -> Result<Answer> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, HEALTH_PORT));
        http_get(self.node.space(), address, path)
    }

    pub(crate) fn ready(&self) -> Result<()> {
        let answer = self.health("/readyz")?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    }

    pub(crate) fn wait_ready(&self, timeout: Duration) {
        if let Err(error) = eventually(timeout, "readiness of the agent", || self.ready()) {
            panic!(
                "{error:#}\nlog of the agent on {}:\n{}",
                self.node.name(),
                self.log()
            );
        }
    }

    /// Waits until `/readyz` is 503 with each of `words` in its text.
    pub(crate) fn wait_not_ready(&self, words: &[&str], timeout: Duration) {
        eventually(timeout, "503 from the agent", || {
            let answer = self.health("/readyz")?;
            ensure!(answer.status == 503, "{answer:?}");
            for word in words {
                ensure!(answer.body.contains(word), "no {word:?} in {}", answer.body);
            }
            Ok(())
        })
        .unwrap();
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        let text = self.node.read_file(AgentOptions::LOG).unwrap_or_default();
        text.get(self.log_start..).unwrap_or(&text).to_owned()
    }

    /// The lines of the log that contain each of `words`.
    pub(crate) fn lines(&self, words: &[&str]) -> Vec<String> {
        let log = self.log();
        let lines = log
            .lines()
            .filter(|line| words.iter().all(|word| line.contains(word)));
        lines.map(ToOwned::to_owned).collect()
    }

    /// Waits until a line of the log contains each of `words`.
    pub(crate) fn wait_line(&self, words: &[&str], timeout: Duration) {
        eventually(timeout, "a line of the agent's log", || {
            ensure!(
                !self.lines(words).is_empty(),
                "no line with {words:?} in\n{}",
                self.log()
            );
            Ok(())
        })
        .unwrap();
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.process.ended().unwrap().is_none()
    }

    /// Ends it with SIGTERM.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.process.signal(Signal::SIGTERM).unwrap();
        let status = self.process.wait(Duration::from_secs(10)).unwrap();
        assert!(status.success(), "{status}: {}", self.log());
        status
    }
}
