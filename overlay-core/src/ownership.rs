//! What is this agent's to use, to change and to delete. Everything that no predicate here claims is foreign and is
//! never touched: a leak is better than deleting someone's network.
//!
//! Two things prove that an object is the overlay's. The *name*: `flannel.<VNI>` belongs to flannel and its
//! replacements by contract. The *shape*: what flannel writes (v0.28.9, pkg/backend/vxlan), down to flags and protocol.
//! A shape decides what may be **removed**. On the device, what the desired state needs is set under its key (a neighbour's
//! address, a peer's MAC), whatever stood there, as flannel does with `CREATE|REPLACE`. A route's key (destination, type
//! of service, metric) is not the device's but the whole table's, so there this agent departs from flannel: a peer's
//! route replaces one of our own shape only ([`peer_route`]), and somebody else's stays.
//!
//! # Route protocols
//!
//! A route's `rtm_protocol` is boot, as flannel's, or of [`SPREAD_PROTOCOLS`]; both are ours, and a route of either is
//! right. The kernel keeps one `fib_info` for each of our routes and looks through a whole hash bucket of them before it
//! adds another (`fib_find_info`); the bucket is chosen by protocol, scope, preferred source, priority
//! (`fib_info_hashfn_1`) and the next hop's device (`fib_info_hashfn`, `fib_devindex_hashfn`; all net/ipv4/fib_semantics.c)
//! – not by gateway or destination. So all routes of one protocol out of one device share a bucket, and adding n of them
//! costs O(n²): a single one beside 15,000 takes 0.7 ms with the kernel's lock held. Beyond [`SPREAD_FROM`] routes new
//! ones get a protocol by their subnet ([`route_protocol`]), which makes 48 buckets of the one.
//!
//! Nothing else depends on the protocol: packets do not, and flannel's own requests do not, so a roll-back works.
//! `RouteReplace` finds the route to replace by destination, type of service and metric, `RouteDel` without protocol
//! matches any (`fib_table_insert`, `fib_table_delete`; net/ipv4/fib_trie.c). The numbers are free in iproute2's
//! `rt_protos` and in `linux/rtnetlink.h`.

mod protocol;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::observed::{Device, FdbEntry, Neighbour, Route};

pub use self::protocol::{ROUTE_PROTOCOL, SPREAD_FROM, SPREAD_PROTOCOLS, is_own_protocol, route_protocol};

/// The `IFLA_IFALIAS` of a device that this agent made.
pub const DEVICE_MARK: &str = "overlay-agent";

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

/// Whether a route out of the device may be removed: exactly `<subnet> via <its first address> onlink`, of a
/// protocol of ours, no metric, no further attribute, inside the cluster's network.
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
        && is_own_protocol(*protocol)
        && *metric == 0
        && *plain
}

/// Whether a route out of the device to a peer's subnet may give way to the right one: what [`route()`] claims, by any
/// gateway.
#[must_use]
pub fn peer_route(route: &Route) -> bool {
    route.gateway.is_some()
        && route.onlink
        && is_own_protocol(route.protocol)
        && route.metric == 0
        && route.plain
}

/// Whether the peer's route is among the device's routes, by whichever protocol of ours.
///
/// Costs O(log n) in the number of routes.
#[must_use]
pub fn has_peer_route(routes: &BTreeSet<Route>, destination: IpNet, gateway: IpAddr) -> bool {
    let least = Route {
        destination,
        gateway: None,
        onlink: false,
        protocol: 0,
        metric: 0,
        plain: false,
    };
    routes
        .range(least..)
        .take_while(|route| route.destination == destination)
        .any(|route| route.gateway == Some(gateway) && peer_route(route))
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
