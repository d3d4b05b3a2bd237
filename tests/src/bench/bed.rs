//! The ground: for each mode a pair of nodes, all there at the same time. A bed that is not measured costs nothing.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use anyhow::{Context, Result};

use super::plan::Case;
use super::result::{Mode, Target, Wire, Workload};
use super::rules;
use crate::agent::{Agent, AgentOptions};
use crate::node::Node;
use crate::pod::BRIDGE;
use crate::space::Space;
use crate::testbed::Testbed;
use crate::traffic::{PingOptions, ping};
use crate::underlay::Underlay;

/// Port of every server.
const PORT: u16 = 5001;
/// An address that no route of the overlay leads to; node 2 has it (TEST-NET-3, RFC 5737).
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Pods of flannel's host-gw backend have the underlay's MTU, in bytes.
const PLAIN_MTU: u32 = 1500;

/// Two nodes, connected by one veth pair, with what carries the packets in one mode.
#[derive(Debug)]
pub(super) struct Bed {
    mode: Mode,
    testbed: Testbed,
    /// Kept alive for as long as the bed.
    _agents: Vec<Agent>,
}

/// Between whom a workload runs.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    pub(super) client: Space,
    pub(super) server: Space,
    /// Where the server listens.
    pub(super) listen: SocketAddrV4,
    /// What the client connects to.
    pub(super) target: SocketAddrV4,
}

impl Bed {
    /// Builds the bed of `mode`.
    pub(super) fn build(mode: Mode) -> Result<Self> {
        Self::try_build(mode).with_context(|| format!("the nodes of mode {mode} cannot be set up"))
    }

    fn try_build(mode: Mode) -> Result<Self> {
        let testbed = Testbed::builder()
            .nodes(2)
            .pods_per_node(u8::from(mode != Mode::Bare))
            .underlay(Underlay::Direct)
            .ipv6(false)
            .build()?;
        let [first, second] = [testbed.node(1)?, testbed.node(2)?];
        for (node, peer) in [(first, second), (second, first)] {
            let backend = peer
                .pods()
                .first()
                .map(|pod| SocketAddrV4::new(pod.address(), PORT));
            rules::load(node, backend)?;
            // kubeadm demands it, and it is the default where the kernel has it at all.
            if bridge_calls_iptables() {
                node.space().sysctl("bridge/bridge-nf-call-iptables", "1")?;
            }
        }
        second.run(&format!("ip addr add {OUTSIDE}/32 dev lo"))?;
        let agents = match mode {
            Mode::Bare => Vec::new(),
            Mode::Hostgw => {
                for (node, peer) in [(first, second), (second, first)] {
                    host_gateway(node, peer)?;
                }
                Vec::new()
            }
            Mode::Kernel => {
                testbed.configure_like_flannel()?;
                Vec::new()
            }
            Mode::Slow => {
                testbed.start_agents(&AgentOptions::default().with_arguments(&["--fastpath", "off"]))?
            }
            Mode::Fast => testbed.start_agents(&AgentOptions::default())?,
        };
        let bed = Self {
            mode,
            testbed,
            _agents: agents,
        };
        bed.resolve()?;
        Ok(bed)
    }

    /// Lets everybody find everybody's MAC address, and proves that packets get through.
    fn resolve(&self) -> Result<()> {
        let once = PingOptions {
            count: 2,
            ..PingOptions::default()
        };
        let [first, second] = self.nodes()?;
        for (from, to) in [(first, second), (second, first)] {
            ping(from.space(), to.address(), &once)?.expect_lossless()?;
            if let (Some(from), Some(to)) = (from.pods().first(), to.pods().first()) {
                ping(from.space(), to.address(), &once)?.expect_lossless()?;
            }
        }
        Ok(())
    }

    /// The node of the client and that of the server.
    pub(super) fn nodes(&self) -> Result<[&Node; 2]> {
        Ok([self.testbed.node(1)?, self.testbed.node(2)?])
    }

    /// Between whom `case` runs here.
    pub(super) fn ends(&self, case: Case) -> Result<Ends> {
        let [first, second] = self.nodes()?;
        let (client, server, address) = if self.mode == Mode::Bare {
            (first.space(), second.space(), second.address())
        } else {
            let (client, server) = (first.pod(1)?, second.pod(1)?);
            (client.space(), server.space(), server.address())
        };
        // Without a service both targets are one address: the ports of ten thousand connections that have just been closed
        // would all be tried, and found to be waiting, before a free one is.
        let port = match (self.mode, case.target) {
            (Mode::Bare, Target::Service) => PORT + 1,
            _ => PORT,
        };
        let at = |address| SocketAddrV4::new(address, port);
        let (server, listen, target) = match (case.workload, case.target) {
            (Workload::OutsideRr, _) => (second.space(), at(OUTSIDE), at(OUTSIDE)),
            (_, Target::Service) if self.mode != Mode::Bare => (server, at(address), rules::SERVICE),
            (_, Target::Pod | Target::Service) => (server, at(address), at(address)),
        };
        Ok(Ends {
            client: client.clone(),
            server: server.clone(),
            listen,
            target,
        })
    }

    /// Makes large packets cross the underlay as `wire` says.
    pub(super) fn set_wire(&self, wire: Wire) -> Result<()> {
        let (segmentation, gro) = match wire {
            Wire::Tso => ("on", "off"),
            // A veth device aggregates only what its peer has not left whole.
            Wire::Segments => ("off", "on"),
        };
        for node in self.nodes()? {
            node.run(&format!(
                "ethtool -K {} tso {segmentation} tx-udp-segmentation {segmentation} \
                 tx-udp_tnl-segmentation {segmentation} tx-udp_tnl-csum-segmentation {segmentation} gro {gro}",
                node.underlay()
            ))?;
        }
        Ok(())
    }

    /// Makes conntrack forget the connections of the last case, so that they do not burden the next.
    pub(super) fn forget_connections(&self) -> Result<()> {
        for node in self.nodes()? {
            node.run("conntrack -F")?;
        }
        Ok(())
    }
}

/// What flannel's host-gw backend does: the peer is the next hop of its pods.
fn host_gateway(node: &Node, peer: &Node) -> Result<()> {
    node.run(&format!(
        "ip route add {}/24 via {}",
        peer.lease().subnet,
        peer.address()
    ))?;
    for pod in node.pods() {
        pod.run(&format!("ip link set eth0 mtu {PLAIN_MTU}"))?;
        node.run(&format!("ip link set {} mtu {PLAIN_MTU}", pod.host_veth()))?;
    }
    node.run(&format!("ip link set {BRIDGE} mtu {PLAIN_MTU}"))
        .map(drop)
}

/// Whether this kernel shows bridged packets to iptables (br_netfilter).
pub(super) fn bridge_calls_iptables() -> bool {
    Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()
}
