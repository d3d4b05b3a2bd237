//! What a plan consists of: actions as data. The agent's executor is the one place that carries them out.

mod display;

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;
use overlay_common::config::Config;
use overlay_common::maps::{self, SubnetEntry};

use crate::model::MacAddr;

/// One action of a plan, and why it is there.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// Why, for an operator: `missing`, `no lease names it`, `MTU is 1500, wanted 1450`.
    pub why: Cow<'static, str>,
}

/// A change to the kernel. Each is idempotent: carrying it out twice is carrying it out once.
///
/// "The device" is always this agent's VTEP device (`flannel.<VNI>`).
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Create the device (`RTM_NEWLINK`, exclusive), marked as made by this agent.
    CreateDevice(VxlanDevice),
    /// Delete the device by this index, if it still has our name.
    DeleteDevice {
        /// Interface name.
        name: String,
        /// Interface index.
        ifindex: u32,
    },
    /// Set the device's MTU in bytes.
    SetDeviceMtu(u32),
    /// Set the device up.
    SetDeviceUp,
    /// Add an address to the device.
    AddAddress(IpNet),
    /// Remove an address from the device.
    RemoveAddress(IpNet),
    /// Create or replace a permanent neighbour entry on the device.
    SetNeighbour {
        /// The peer's overlay address.
        address: IpAddr,
        /// The peer's device.
        mac: MacAddr,
    },
    /// Remove a neighbour entry from the device.
    RemoveNeighbour {
        /// The peer's overlay address.
        address: IpAddr,
    },
    /// Create or replace a permanent entry of the device's forwarding database.
    SetFdb {
        /// The peer's device.
        mac: MacAddr,
        /// The peer's underlay address.
        destination: IpAddr,
    },
    /// Remove an entry of the device's forwarding database.
    RemoveFdb {
        /// The peer's device.
        mac: MacAddr,
        /// The underlay address that the entry names.
        destination: IpAddr,
    },
    /// Create or replace `destination via gateway dev <device> onlink`, table main, protocol boot.
    SetRoute {
        /// The peer's pod subnet.
        destination: IpNet,
        /// The first address of the subnet: the peer's overlay address.
        gateway: IpAddr,
    },
    /// Remove exactly this route.
    RemoveRoute {
        /// Destination prefix.
        destination: IpNet,
        /// Next hop.
        gateway: IpAddr,
    },
    /// Load the embedded object, pin its maps and programs; whatever of ours was pinned before is replaced.
    LoadDataplane,
    /// Detach our programs and remove everything pinned.
    RemoveDataplane,
    /// Attach our program to a hook of the named device, beside what is there; replaces only our own.
    Attach {
        /// Which hook, and so which program.
        hook: Hook,
        /// Interface name of the device.
        device: String,
    },
    /// Write the `CONFIG` entry.
    SetConfig(Box<Config>),
    /// Make a VTEP known to the peer check.
    AddPeer(IpAddr),
    /// Forget a VTEP.
    RemovePeer(IpAddr),
    /// Write a `SUBNETS` entry.
    SetSubnet {
        /// The peer's pod subnet.
        subnet: IpNet,
        /// Where it lives.
        entry: SubnetEntry,
    },
    /// Remove a `SUBNETS` entry.
    RemoveSubnet(IpNet),
}

/// A hook that one of our programs belongs on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Hook {
    /// Egress of the VTEP device.
    VtepEgress,
    /// Ingress of the underlay device.
    UnderlayIngress,
}

/// A VXLAN device as flannel makes it (flannel v0.28.9, pkg/backend/vxlan/device.go).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VxlanDevice {
    /// Interface name: `flannel.<VNI>`.
    pub name: String,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP destination port; `None` leaves the kernel's default (8472).
    pub port: Option<u16>,
    /// Source address of outer headers.
    pub local: IpAddr,
    /// Index of the underlay device.
    pub underlay_ifindex: u32,
    /// Link-layer address.
    pub mac: MacAddr,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether the device learns peers from traffic.
    pub learning: bool,
    /// Group Based Policy.
    pub gbp: bool,
}

impl Hook {
    /// Name of the program that belongs here.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::VtepEgress => maps::VTEP_EGRESS,
            Self::UnderlayIngress => maps::UNDERLAY_INGRESS,
        }
    }
}
