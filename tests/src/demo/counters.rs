//! The agents' counters, compared with what was sent.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::ledger::{Ledger, Sent};
use super::report::Report;
use crate::node::Node;
use crate::testbed::Testbed;

/// What `overlay-agent status --json` says.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Status {
    pub(super) peers: Vec<Peer>,
    counters: BTreeMap<String, Counter>,
}

/// A peer in the status.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Peer {
    pub(super) vtep: String,
    tx_packets: u64,
    tx_bytes: u64,
    rx_packets: u64,
    rx_bytes: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Counter {
    packets: u64,
}

impl Status {
    /// The status of `node`.
    pub(super) fn of(node: &Node) -> Result<Self> {
        let text = node.agent_command(&["status", "--json"])?.success()?;
        serde_json::from_str(&text).with_context(|| format!("status of {}: {text}", node.name()))
    }

    fn packets(&self, counter: &str) -> u64 {
        self.counters.get(counter).map_or(0, |counter| counter.packets)
    }

    /// The counters that are not zero.
    fn text(&self) -> String {
        let counters = self.counters.iter().filter(|(_, counter)| counter.packets > 0);
        counters
            .map(|(name, counter)| format!("{name} {}", counter.packets))
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn sent_to(&self, vtep: &str) -> Sent {
        let peer = self.peers.iter().find(|peer| peer.vtep == vtep);
        peer.map_or_else(Sent::default, |peer| Sent {
            packets: peer.tx_packets,
            bytes: peer.tx_bytes,
        })
    }

    fn received_from(&self, vtep: &str) -> Sent {
        let peer = self.peers.iter().find(|peer| peer.vtep == vtep);
        peer.map_or_else(Sent::default, |peer| Sent {
            packets: peer.rx_packets,
            bytes: peer.rx_bytes,
        })
    }
}

/// Counters of packets that the stack routed to the overlay.
const SENT_BY_SUBNET: &[&str] = &["encapsulated"];
/// Counters of packets that were verified and left to the kernel's device.
const RECEIVED_BY_KERNEL: &[&str] = &["accepted", "ingress_marked"];

/// The status of every node, by its number.
pub(super) fn read_all(testbed: &Testbed) -> Result<BTreeMap<u8, Status>> {
    testbed
        .nodes()
        .map(|node| Ok((node.index(), Status::of(node)?)))
        .collect()
}

/// On every node the counters must have grown by what was sent and received, in total and for each peer.
pub(super) fn check(testbed: &Testbed, before: &BTreeMap<u8, Status>, ledger: &Ledger, report: &mut Report) {
    for node in testbed.nodes() {
        report.check(&format!("counters of {}", node.name()), || {
            let before = before.get(&node.index()).context("no earlier status")?;
            compare(testbed, node, before, &Status::of(node)?, ledger)
        });
    }
}

fn compare(
    testbed: &Testbed,
    node: &Node,
    before: &Status,
    after: &Status,
    ledger: &Ledger,
) -> Result<String> {
    let index = node.index();
    let mut seen = Vec::new();
    for (way, slow, fast, wanted) in [
        ("sent", SENT_BY_SUBNET, "egress_fast", ledger.packets_from(index)),
        (
            "received",
            RECEIVED_BY_KERNEL,
            "ingress_fast",
            ledger.packets_to(index),
        ),
    ] {
        let grown = |counter: &&str| after.packets(counter).saturating_sub(before.packets(counter));
        let (slow_packets, fast_packets) = (slow.iter().map(grown).sum::<u64>(), grown(&fast));
        if wanted == 0 || slow_packets + fast_packets < wanted {
            bail!(
                "{} and {fast} grew by {slow_packets} and {fast_packets}, expected at least {wanted} packets {way}: \
                 others took the kernel's path; all counters: {}",
                slow.join(", "),
                after.text()
            );
        }
        seen.push(format!(
            "{way} {} packets (at least {wanted} of the demo's), {fast_packets} of them past the host stack",
            slow_packets + fast_packets
        ));
    }
    for peer in testbed.nodes().filter(|peer| peer.index() != index) {
        let vtep = peer.address().to_string();
        let (sent, received) = (
            ledger.between(index, peer.index()),
            ledger.between(peer.index(), index),
        );
        for (way, wanted, now, then) in [
            ("to", sent, after.sent_to(&vtep), before.sent_to(&vtep)),
            (
                "from",
                received,
                after.received_from(&vtep),
                before.received_from(&vtep),
            ),
        ] {
            let packets = now.packets.saturating_sub(then.packets);
            let bytes = now.bytes.saturating_sub(then.bytes);
            if packets < wanted.packets || bytes < wanted.bytes {
                bail!(
                    "traffic {way} {} grew by {packets} packets and {bytes} bytes, expected at least {} and {}",
                    peer.name(),
                    wanted.packets,
                    wanted.bytes
                );
            }
        }
    }
    Ok(format!("{}, and for each peer", seen.join(", ")))
}
