//! Neighbours, forwarding entries and routes of the modelled device.

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

pub(super) fn set_route(device: &mut Device, destination: IpNet, gateway: IpAddr) -> Result<(), String> {
    if !device.up {
        return Err("ENETDOWN".into());
    }
    // `NLM_F_EXCL`: destination and metric are the key. The executor takes ours by another gateway away.
    let (ours, others): (Vec<_>, Vec<_>) = routes_to(device, destination)
        .into_iter()
        .filter(|route| route.metric == 0)
        .partition(ownership::peer_route);
    if !others.is_empty() {
        return Err("EEXIST".into());
    }
    for route in ours {
        device.routes.remove(&route);
    }
    device.routes.insert(flannel_route(destination, gateway));
    Ok(())
}

pub(super) fn remove_route(device: &mut Device, destination: IpNet, gateway: IpAddr) {
    device.routes.remove(&flannel_route(destination, gateway));
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

fn routes_to(device: &Device, destination: IpNet) -> Vec<Route> {
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
        .take_while(|route| route.destination == destination)
        .cloned()
        .collect()
}

pub(super) fn remove_neighbour(device: &mut Device, address: IpAddr) {
    let least = Neighbour {
        address,
        mac: None,
        permanent: false,
    };
    let found = device
        .neighbours
        .range(least..)
        .next()
        .filter(|neighbour| neighbour.address == address)
        .cloned();
    if let Some(found) = found {
        device.neighbours.remove(&found);
    }
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
    let least = FdbEntry {
        mac,
        destination: None,
        permanent: false,
        plain: false,
    };
    let of_mac: Vec<_> = device
        .fdb
        .range(least..)
        .take_while(|entry| entry.mac == mac)
        .cloned()
        .collect();
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
