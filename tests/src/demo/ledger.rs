//! What the demo has sent through the overlay, to compare it with the agents' counters.

use std::collections::BTreeMap;

use crate::node::Node;

/// Lower bounds of what a node sent to another one's subnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// Packets as the programs count them: a GSO packet is one.
    pub(super) packets: u64,
    /// Bytes of payload.
    pub(super) bytes: u64,
}

/// Everything sent so far, by sending and receiving node.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    entries: BTreeMap<(u8, u8), Sent>,
}

impl Ledger {
    /// `from` sent at least so much to the subnet of `to`.
    pub(super) fn sent(&mut self, from: &Node, to: &Node, packets: u64, bytes: u64) {
        let entry = self.entries.entry((from.index(), to.index())).or_default();
        entry.packets += packets;
        entry.bytes += bytes;
    }

    /// What `from` sent to `to`.
    pub(super) fn between(&self, from: u8, to: u8) -> Sent {
        self.entries.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Packets that node `index` sent to all others.
    pub(super) fn packets_from(&self, index: u8) -> u64 {
        self.entries
            .iter()
            .filter(|((from, _), _)| *from == index)
            .map(|(_, sent)| sent.packets)
            .sum()
    }

    /// Packets that all others sent to node `index`.
    pub(super) fn packets_to(&self, index: u8) -> u64 {
        self.entries
            .iter()
            .filter(|((_, to), _)| *to == index)
            .map(|(_, sent)| sent.packets)
            .sum()
    }
}
