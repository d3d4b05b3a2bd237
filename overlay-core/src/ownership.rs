//! What is this agent's to use, to change and to delete. Everything that no predicate here claims is foreign and is
//! never touched: a leak is better than deleting someone's network.
//!
//! Two things prove that an object is the overlay's. The *name*: `flannel.<VNI>` belongs to flannel and its
//! replacements by contract. The *shape*: what flannel writes (v0.28.9, pkg/backend/vxlan), down to flags and protocol.
//! A shape decides what may be **removed**. On the device, what the desired state needs is set under its key (a neighbour's
//! address, a peer's MAC), whatever stood there, as flannel does with `CREATE|REPLACE`. A route's key (destination, type
//! of service, metric) is not the device's but the whole table's, so there this agent departs from flannel: a peer's
//! route replaces one of our own shape only ([`peer_route`]), and somebody else's stays.

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::observed::{Device, FdbEntry, Neighbour, Route};

/// The `IFLA_IFALIAS` of a device that this agent made.
pub const DEVICE_MARK: &str = "overlay-agent";

/// `RTPROT_BOOT`: what `ip route` and flannel write.
pub const ROUTE_PROTOCOL: u8 = 3;

/// Whether the link with our name may be used, and recreated when it is not as it should be.
///
/// Any VXLAN device of that name may, a metadata one included: flannel recreates the same ones, and no other software
/// names its devices so. A link of another kind is somebody's mistake or somebody's own, and stays.
#[must_use]
pub fn usable(device: &Device) -> bool {
    device.vxlan.is_some()
}

/// Whether `cleanup` may delete the link with our name: only what this agent made, which carries its mark. An adopted
/// device was flannel's and may be flannel's again.
#[must_use]
pub fn made_by_us(device: &Device) -> bool {
    usable(device) && device.alias.as_deref() == Some(DEVICE_MARK)
}

/// Whether an address on the device may be removed: flannel removes those inside the cluster's network and no others
/// (`EnsureV4AddressOnLink`).
#[must_use]
pub fn address(network: Ipv4Net, address: &IpNet) -> bool {
    inside(network, address.addr())
}

/// Whether a route out of the device may be removed: exactly `<subnet> via <its first address> onlink`, protocol boot,
/// no metric, no further attribute, inside the cluster's network.
#[must_use]
pub fn route(network: Ipv4Net, route: &Route) -> bool {
    let Route {
        destination,
        gateway,
        onlink,
        protocol,
        metric,
        plain,
    } = route;
    let within = match destination {
        IpNet::V4(destination) => network.contains(destination),
        IpNet::V6(_) => false,
    };
    within
        && *gateway == Some(destination.network())
        && *onlink
        && *protocol == ROUTE_PROTOCOL
        && *metric == 0
        && *plain
}

/// Whether a route out of the device to a peer's subnet may give way to the right one: what [`route()`] claims, by any
/// gateway.
#[must_use]
pub fn peer_route(route: &Route) -> bool {
    route.gateway.is_some()
        && route.onlink
        && route.protocol == ROUTE_PROTOCOL
        && route.metric == 0
        && route.plain
}

/// Whether a neighbour entry may be removed: permanent, and inside the cluster's network. Resolved ones are the
/// kernel's, and go by themselves.
#[must_use]
pub fn neighbour(network: Ipv4Net, neighbour: &Neighbour) -> bool {
    neighbour.permanent && inside(network, neighbour.address)
}

/// Whether a forwarding entry may be removed: permanent, for one device's MAC, naming nothing but an underlay address.
/// The all-zero MAC is the default destination, which flannel never sets.
#[must_use]
pub fn fdb(entry: &FdbEntry) -> bool {
    entry.permanent && entry.plain && entry.mac.is_unicast() && entry.destination.is_some()
}

fn inside(network: Ipv4Net, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => network.contains(&address),
        IpAddr::V6(_) => false,
    }
}
