//! Nodes: underlay device, pods behind a bridge, and what runs and is configured on them.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::agent::{Agent, AgentOptions};
use crate::holder::DIRECTORY;
use crate::leases::{Lease, Leases};
use crate::pod::{Pod, PodNetwork, PodPlumbing};
use crate::space::Space;
use crate::underlay;

mod diagnosis;
mod flannel;
mod maps;
mod rules;

pub use flannel::FlannelDevice;
pub use rules::Protocol;

/// A node of a testbed.
#[derive(Clone, Debug)]
pub struct Node {
    name: String,
    index: u8,
    address: Ipv4Addr,
    space: Space,
    pods: Vec<Pod>,
    pod_network: PodNetwork,
}

impl Node {
    /// Sets up everything but the underlay device, which is there already.
    pub(crate) fn build(
        index: u8,
        address: Ipv4Addr,
        space: Space,
        pods: u8,
        (underlay_mtu, plumbing): (u32, PodPlumbing),
    ) -> Result<Self> {
        let pod_network = PodNetwork {
            subnet: Lease::of_node(index, address).subnet,
            mtu: underlay_mtu - 50,
            plumbing,
        };
        let pods = (1..=pods)
            .map(|pod| pod_network.add(&space, pod))
            .collect::<Result<_>>()?;
        Ok(Self {
            name: format!("node-{index}"),
            index,
            address,
            space,
            pods,
            pod_network,
        })
    }

    /// Name of the node: `node-1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of the node, from 1.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Address on the underlay, which is also the VTEP's.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Name of the underlay device.
    #[must_use]
    pub fn underlay(&self) -> &'static str {
        underlay::DEVICE
    }

    /// What the node's lease says.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease::of_node(self.index, self.address)
    }

    /// The node's namespaces.
    #[must_use]
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The pods, in order.
    #[must_use]
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// Pod `index`, from 1.
    ///
    /// # Errors
    ///
    /// When the node has no such pod.
    pub fn pod(&self, index: u8) -> Result<&Pod> {
        let found = self.pods.iter().find(|pod| pod.index() == index);
        found.with_context(|| format!("{} has no pod {index}", self.name))
    }

    /// Adds one more pod.
    ///
    /// # Errors
    ///
    /// When the node is full or a command fails.
    pub fn add_pod(&mut self) -> Result<&Pod> {
        let index = self.pods.last().map_or(1, |pod| pod.index() + 1);
        let pod = self.pod_network.add(&self.space, index)?;
        self.pods.push(pod);
        self.pod(index)
    }

    /// See [`Space::run`].
    ///
    /// # Errors
    ///
    /// Those of [`Space::run`].
    pub fn run(&self, command: &str) -> Result<String> {
        self.space.run(command)
    }

    /// The file `name` in the node's own directory ([`DIRECTORY`]), as the node sees it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(DIRECTORY).join(name)
    }

    /// The same file as this process sees it.
    #[must_use]
    pub fn path_from_outside(&self, name: &str) -> PathBuf {
        self.space.path_from_outside(&self.path(name))
    }

    /// Replaces the file `name` in the node's directory at once (a new file, renamed).
    ///
    /// # Errors
    ///
    /// When the node is gone.
    pub fn write_file(&self, name: &str, text: &str) -> Result<()> {
        let target = self.path_from_outside(name);
        let new = self.path_from_outside(&format!(".{name}.new"));
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &target))
            .with_context(|| format!("cannot write {} of {}", self.path(name).display(), self.name))
    }

    /// Text of the file `name` in the node's directory.
    ///
    /// # Errors
    ///
    /// When it does not exist.
    pub fn read_file(&self, name: &str) -> Result<String> {
        let path = self.path_from_outside(name);
        fs::read(&path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .with_context(|| format!("cannot read {} of {}", self.path(name).display(), self.name))
    }

    /// Replaces the lease file that this node's agent reads.
    ///
    /// # Errors
    ///
    /// When the node is gone.
    pub fn write_leases(&self, leases: &Leases) -> Result<()> {
        self.write_file(AgentOptions::LEASES, &leases.to_yaml())
    }

    /// Starts an agent on the node and waits until it is ready. The lease file must be there.
    ///
    /// # Errors
    ///
    /// When it ends or is not ready in time; the error contains its log.
    pub fn start_agent(&self, options: &AgentOptions) -> Result<Agent> {
        let mut agent = self.spawn_agent(options)?;
        agent.wait_ready(options.ready_timeout)?;
        Ok(agent)
    }

    /// Starts an agent on the node and returns at once, for tests that disturb it.
    ///
    /// # Errors
    ///
    /// When the binary cannot be built or started.
    pub fn spawn_agent(&self, options: &AgentOptions) -> Result<Agent> {
        Agent::spawn(self, options)
    }

    /// Runs another verb of the agent (`plan`, `cleanup`, `status`) with the given arguments.
    ///
    /// # Errors
    ///
    /// When the binary cannot be built or started.
    pub fn agent_command(&self, arguments: &[&str]) -> Result<crate::exec::Output> {
        Agent::command(self, arguments)
    }
}
