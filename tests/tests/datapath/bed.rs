//! What the tests have in common: a node with an agent facing one as flannel leaves it, counters, and frames.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use overlay_testbed::capture::Packet;
use overlay_testbed::packet::{Ethernet, Mac};
use overlay_testbed::traffic::{PingOptions, ping};
use overlay_testbed::{Agent, AgentOptions, Builder, Node, Offloads, Space, Testbed, eventually};
use serde_json::Value;

pub(crate) const PORT: u16 = 5000;
pub(crate) const SHORT: Duration = Duration::from_secs(5);
pub(crate) const MIB: u64 = 1 << 20;
/// Outer Ethernet, IPv4, UDP and VXLAN header and inner Ethernet header.
pub(crate) const INNER_IP: usize = 14 + 20 + 8 + 8 + 14;

/// Two nodes with a pod each, silent but for what a test sends.
pub(crate) fn two_nodes() -> Builder {
    Testbed::builder().nodes(2).pods_per_node(1).ipv6(false)
}

/// [`two_nodes`] between which every packet is as it would be on a cable, with checksums.
pub(crate) fn on_a_cable() -> Builder {
    two_nodes().offloads(Offloads::CABLE)
}

/// Options of an agent without the fast path: this suite is about the way that every packet of every flow can take, through
/// the stack, where each is counted by the program that it meets there. Established flows would leave that way in the middle
/// of a test; they are the `fastpath` suite's.
pub(crate) fn slow_path() -> AgentOptions {
    AgentOptions::default().with_arguments(&["--fastpath", "off"])
}

/// Options of an agent with `--dataplane kernel`: the path that everything is compared with.
pub(crate) fn kernel_path() -> AgentOptions {
    slow_path().with_arguments(&["--dataplane", "kernel"])
}

/// Options of an agent that attaches by clsact.
pub(crate) fn clsact() -> AgentOptions {
    slow_path().with_arguments(&["--attach", "clsact"])
}

/// Node 1 with an agent, the others as flannel leaves them.
pub(crate) fn facing_flannel(builder: Builder, options: &AgentOptions) -> (Testbed, Agent) {
    let testbed = builder.build().unwrap();
    let leases = testbed.leases();
    testbed.publish(&leases).unwrap();
    for node in testbed.nodes().filter(|node| node.index() != 1) {
        node.configure_like_flannel(leases.entries()).unwrap();
    }
    let agent = testbed.node(1).unwrap().start_agent(options).unwrap();
    resolve_neighbours(&testbed);
    (testbed, agent)
}

/// Lets every node find the MAC addresses of the others, so that no packet is left to the kernel device for that.
pub(crate) fn resolve_neighbours(testbed: &Testbed) {
    for from in testbed.nodes() {
        for to in testbed.nodes().filter(|to| to.index() != from.index()) {
            let once = PingOptions {
                count: 1,
                ..PingOptions::default()
            };
            ping(from.space(), to.address(), &once)
                .unwrap()
                .expect_lossless()
                .unwrap();
        }
    }
}

/// Packets and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Count {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// A node's counters, as `overlay-agent status --json` shows them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    reasons: BTreeMap<String, Count>,
    sent: BTreeMap<String, Count>,
    received: BTreeMap<String, Count>,
}

impl Counters {
    pub(crate) fn of(node: &Node) -> Self {
        let status = status(node);
        let count = |value: &Value, packets: &str, bytes: &str| Count {
            packets: value[packets].as_u64().unwrap(),
            bytes: value[bytes].as_u64().unwrap(),
        };
        let reasons = status["counters"].as_object().unwrap();
        let peers = status["peers"].as_array().unwrap();
        let of_peers = |packets: &str, bytes: &str| {
            let entry = |peer: &Value| {
                let vtep = peer["vtep"].as_str().unwrap().to_owned();
                (vtep, count(peer, packets, bytes))
            };
            peers.iter().map(entry).collect()
        };
        Self {
            reasons: reasons
                .iter()
                .map(|(name, value)| (name.clone(), count(value, "packets", "bytes")))
                .collect(),
            sent: of_peers("txPackets", "txBytes"),
            received: of_peers("rxPackets", "rxBytes"),
        }
    }

