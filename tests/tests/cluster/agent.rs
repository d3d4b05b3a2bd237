//! The agent as a DaemonSet would run it in flannel's place.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use overlay_testbed::agent::binary;
use overlay_testbed::api_server::http_get;
use overlay_testbed::exec::Process;
use overlay_testbed::flannel_node::SUBNET_ENV;
use overlay_testbed::{AgentOptions, Node, eventually};

use crate::bed::{KUBECONFIG, NET_CONF_FILE};

const HEALTH_PORT: u16 = 8081;
const READY: Duration = Duration::from_secs(30);

/// A running agent. Killed when dropped; what it has made stays.
pub(crate) struct KubeAgent {
    process: Process,
    node: Node,
    /// Where its part of the log begins, in bytes.
    log_start: usize,
}

impl KubeAgent {
    /// Starts it with flannel's flags and environment.
    pub(crate) fn spawn(node: &Node) -> Result<Self> {
        let file = |name: &str| node.path(name).display().to_string();
        let words = [
            "env".to_owned(),
            format!("NODE_NAME={}", node.name()),
            binary()?.display().to_string(),
            "run".to_owned(),
            "--kube-subnet-mgr".to_owned(),
            "--ip-masq".to_owned(),
            "--kubeconfig-file".to_owned(),
            file(KUBECONFIG),
            "--net-config-path".to_owned(),
            file(NET_CONF_FILE),
            "--subnet-file".to_owned(),
            SUBNET_ENV.to_owned(),
            "--healthz-port".to_owned(),
            HEALTH_PORT.to_string(),
        ];
        let path = node.path_from_outside(AgentOptions::LOG);
        let log = OpenOptions::new().create(true).append(true).open(&path)?;
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

    /// Waits until `/readyz` says so.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, HEALTH_PORT));
        let mut ended = None;
        let ready = eventually(READY, "readiness of the agent", || {
            ended = self.process.ended()?;
            if ended.is_some() {
                return Ok(());
            }
            let answer = http_get(self.node.space(), address, "/readyz")?;
            ensure!(answer.status == 200, "{answer:?}");
            Ok(())
        });
        let log = || format!("agent on {}; its log:\n{}", self.node.name(), self.log());
        match ended {
            Some(status) => bail!("it ended ({status}): {}", log()),
            None => ready.with_context(log),
        }
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        let text = self.node.read_file(AgentOptions::LOG).unwrap_or_default();
        text.get(self.log_start..).unwrap_or(&text).to_owned()
    }

    /// Waits until it has logged each of `words` in one line.
    pub(crate) fn wait_log(&self, words: &[&str]) {
        eventually(Duration::from_secs(5), "a line of the agent's log", || {
            let log = self.log();
            let found = log
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)));
            ensure!(found, "no line with {words:?} in\n{log}");
            Ok(())
        })
        .unwrap();
    }

    /// Ends it with SIGTERM, as a rolling update does.
    pub(crate) fn stop(mut self) {
        self.process.signal(Signal::SIGTERM).unwrap();
        let status = self.process.wait(Duration::from_secs(10)).unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill9(mut self) {
        self.process.kill9().unwrap();
    }
}

/// What subnet.env says.
pub(crate) fn subnet_env(node: &Node) -> String {
    let file = node.space().path_from_outside(Path::new(SUBNET_ENV));
    std::fs::read_to_string(file).unwrap()
}
