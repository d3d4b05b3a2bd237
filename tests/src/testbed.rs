//! The testbed as a whole.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};

use crate::agent::{self, Agent, AgentOptions};
use crate::detached;
use crate::footprint::Machine;
use crate::holder::{Holder, Identity};
use crate::leases::Leases;
use crate::node::Node;
use crate::pod::{Pod, PodPlumbing};
use crate::requirements;
use crate::space::Space;
use crate::underlay::{Fabric, Offloads, Underlay};

/// The highest number a node can have: it is a byte of its addresses, and .254 is the router.
const MAX_NODES: u8 = 250;

/// Number of a guest on the underlay, beyond those of nodes.
const GUEST: u8 = 251;

/// A machine on the underlay that is no node. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) holder: Holder,
    /// Address on the underlay.
    pub(crate) address: Ipv4Addr,
    /// Its port in the fabric's namespace.
    pub(crate) port: String,
}

/// What a testbed shall look like.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Builder {
    nodes: u8,
    pods_per_node: u8,
    underlay: Underlay,
    mtu: u32,
    offloads: Offloads,
    ipv6: bool,
    plumbing: PodPlumbing,
}

impl Builder {
    /// How many nodes (default 3).
    pub fn nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes;
        self
    }

    /// How many pods each node has (default 2).
    pub fn pods_per_node(mut self, pods: u8) -> Self {
        self.pods_per_node = pods;
        self
    }

    /// How the nodes are connected (default [`Underlay::Switch`]).
    pub fn underlay(mut self, underlay: Underlay) -> Self {
        self.underlay = underlay;
        self
    }

    /// MTU of the underlay in bytes (default 1500); the pods get 50 less.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Offloads of the underlay's devices (default [`Offloads::DEFAULT`]).
    pub fn offloads(mut self, offloads: Offloads) -> Self {
        self.offloads = offloads;
        self
    }

    /// Without IPv6 there are no packets but those that a test sends (and ARP). Default on, as on real nodes.
    pub fn ipv6(mut self, ipv6: bool) -> Self {
        self.ipv6 = ipv6;
        self
    }

    /// Who connects the pods (default [`PodPlumbing::ByHand`]).
    pub fn pod_plumbing(mut self, plumbing: PodPlumbing) -> Self {
        self.plumbing = plumbing;
        self
    }

    /// Builds the testbed.
    ///
    /// # Errors
    ///
    /// When this is not root, a tool is missing, or a command fails. Nothing is left behind then.
    pub fn build(self) -> Result<Testbed> {
        requirements::check()?;
        if !(100..=65_535).contains(&self.mtu) {
            bail!("an underlay MTU of {} is not in 100..=65535", self.mtu);
        }
        let (run, machine_before) = (new_run(), Machine::now());
        let fabric = Fabric::build(self.underlay, self.mtu, self.offloads, &run)?;
        let mut testbed = Testbed {
            settings: self,
            run,
            machine_before,
            nodes: BTreeMap::new(),
            holders: BTreeMap::new(),
            fabric: Some(fabric),
        };
        for _ in 0..self.nodes {
            testbed.add_node()?;
        }
        Ok(testbed)
    }
}

/// Nodes, pods and the network between them. Everything ends when this is dropped or the process ends.
#[derive(Debug)]
pub struct Testbed {
    settings: Builder,
    run: String,
    machine_before: Machine,
    nodes: BTreeMap<u8, Node>,
    holders: BTreeMap<u8, Holder>,
    /// None once the testbed has been detached.
    fabric: Option<Fabric>,
}

impl Testbed {
    /// A builder with the default settings.
    pub fn builder() -> Builder {
        Builder {
            nodes: 3,
            pods_per_node: 2,
            underlay: Underlay::default(),
            mtu: 1500,
            offloads: Offloads::default(),
            ipv6: true,
            plumbing: PodPlumbing::default(),
        }
    }

    /// Name of this testbed, unique on the machine; every process in it carries it in its environment.
    #[must_use]
    pub fn run(&self) -> &str {
        &self.run
    }

    /// The machine as it was before the testbed was built.
    #[must_use]
    pub fn machine_before(&self) -> &Machine {
        &self.machine_before
    }

    /// The nodes, in order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Node `index`, from 1.
    ///
    /// # Errors
    ///
    /// When there is no such node.
    pub fn node(&self, index: u8) -> Result<&Node> {
        self.nodes
            .get(&index)
            .with_context(|| format!("the testbed has no node {index}"))
    }

    /// Node `index`, from 1, for adding pods.
    ///
    /// # Errors
    ///
    /// When there is no such node.
    pub fn node_mut(&mut self, index: u8) -> Result<&mut Node> {
        self.nodes
            .get_mut(&index)
            .with_context(|| format!("the testbed has no node {index}"))
    }

    /// Pod `pod` of node `node`, both from 1.
    ///
    /// # Errors
    ///
    /// When there is no such pod.
    pub fn pod(&self, node: u8, pod: u8) -> Result<&Pod> {
        self.node(node)?.pod(pod)
    }