    /// How much `node`'s counters have grown since.
    pub(crate) fn growth(&self, node: &Node) -> Self {
        let now = Self::of(node);
        let grown = |now: BTreeMap<String, Count>, then: &BTreeMap<String, Count>| {
            let difference = |(name, count): (String, Count)| {
                let before = then.get(&name).copied().unwrap_or_default();
                let grown = Count {
                    packets: count.packets - before.packets,
                    bytes: count.bytes - before.bytes,
                };
                (grown != Count::default()).then_some((name, grown))
            };
            now.into_iter().filter_map(difference).collect()
        };
        Self {
            reasons: grown(now.reasons, &self.reasons),
            sent: grown(now.sent, &self.sent),
            received: grown(now.received, &self.received),
        }
    }

    /// Counter of a reason.
    pub(crate) fn get(&self, reason: &str) -> Count {
        self.reasons.get(reason).copied().unwrap_or_default()
    }

    /// Sent by the programs to the peer at `vtep`.
    pub(crate) fn sent_to(&self, vtep: Ipv4Addr) -> Count {
        self.sent.get(&vtep.to_string()).copied().unwrap_or_default()
    }

    /// Accepted from the peer at `vtep`.
    pub(crate) fn received_from(&self, vtep: Ipv4Addr) -> Count {
        self.received.get(&vtep.to_string()).copied().unwrap_or_default()
    }

    /// The reasons that are not zero, with their packets.
    pub(crate) fn packets(&self) -> BTreeMap<&str, u64> {
        self.reasons
            .iter()
            .map(|(name, count)| (name.as_str(), count.packets))
            .collect()
    }

    /// Only these reasons have grown.
    pub(crate) fn expect_only(&self, reasons: &[&str]) {
        let packets = self.packets();
        assert!(
            packets.keys().eq(reasons.iter()),
            "{packets:?}, expected only {reasons:?}"
        );
    }
}

/// `overlay-agent status --json` of `node`.
pub(crate) fn status(node: &Node) -> Value {
    let text = node
        .agent_command(&["status", "--json"])
        .unwrap()
        .success()
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Address of a device.
pub(crate) fn mac_of(space: &Space, device: &str) -> Mac {
    let text = space.run(&format!("ip -j link show {device}")).unwrap();
    let link: Value = serde_json::from_str(&text).unwrap();
    let mut mac = [0; 6];
    let digits = link[0]["address"].as_str().unwrap().split(':');
    for (byte, digits) in mac.iter_mut().zip(digits) {
        *byte = u8::from_str_radix(digits, 16).unwrap();
    }
    Mac(mac)
}

/// Ethernet header of what a node's pod sends to its gateway.
pub(crate) fn to_gateway(node: &Node) -> Ethernet {
    let pod = node.pod(1).unwrap();
    Ethernet::new(mac_of(pod.space(), "eth0"), mac_of(node.space(), "cni0"))
}

/// Whether it is IPv4 UDP to the overlay's port (without IP options).
pub(crate) fn is_tunnel(packet: &Packet) -> bool {
    packet.bytes.get(12..14) == Some(&[8, 0])
        && packet.bytes.get(23) == Some(&17)
        && packet.bytes.get(36..38) == Some(&[0x21, 0x18])
}

/// Whether it is a tunnel packet that the device received.
pub(crate) fn is_received_tunnel(packet: &Packet) -> bool {
    !packet.outgoing && is_tunnel(packet)
}

/// Whether it is an IPv4 packet that the device received.
pub(crate) fn is_received_ip(packet: &Packet) -> bool {
    !packet.outgoing && packet.bytes.get(12..14) == Some(&[8, 0])
}

/// Whether `marker` is in it.
pub(crate) fn contains(packet: &Packet, marker: &[u8]) -> bool {
    packet.bytes.windows(marker.len()).any(|window| window == marker)
}

/// Waits until `holds`.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(SHORT, what, || {
        if holds() {
            Ok(())
        } else {
            Err(std::io::Error::other("not yet").into())
        }
    })
    .unwrap();
}
