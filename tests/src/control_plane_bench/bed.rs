//! The ground: one node with an underlay, and an API server with a cluster of made-up nodes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::kernel;
use super::objects::{leaving, node};
use super::peers::{NETWORK, Peer};
use super::process::AgentProcess;
use super::result::Kind;
use crate::agent::{self, AgentOptions};
use crate::api_server::{ApiServer, ApiServerOptions, NodeObject, RBAC};
use crate::node::Node;
use crate::testbed::Testbed;

/// Name of the kubeconfig in the node's directory.
const KUBECONFIG: &str = "kubeconfig";

/// One agent's node and the cluster around it. The cluster only grows.
#[derive(Debug)]
pub(super) struct Bed {
    pub(super) server: ApiServer,
    testbed: Testbed,
    kind: Kind,
    nodes: u32,
}

impl Bed {
    /// A cluster of `kind` that has no node but the agent's own yet.
    pub(super) fn build(kind: Kind) -> Result<Self> {
        let testbed = Testbed::builder().nodes(1).pods_per_node(0).build()?;
        let options = ApiServerOptions {
            audit: false,
            ..ApiServerOptions::default()
        };
        let server = ApiServer::start(&testbed, &options)?;
        server.apply(RBAC)?;
        let own = testbed.node(1)?;
        own.write_file(KUBECONFIG, &server.agent_kubeconfig()?)?;
        let net_conf = json!({ "Network": NETWORK, "Backend": { "Type": "vxlan" } });
        own.write_file(AgentOptions::NET_CONF, &net_conf.to_string())?;
        let object = NodeObject::new(own.name()).pod_cidr(&format!("{}/24", own.lease().subnet));
        server.create_node(&object)?;
        Ok(Self {
            server,
            testbed,
            kind,
            nodes: 0,
        })
    }

    /// Makes it a cluster of `nodes` made-up nodes. Returns how long that took.
    pub(super) fn grow(&mut self, nodes: u32) -> Result<Duration> {
        let (start, kind) = (Instant::now(), self.kind);
        let new = (self.nodes + 1..=nodes).map(|number| node(Peer(number), kind));
        self.server.create_nodes(new).context("cannot create the Nodes")?;
        self.nodes = nodes;
        Ok(start.elapsed())
    }

    /// Size of one of the made-up Node objects in bytes, as the server sends it.
    pub(super) fn node_bytes(&self) -> Result<u32> {
        let path = format!("/api/v1/nodes/{}", Peer(self.nodes).name());
        Ok(u32::try_from(self.server.client().get_text(&path)?.len())?)
    }

    /// The agent's node.
    pub(super) fn node(&self) -> Result<&Node> {
        self.testbed.node(1)
    }

    /// Makes the agent's node what it was before any agent, its Node object included.
    pub(super) fn clean(&self) -> Result<()> {
        let node = self.node()?;
        kernel::clean(node.space(), agent::binary()?)?;
        self.server.patch_node(node.name(), &leaving())
    }

    /// Starts the agent.
    pub(super) fn start_agent(&self) -> Result<AgentProcess> {
        let node = self.node()?;
        let words = [
            agent::binary()?.display().to_string(),
            "run".to_owned(),
            "--kube-subnet-mgr".to_owned(),
            "--node".to_owned(),
            node.name().to_owned(),
            "--kubeconfig-file".to_owned(),
            node.path(KUBECONFIG).display().to_string(),
            "--net-config-path".to_owned(),
            node.path(AgentOptions::NET_CONF).display().to_string(),
        ];
        AgentProcess::start(node.space(), &words, &self.log()?)
    }

    fn log(&self) -> Result<PathBuf> {
        Ok(self.node()?.path_from_outside(AgentOptions::LOG))
    }

    /// Fails unless every peer, and nothing else, is programmed on the agent's node.
    pub(super) fn expect_programmed(&self) -> Result<()> {
        kernel::expect_all(self.node()?.space(), self.nodes)
    }

    /// Keeps the agent's last log for a look after the run.
    pub(super) fn keep_log(&self, file: &Path) -> Result<()> {
        std::fs::copy(self.log()?, file).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(())
    }
}
