//! What a program did with one packet.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use aya::Pod;
use aya::maps::PerCpuArray;
use overlay_common::maps::{COUNTERS, Counter, PEER_STATS, PeerStats};
use overlay_common::reason::Reason;

use super::{Bed, PEER_LIST, STATS_SLOTS};

/// Counters that changed: packets, bytes.
pub(crate) type Counters = BTreeMap<&'static str, (u64, u64)>;
/// Peers whose statistics changed: tx packets, tx bytes, rx packets, rx bytes.
pub(crate) type Peers = BTreeMap<IpAddr, [u64; 4]>;

/// Everything that a program did with one packet.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: i32,
    pub(crate) bytes: Vec<u8>,
    /// `skb->mark`, if the program changed it.
    pub(crate) marked: Option<u32>,
    /// `skb->priority`, if the program changed it.
    pub(crate) priority: Option<u32>,
    /// Every counter that changed, with the difference.
    pub(crate) counters: Counters,
    /// Every peer whose statistics changed, with the difference.
    pub(crate) peers: Peers,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self
            .bytes
            .iter()
            .take(120)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        f.debug_struct("Outcome")
            .field("verdict", &self.verdict)
            .field("len", &self.bytes.len())
            .field("bytes", &headers.join(" "))
            .field("marked", &format_args!("{:x?}", self.marked))
            .field("priority", &self.priority)
            .field("counters", &self.counters)
            .field("peers", &self.peers)
            .finish()
    }
}

/// All counters and all statistics, summed over the CPUs.
pub(super) struct Totals {
    counters: Vec<Counter>,
    stats: Vec<PeerStats>,
}

impl Totals {
    /// What has changed since `before`.
    pub(super) fn since(&self, before: &Self) -> (Counters, Peers) {
        let counters = Reason::ALL
            .into_iter()
            .zip(before.counters.iter().zip(&self.counters))
            .filter(|(_, (before, after))| before != after)
            .map(|(reason, (before, after))| {
                (
                    reason.label(),
                    (after.packets - before.packets, after.bytes - before.bytes),
                )
            })
            .collect();
        let peers = before
            .stats
            .iter()
            .zip(&self.stats)
            .enumerate()
            .filter(|(_, (before, after))| before != after)
            .map(|(slot, (before, after))| {
                let delta = [
                    after.tx_packets - before.tx_packets,
                    after.tx_bytes - before.tx_bytes,
                    after.rx_packets - before.rx_packets,
                    after.rx_bytes - before.rx_bytes,
                ];
                (owner(slot), delta)
            })
            .collect();
        (counters, peers)
    }
}

/// The VTEP whose statistics are in `slot`; 0.0.0.0 for one that no peer has.
fn owner(slot: usize) -> IpAddr {
    PEER_LIST
        .iter()
        .find(|peer| peer.stats as usize == slot)
        .map_or(Ipv4Addr::UNSPECIFIED, |peer| peer.vtep)
        .into()
}

impl Bed {
    pub(super) fn totals(&self) -> Totals {
        Totals {
            counters: self.sums(COUNTERS, Reason::ALL.len(), Counter::default(), Counter::plus),
            stats: self.sums(PEER_STATS, STATS_SLOTS as usize, PeerStats::ZERO, PeerStats::plus),
        }
    }

    fn sums<T: Pod>(&self, name: &str, len: usize, zero: T, plus: fn(T, T) -> T) -> Vec<T> {
        let map: PerCpuArray<_, T> = self
            .ebpf
            .map(name)
            .expect(name)
            .try_into()
            .expect("a per-CPU array");
        (0..u32::try_from(len).expect("a small map"))
            .map(|index| {
                let copies = map.get(&index, 0).expect("read a per-CPU array");
                copies.iter().copied().fold(zero, plus)
            })
            .collect()
    }
}
