//! Names, sizes, keys and values of the BPF maps.

use bytemuck::{Pod, Zeroable};

use crate::addr::{Addr, MaskedPrefix};

/// Array of one [`crate::config::Config`].
pub const CONFIG: &str = "CONFIG";
/// LPM trie: pod subnet of a peer (key: prefix length in the 128-bit form, [`Addr`]) → [`SubnetEntry`].
pub const SUBNETS: &str = "SUBNETS";
/// Per-CPU hash: underlay address of a known VTEP → [`Peer`]. Membership is what makes a VTEP known.
pub const PEERS: &str = "PEERS";
/// Per-CPU array: [`crate::reason::Reason`] → [`Counter`].
pub const COUNTERS: &str = "COUNTERS";

/// Every map of the object that is pinned by its name.
pub const PINNED: [&str; 4] = [CONFIG, SUBNETS, PEERS, COUNTERS];

/// Program on the egress hook of the VTEP device: encapsulation.
pub const VTEP_EGRESS: &str = "vtep_egress";
/// Program on the ingress hook of the underlay device: verification of tunnel peers.
pub const UNDERLAY_INGRESS: &str = "underlay_ingress";

/// Default capacity of `SUBNETS` (both families together) and of `PEERS`; the agent may ask for more at load time.
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

/// A known VTEP, one copy per CPU: the value of `PEERS`.
///
/// The subnet stands here, too, so that the check of received packets needs no `SUBNETS` entry: a peer whose way out is
/// not there yet, or is being changed, is not refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Peer {
    /// The peer's pod subnet.
    pub subnet: MaskedPrefix,
    /// Traffic with the peer.
    pub stats: PeerStats,
}

const _: () = assert!(size_of::<Peer>() == 64);

impl Peer {
    /// A peer with this subnet and no traffic yet.
    #[must_use]
    pub const fn new(subnet: MaskedPrefix) -> Self {
        Self {
            subnet,
            stats: PeerStats::ZERO,
        }
    }
}

/// Traffic with one peer.
///
/// Packets are counted as on the wire (segments of a GSO packet), bytes as inner IP bytes before segmentation.
/// Counted are packets that [`VTEP_EGRESS`] encapsulated and that [`UNDERLAY_INGRESS`] accepted. An aggregate that arrives
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
