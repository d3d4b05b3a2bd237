//! What setting and removing does to the device's neighbours, forwarding entries and routes.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::MacAddr;
use crate::observed::{Device, FdbEntry, Neighbour, Route};
use crate::ownership::{self, ROUTE_PROTOCOL};

pub(super) fn set_neighbour(device: &mut Device, address: IpAddr, mac: MacAddr) {
    remove_neighbour(device, address);
    device.neighbours.insert(Neighbour {
        address,
        mac: Some(mac),
        permanent: true,
    });
}

pub(super) fn remove_fdb(device: &mut Device, mac: MacAddr, destination: IpAddr) {
    for permanent in [false, true] {
        device.fdb.remove(&FdbEntry {
            permanent,
            ..fdb_entry(mac, destination)
        });
    }
}

/// `NLM_F_EXCL`: destination and metric are the key. The executor takes ours by another gateway away, and fails where
/// somebody else's stands ([`foreign_route`]).
pub(super) fn set_route(device: &mut Device, destination: IpNet, gateway: IpAddr) {
    let ours: Vec<_> = routes_to(device, destination)
        .filter(|route| route.metric == 0 && ownership::peer_route(route))
        .cloned()
        .collect();
    for route in ours {
        device.routes.remove(&route);
    }
    device.routes.insert(flannel_route(destination, gateway));
}

/// Whether somebody else's route keeps a peer's from being set.
#[cfg(any(test, feature = "model-kernel"))]
pub(crate) fn foreign_route(device: &Device, destination: IpNet) -> bool {
    routes_to(device, destination).any(|route| route.metric == 0 && !ownership::peer_route(route))
}

pub(super) fn remove_route(device: &mut Device, destination: IpNet, gateway: IpAddr) {
    let ours: Vec<_> = routes_to(device, destination)
        .filter(|route| route.gateway == Some(gateway) && ownership::peer_route(route))
        .cloned()
        .collect();
    for route in ours {
        device.routes.remove(&route);
    }
}

fn flannel_route(destination: IpNet, gateway: IpAddr) -> Route {
    Route {
        destination,
        gateway: Some(gateway),
        onlink: true,
        protocol: ROUTE_PROTOCOL,
        metric: 0,
        plain: true,
    }
}

pub(super) fn routes_to(device: &Device, destination: IpNet) -> impl Iterator<Item = &Route> {
    let least = Route {
        destination,
        gateway: None,
        onlink: false,
        protocol: 0,
        metric: 0,
        plain: false,
    };
    device
        .routes
        .range(least..)
        .take_while(move |route| route.destination == destination)
}

pub(super) fn remove_neighbour(device: &mut Device, address: IpAddr) {
    if let Some(found) = neighbour(device, address).cloned() {
        device.neighbours.remove(&found);
    }
}

/// The device has one entry for each address.
pub(super) fn neighbour(device: &Device, address: IpAddr) -> Option<&Neighbour> {
    let least = Neighbour {
        address,
        mac: None,
        permanent: false,
    };
    let first = device.neighbours.range(least..).next();
    first.filter(|neighbour| neighbour.address == address)
}

fn fdb_entry(mac: MacAddr, destination: IpAddr) -> FdbEntry {
    FdbEntry {
        mac,
        destination: Some(destination),
        permanent: true,
        plain: true,
    }
}

/// `NLM_F_REPLACE` on a unicast entry: one of the MAC's destinations is replaced, the others stay. The state (permanent
/// or not) is the MAC's, so it changes for all (`vxlan_fdb_update_existing`).
pub(super) fn set_fdb(device: &mut Device, mac: MacAddr, destination: IpAddr) {
    let of_mac: Vec<_> = destinations(device, mac).cloned().collect();
    let mut replaced = of_mac
        .iter()
        .any(|entry| entry.plain && entry.destination == Some(destination));
    for entry in of_mac {
        device.fdb.remove(&entry);
        if !replaced && entry.plain {
            replaced = true;
        } else {
            device.fdb.insert(FdbEntry {
                permanent: true,
                ..entry
            });
        }
    }
    device.fdb.insert(fdb_entry(mac, destination));
}

pub(super) fn destinations(device: &Device, mac: MacAddr) -> impl Iterator<Item = &FdbEntry> {
    let least = FdbEntry {
        mac,
        destination: None,
        permanent: false,
        plain: false,
    };
    device
        .fdb
        .range(least..)
        .take_while(move |entry| entry.mac == mac)
}
