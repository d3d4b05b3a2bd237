//! What the kernel holds. Filled by the agent's observers, never by the planner.

mod apply;
pub(crate) mod entries;
mod restrict;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use overlay_common::config::Config;
use overlay_common::maps::SubnetEntry;

pub use self::apply::Links;
pub use self::restrict::Keys;
use crate::action::{Hook, Program};
use crate::model::MacAddr;

/// Everything on this node that a plan may concern.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Observed {
    /// The device that carries our device's name, if there is one.
    pub device: Option<Device>,
    /// The eBPF side; `None` where nothing of ours is pinned.
    pub dataplane: Option<ObservedDataplane>,
}

/// A link with our device's name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Interface index.
    pub ifindex: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// Link-layer address.
    pub mac: Option<MacAddr>,
    /// `IFLA_IFALIAS`: carries [`crate::ownership::DEVICE_MARK`] on a device that this agent made.
    pub alias: Option<String>,
    /// VXLAN attributes; `None` when the link is of another kind.
    pub vxlan: Option<VxlanAttributes>,
    /// Addresses on the device, with prefix length, link-local ones included.
    pub addresses: BTreeSet<IpNet>,
    /// Routes of table main out of the device.
    pub routes: BTreeSet<Route>,
    /// Neighbour entries (IPv4 and IPv6) of the device.
    pub neighbours: BTreeSet<Neighbour>,
    /// Entries of the device's own forwarding database (`self`).
    pub fdb: BTreeSet<FdbEntry>,
}

/// The attributes of a VXLAN device that decide whether it can be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VxlanAttributes {
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Source address of outer headers.
    pub local: Option<IpAddr>,
    /// Index of the underlay device.
    pub underlay_ifindex: Option<u32>,
    /// Whether the device learns peers from traffic.
    pub learning: bool,
    /// Group Based Policy.
    pub gbp: bool,
    /// Whether it is a metadata (`external`) device.
    pub collect_metadata: bool,
    /// Multicast group or default destination.
    pub group: Option<IpAddr>,
    /// Reports misses of its forwarding database to user space.
    pub l2miss: bool,
}

/// A route out of our device.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Route {
    /// Destination prefix.
    pub destination: IpNet,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// The `onlink` flag.
    pub onlink: bool,
    /// `rtm_protocol` (3 is boot).
    pub protocol: u8,
    /// Metric; 0 when not given.
    pub metric: u32,
    /// Whether it is a plain unicast route of scope global without attributes that flannel would not set.
    pub plain: bool,
}

/// A neighbour entry of our device.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Neighbour {
    /// The neighbour's address.
    pub address: IpAddr,
    /// Its link-layer address, if resolved.
    pub mac: Option<MacAddr>,
    /// Whether the entry is permanent.
    pub permanent: bool,
}

/// An entry of our device's forwarding database.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FdbEntry {
    /// Link-layer address; all zero is the default destination.
    pub mac: MacAddr,
    /// Underlay address that frames for `mac` go to.
    pub destination: Option<IpAddr>,
    /// Whether the entry is permanent.
    pub permanent: bool,
    /// Whether it names only a destination: no VNI, port or device of its own.
    pub plain: bool,
}

/// What is pinned, and where programs are attached.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ObservedDataplane {
    /// Whether the pinned maps have this agent's layout (ABI version, key and value sizes, capacity); when not,
    /// everything pinned must be replaced, and the other fields are empty.
    pub compatible: bool,
    /// The `CONFIG` entry; `None` when the programs are not configured.
    pub config: Option<Config>,
    /// The `SUBNETS` entries.
    pub subnets: BTreeMap<IpNet, SubnetEntry>,
    /// The `PEERS` entries: VTEP and subnet.
    pub peers: BTreeMap<IpAddr, IpNet>,
    /// Where our programs are attached.
    pub attached: BTreeMap<Hook, Attachment>,
    /// Programs of this agent's build that are not pinned: nothing can be attached from them.
    pub missing: BTreeSet<Program>,
}

/// One of our programs on a hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// The device it is attached to; 0 when the device is gone.
    pub ifindex: u32,
    /// Whether it is the program that this agent was built with.
    pub current: bool,
}