    /// The namespace of the switch and router: bridge `br0` (`br1`, `br2` when routed), node i at port `n<i>`.
    ///
    /// # Errors
    ///
    /// When the underlay is direct.
    pub fn fabric(&self) -> Result<Space> {
        self.fabric.as_ref().context("the testbed was detached")?.space()
    }

    /// Adds a node with the next number, connected, with pods, without agent and lease.
    ///
    /// # Errors
    ///
    /// When a command fails.
    pub fn add_node(&mut self) -> Result<&Node> {
        let index = self.nodes.last_key_value().map_or(1, |(last, _)| last + 1);
        if index > MAX_NODES {
            bail!("a testbed has at most {MAX_NODES} nodes");
        }
        let fabric = self.fabric.as_ref().context("the testbed was detached")?;
        let holder = Holder::spawn(&format!("node-{index}"), &self.run)?;
        let space = holder.space()?;
        // New namespaces inherit the machine's values on some distributions; new devices take the default.
        for name in ["conf/all/rp_filter", "conf/default/rp_filter"] {
            space.sysctl(&format!("ipv4/{name}"), "0")?;
        }
        space.sysctl("ipv4/ip_forward", "1")?;
        if !self.settings.ipv6 {
            space.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
            space.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
        }
        fabric.attach(index, &holder, self.holders.get(&1))?;
        let of_pods = (self.settings.mtu, self.settings.plumbing);
        let node = Node::build(
            index,
            fabric.address(index),
            space,
            self.settings.pods_per_node,
            of_pods,
        )?;
        self.holders.insert(index, holder);
        Ok(self.nodes.entry(index).or_insert(node))
    }

    /// Adds a machine that is no node: namespaces with an address on the (first) segment, and nothing else.
    pub(crate) fn add_guest(&self, name: &str) -> Result<Guest> {
        let fabric = self.fabric.as_ref().context("the testbed was detached")?;
        // Without the namespace of a switch there is no place for it.
        fabric.space()?;
        let holder = Holder::spawn(name, &self.run)?;
        fabric.attach(GUEST, &holder, None)?;
        Ok(Guest {
            holder,
            address: fabric.address(GUEST),
            port: Fabric::port(GUEST),
        })
    }

    /// Ends a node as a power cut would.
    ///
    /// # Errors
    ///
    /// When there is no such node.
    pub fn remove_node(&mut self, index: u8) -> Result<()> {
        self.node(index)?;
        self.nodes.remove(&index);
        self.holders.remove(&index);
        Ok(())
    }

    /// The leases of all nodes.
    #[must_use]
    pub fn leases(&self) -> Leases {
        self.nodes().map(Node::lease).collect()
    }

    /// Writes `leases` into the lease file of every node.
    ///
    /// # Errors
    ///
    /// When a node is gone.
    pub fn publish(&self, leases: &Leases) -> Result<()> {
        self.nodes().try_for_each(|node| node.write_leases(leases))
    }

    /// Publishes the leases of all nodes and starts an agent on each, at the same time.
    ///
    /// # Errors
    ///
    /// When an agent does not become ready.
    pub fn start_agents(&self, options: &AgentOptions) -> Result<Vec<Agent>> {
        agent::binary()?;
        self.publish(&self.leases())?;
        thread::scope(|scope| {
            let starts: Vec<_> = self
                .nodes()
                .map(|node| scope.spawn(move || node.start_agent(options)))
                .collect();
            starts
                .into_iter()
                .map(|start| start.join().map_err(|_| anyhow!("a starting thread panicked"))?)
                .collect()
        })
    }

    /// Configures every node by hand as flannel would.
    ///
    /// # Errors
    ///
    /// When a command fails.
    pub fn configure_like_flannel(&self) -> Result<()> {
        let leases = self.leases();
        self.nodes()
            .try_for_each(|node| node.configure_like_flannel(leases.entries()))
    }

    /// Prints the state of every node to standard error.
    pub fn print_diagnosis(&self) {
        for node in self.nodes() {
            eprintln!("{}", node.diagnosis());
        }
    }

    /// Who holds the testbed's namespaces.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        let fabric = self.fabric.iter().filter_map(|fabric| fabric.holder.as_ref());
        fabric.chain(self.holders.values()).map(Holder::identity)
    }

    /// Makes the testbed outlive this process. Returns the file by which [`detached::clean`] finds it.
    ///
    /// # Errors
    ///
    /// When the file cannot be written or a node has ended; the testbed ends then.
    pub fn detach(mut self) -> Result<PathBuf> {
        let file = detached::record(&self.run, self.identities().cloned().collect())?;
        let fabric = self.fabric.take().and_then(|fabric| fabric.holder);
        let holders = std::mem::take(&mut self.holders);
        for holder in fabric.into_iter().chain(holders.into_values()) {
            holder.keep()?;
        }
        Ok(file)
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if thread::panicking() {
            self.print_diagnosis();
        }
        // All at once, then wait for each.
        self.holders.values_mut().for_each(Holder::release);
        self.holders.clear();
    }
}

/// A name that no other testbed on this machine has.
fn new_run() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};

    static NEXT: AtomicU32 = AtomicU32::new(0);
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    let serial = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{time:x}-{serial}", process::id())
}
