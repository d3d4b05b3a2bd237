//! What route netlink carries out.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::MacAddr;

/// A change to the device or to its addresses, neighbours, forwarding entries and routes.
#[derive(Clone, PartialEq, Debug)]
pub enum KernelAction {
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
    /// Create `destination via gateway dev <device> onlink`, table main, of a protocol of ours
    /// ([`crate::ownership::route_protocol`]). Takes the place of ours by another gateway
    /// ([`crate::ownership::peer_route`]), and fails where anything else stands.
    SetRoute {
        /// The peer's pod subnet.
        destination: IpNet,
        /// The first address of the subnet: the peer's overlay address.
        gateway: IpAddr,
    },
    /// Remove exactly this route, of whichever protocol of ours.
    RemoveRoute {
        /// Destination prefix.
        destination: IpNet,
        /// Next hop.
        gateway: IpAddr,
    },
}

impl KernelAction {
    /// Whether it gives something, rather than taking it away.
    #[must_use]
    pub const fn is_addition(&self) -> bool {
        match self {
            Self::CreateDevice(_)
            | Self::SetDeviceMtu(_)
            | Self::SetDeviceUp
            | Self::AddAddress(_)
            | Self::SetNeighbour { .. }
            | Self::SetFdb { .. }
            | Self::SetRoute { .. } => true,
            Self::DeleteDevice { .. }
            | Self::RemoveAddress(_)
            | Self::RemoveNeighbour { .. }
            | Self::RemoveFdb { .. }
            | Self::RemoveRoute { .. } => false,
        }
    }
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
