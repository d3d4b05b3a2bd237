//! Names, sizes, keys and values of the BPF maps.

use bytemuck::{Pod, Zeroable};

use crate::addr::{Addr, MaskedPrefix};

/// Array of one [`crate::config::Config`].
pub const CONFIG: &str = "CONFIG";
/// LPM trie: pod subnet of a peer (key: prefix length in the 128-bit form, [`Addr`]) → [`SubnetEntry`].
pub const SUBNETS: &str = "SUBNETS";
/// Hash: underlay address of a known VTEP → [`Peer`]. Membership is what makes a VTEP known.
pub const PEERS: &str = "PEERS";
/// Per-CPU array: [`Peer::stats`] → [`PeerStats`].
pub const PEER_STATS: &str = "PEER_STATS";
/// Per-CPU array: [`crate::reason::Reason`] → [`Counter`].
pub const COUNTERS: &str = "COUNTERS";

/// LRU hash: [`crate::flow::FlowKey`] *T* of packets that a pod sends → [`crate::flow::EgressFlow`].
pub const EGRESS_FLOWS: &str = "EGRESS_FLOWS";
/// LRU hash: [`crate::flow::FlowKey`] *R'* of packets out of the tunnel → [`crate::flow::IngressFlow`].
pub const INGRESS_FLOWS: &str = "INGRESS_FLOWS";
/// Array: slot → [`crate::flow::Pending`].
pub const PENDING: &str = "PENDING";
/// Per-CPU array of one `u32`: which of its `PENDING` slots the CPU uses next.
pub const CURSORS: &str = "CURSORS";
/// Array: part of a flow's tag → [`crate::flow::Retry`].
pub const RETRIES: &str = "RETRIES";
/// Hash: index of a device that leads to a pod → [`crate::flow::Endpoint`]. Flows of other devices are not learned.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// Array: device index modulo [`crate::flow::DEVICE_EPOCH_SLOTS`] → `u32`, raised to forget the flows of a device.
pub const DEVICE_EPOCHS: &str = "DEVICE_EPOCHS";
/// Array of one `u32`: how many endpoints are in shortcut mode. While it is 0, [`VTEP_INGRESS`] passes everything.
pub const SHORTCUTS: &str = "SHORTCUTS";

/// Every map of the object that is pinned by its name.
pub const PINNED: [&str; 13] = [
    CONFIG,
    SUBNETS,
    PEERS,
    PEER_STATS,
    COUNTERS,
    EGRESS_FLOWS,
    INGRESS_FLOWS,
    PENDING,
    CURSORS,
    RETRIES,
    ENDPOINTS,
    DEVICE_EPOCHS,
    SHORTCUTS,
];

/// Program on the egress hook of the VTEP device: encapsulation.
pub const VTEP_EGRESS: &str = "vtep_egress";
/// Program on the ingress hook of the VTEP device: the rest of the way for endpoints in shortcut mode.
pub const VTEP_INGRESS: &str = "vtep_ingress";
/// Program on the ingress hook of the underlay device: verification of tunnel peers, and the fast path to pods.
pub const UNDERLAY_INGRESS: &str = "underlay_ingress";
/// Program on the ingress hook of each device that leads to a pod: the fast path from pods.
pub const POD_INGRESS: &str = "pod_ingress";
/// Program on the egress hook of each device that leads to a pod: learns what the stack did with tunnel packets.
pub const POD_EGRESS: &str = "pod_egress";

/// Default capacity of `SUBNETS` (both families together), `PEERS` and `PEER_STATS`; the agent may ask for more at load time.
pub const DEFAULT_MAX_PEERS: u32 = 16_384;

/// Where the pods of a subnet live: the value of `SUBNETS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct SubnetEntry {
    /// Underlay address of the peer's VTEP.
    pub vtep: Addr,
    /// MAC address of the peer's VTEP device: destination of the inner Ethernet header.
    pub vtep_mac: [u8; 6],
    reserved: [u8; 2],
}

const _: () = assert!(size_of::<SubnetEntry>() == 24);

impl SubnetEntry {
    /// The entry for the peer at `vtep` with device address `vtep_mac`.
    #[must_use]
    pub const fn new(vtep: Addr, vtep_mac: [u8; 6]) -> Self {
        Self {
            vtep,
            vtep_mac,
            reserved: [0; 2],
        }
    }
}

/// A known VTEP: the value of `PEERS`.
///
/// The subnet stands here, too, so that the check of received packets needs no `SUBNETS` entry: a peer whose way out is
/// not there yet, or is being changed, is not refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Peer {
    /// The peer's pod subnet.
    pub subnet: MaskedPrefix,
    /// Index of its traffic in `PEER_STATS`. No two peers share one.
    pub stats: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Peer>() == 40);

impl Peer {
    /// A peer with this subnet, whose traffic is counted in slot `stats`.
    #[must_use]
    pub const fn new(subnet: MaskedPrefix, stats: u32) -> Self {
        Self {
            subnet,
            stats,
            reserved: 0,
        }
    }
}

/// Traffic with one peer, one copy per CPU: the value of `PEER_STATS`.
///
/// Packets are counted as on the wire (segments of a GSO packet), bytes as inner IP bytes before segmentation.
/// Counted are packets that the programs encapsulated, and those that [`UNDERLAY_INGRESS`] accepted or delivered. An aggregate that arrives
/// uncut from another eBPF node, over veth or a virtual NIC, counts as one received packet: the kernel has not counted
/// its segments yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct PeerStats {
    /// Packets sent to the peer.
    pub tx_packets: u64,
    /// Inner bytes sent to the peer.
    pub tx_bytes: u64,
    /// Packets received from the peer.
    pub rx_packets: u64,
    /// Inner bytes received from the peer.
    pub rx_bytes: u64,
}

const _: () = assert!(size_of::<PeerStats>() == 32);

/// How often something happened, one copy per CPU: the value of `COUNTERS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Counter {
    /// Packets as the program saw them: a GSO packet counts once.
    pub packets: u64,
    /// Bytes from the Ethernet header on, as the program found the packet.
    pub bytes: u64,
}

const _: () = assert!(size_of::<Counter>() == 16);

impl PeerStats {
    /// No traffic.
    pub const ZERO: Self = Self {
        tx_packets: 0,
        tx_bytes: 0,
        rx_packets: 0,
        rx_bytes: 0,
    };

    /// The sum of two CPUs' copies.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            tx_packets: self.tx_packets.wrapping_add(other.tx_packets),
            tx_bytes: self.tx_bytes.wrapping_add(other.tx_bytes),
            rx_packets: self.rx_packets.wrapping_add(other.rx_packets),
            rx_bytes: self.rx_bytes.wrapping_add(other.rx_bytes),
        }
    }
}

impl Counter {
    /// The sum of two CPUs' copies.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }
}
