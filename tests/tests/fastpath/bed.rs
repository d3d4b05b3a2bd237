//! What the tests have in common: two nodes with agents, pods, kube-proxy's rules, and ways to disturb flows.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use overlay_common::config::FLAG_FASTPATH;
use overlay_testbed::node::Protocol;
use overlay_testbed::traffic::{PingOptions, ping};
use overlay_testbed::{Agent, AgentOptions, Builder, Node, Pod, Testbed};

pub(crate) use crate::maps::{Counters, Flow, Maps};

/// Address of every service.
pub(crate) const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;
/// Within this, traffic of an established flow is back on the fast path, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Two nodes with two pods each, agents on both, and the rules of kube-proxy and flannel.
pub(crate) struct Bed {
    agents: Vec<Agent>,
    pub(crate) testbed: Testbed,
}

/// What [`Bed::start`] builds: two nodes with two pods each, silent but for what a test sends.
pub(crate) fn two_nodes() -> Builder {
    Testbed::builder().nodes(2).pods_per_node(2).ipv6(false)
}

/// An agent with these arguments of `run`, as `&["--flow-revalidate=100ms"]`.
pub(crate) fn options(arguments: &[&str]) -> AgentOptions {
    AgentOptions::default().with_arguments(arguments)
}

impl Bed {
    /// [`two_nodes`] whose agents get these arguments.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_on(two_nodes(), arguments)
    }

    /// The testbed of `builder`, whose agents get these arguments.
    pub(crate) fn start_on(builder: Builder, arguments: &[&str]) -> Self {
        let testbed = builder.build().unwrap();
        for node in testbed.nodes() {
            kube_proxy_forwarding(node);
            node.flannel_masquerade().unwrap();
        }
        let agents = testbed.start_agents(&options(arguments)).unwrap();
        let bed = Self { agents, testbed };
        bed.wait_for_endpoints();
        bed.resolve_neighbours();
        bed
    }

    /// Waits until every pod's device has its programs.
    pub(crate) fn wait_for_endpoints(&self) {
        for node in self.testbed.nodes() {
            wait_until(SOON, "programs on the pods' devices", || {
                Maps::of(node).endpoints() == node.pods().len()
            });
        }
    }

    /// Lets every node find the MAC addresses of the others, so that no packet is left to the kernel device for that.
    fn resolve_neighbours(&self) {
        let once = PingOptions {
            count: 1,
            ..PingOptions::default()
        };
        for from in self.testbed.nodes() {
            for to in self.testbed.nodes().filter(|to| to.index() != from.index()) {
                ping(from.space(), to.address(), &once)
                    .unwrap()
                    .expect_lossless()
                    .unwrap();
            }
        }
    }

    pub(crate) fn node(&self, index: u8) -> &Node {
        self.testbed.node(index).unwrap()
    }

    pub(crate) fn pod(&self, node: u8, pod: u8) -> &Pod {
        self.testbed.pod(node, pod).unwrap()
    }

    /// The maps of node `index`.
    pub(crate) fn maps(&self, index: u8) -> Maps {
        Maps::of(self.node(index))
    }

    /// The counters of all nodes, in order.
    pub(crate) fn counters(&self) -> Vec<Counters> {
        self.testbed
            .nodes()
            .map(|node| Maps::of(node).counters())
            .collect()
    }

    /// How much the counters of all nodes have grown since `before`, in order.
    pub(crate) fn growth(&self, before: &[Counters]) -> Vec<Counters> {
        let pairs = self.testbed.nodes().zip(before);
        pairs
            .map(|(node, before)| before.growth(&Maps::of(node)))
            .collect()
    }

    /// A service on node `node`: `SERVICE:port` leads to `backend` for its pods.
    pub(crate) fn service(
        &self,
        node: u8,
        port: u16,
        protocol: Protocol,
        backend: SocketAddrV4,
    ) -> SocketAddrV4 {
        self.node(node).service(SERVICE, port, protocol, backend).unwrap();
        SocketAddrV4::new(SERVICE, port)
    }

    /// Empties the fast path of all nodes at once.
    pub(crate) fn bump_epochs(&self) {
        self.testbed.nodes().for_each(|node| Maps::of(node).bump_epoch());
    }

    /// Deletes all flow entries of all nodes; returns how many there were.
    pub(crate) fn evict_flows(&self) -> usize {
        self.testbed
            .nodes()
            .map(|node| Maps::of(node).evict_flows())
            .sum()
    }

    /// Kills all agents (SIGKILL); what they have attached goes on.
    pub(crate) fn kill_agents(&mut self) {
        for agent in self.agents.drain(..) {
            agent.kill9().unwrap();
        }
    }

    /// Ends all agents in an orderly way; what they have attached goes on.
    pub(crate) fn stop_agents(&mut self) {
        for agent in self.agents.drain(..) {
            agent.stop().unwrap();
        }
    }

    /// Starts agents with these arguments where there are none.
    pub(crate) fn start_agents(&mut self, arguments: &[&str]) {
        assert!(self.agents.is_empty(), "the agents still run");
        self.agents = self.testbed.start_agents(&options(arguments)).unwrap();
    }

    /// Whether `flow` may take the fast path on both nodes, in both directions.
    pub(crate) fn is_fast(&self, flow: &Flow) -> bool {
        let [client, server] = [&flow.client, &flow.server].map(|end| self.maps(node_of(end)));
        let ((egress, ingress), (back, there)) = (flow.keys_at_client(), flow.keys_at_server());
        client.is_fast(&egress, &ingress) && server.is_fast(&back, &there)
    }

    /// Waits until `flow`, which somebody keeps busy, may take the fast path on both nodes, in both directions.
    pub(crate) fn wait_until_fast(&self, flow: &Flow) {
        wait_until(SOON, &format!("fast path for {flow:?}"), || self.is_fast(flow));
    }

    /// How many forwarded packets node `index` has dropped because conntrack found them invalid.
    pub(crate) fn invalid_drops(&self, index: u8) -> u64 {
        let rules = self.node(index).run("iptables -vnxL FORWARD").unwrap();
        let rule = rules.lines().find(|line| line.contains("INVALID")).unwrap();
        rule.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Stops the agents and ends the testbed.
    pub(crate) fn end(mut self) {
        for node in self.testbed.nodes() {
            let flags = Maps::of(node).config().flags;
            assert!(flags & FLAG_FASTPATH != 0, "no fast path on {}", node.name());
        }
        self.stop_agents();
    }
}

/// kube-proxy's chain for forwarded packets (iptables mode), with its counters readable in the chain `FORWARD`.
fn kube_proxy_forwarding(node: &Node) {
    for rule in [
        "FORWARD -m conntrack --ctstate INVALID -j DROP",
        "FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
        "FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ] {
        node.run(&format!("iptables -A {rule}")).unwrap();
    }
}

/// The node of a pod's socket: the third byte of its address.
pub(crate) fn node_of(socket: &SocketAddrV4) -> u8 {
    socket.ip().octets()[2]
}

/// Waits until `holds`, for at most `timeout`; returns how long it took.
pub(crate) fn wait_until(timeout: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < timeout, "not within {timeout:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}
