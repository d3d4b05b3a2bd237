//! The kernel's share of each peer: one forwarding entry, one neighbour, one route (flannel-contract §6.3).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::action::KernelAction;
use crate::desired::{Desired, Peer};
use crate::model::MacAddr;
use crate::observed::{Device, FdbEntry, Neighbour, Route};
use crate::order::{Ordered, Phase};
use crate::ownership;

/// Why something of ours is removed.
const UNNAMED: &str = "no lease names it";

pub(super) fn plan(desired: &Desired, kept: Option<&Device>, steps: &mut Ordered) {
    fdb(desired, kept, steps);
    neighbours(desired, kept, steps);
    routes(desired, kept, steps);
}

fn fdb(desired: &Desired, kept: Option<&Device>, steps: &mut Ordered) {
    let found = contents(kept, |device| &device.fdb);
    let wanted: BTreeMap<MacAddr, &Peer> = desired.peers.values().map(|peer| (peer.vtep_mac, peer)).collect();
    let mut set: BTreeSet<MacAddr> = BTreeSet::new();
    for (mac, peer) in &wanted {
        let destination = peer.public_ip;
        let entry = FdbEntry {
            mac: *mac,
            destination: Some(destination),
            permanent: true,
            plain: true,
        };
        if !found.is_some_and(|found| found.contains(&entry)) {
            set.insert(*mac);
        }
    }
    // The kernel holds any number of destinations for one MAC and sends to all of them. Setting one replaces one of the
    // others; which one is not promised, so each is removed. Entries of a peer's MAC are ours even when learned.
    let mut replaced: BTreeMap<MacAddr, IpAddr> = BTreeMap::new();
    for entry in found.into_iter().flatten() {
        let Some(destination) = entry.destination else {
            continue;
        };
        let why = match wanted.get(&entry.mac) {
            Some(peer) if peer.public_ip == destination || !entry.plain => continue,
            Some(peer) => {
                replaced.insert(entry.mac, destination);
                format!("{} is at {}", peer.node, peer.public_ip).into()
            }
            None if ownership::fdb(entry) => std::borrow::Cow::Borrowed(UNNAMED),
            None => continue,
        };
        steps.push(
            Phase::RemoveFdb,
            KernelAction::RemoveFdb {
                mac: entry.mac,
                destination,
            },
            why,
        );
    }
    for (mac, peer) in wanted.into_iter().filter(|(mac, _)| set.contains(mac)) {
        let why = match replaced.get(&mac) {
            Some(old) => format!("{}: destination was {old}", peer.node),
            None => missing(peer),
        };
        steps.push(
            Phase::SetFdb,
            KernelAction::SetFdb {
                mac,
                destination: peer.public_ip,
            },
            why,
        );
    }
}

fn neighbours(desired: &Desired, kept: Option<&Device>, steps: &mut Ordered) {
    let found = contents(kept, |device| &device.neighbours);
    let by_address: BTreeMap<IpAddr, &Neighbour> = found
        .into_iter()
        .flatten()
        .map(|neighbour| (neighbour.address, neighbour))
        .collect();
    let mut gateways = BTreeSet::new();
    for peer in desired.peers.values() {
        gateways.insert(peer.gateway);
        let why = match by_address.get(&peer.gateway) {
            None => missing(peer),
            Some(Neighbour {
                mac: Some(mac),
                permanent: true,
                ..
            }) if *mac == peer.vtep_mac => continue,
            Some(Neighbour { mac: Some(mac), .. }) if *mac != peer.vtep_mac => {
                format!("{}: MAC was {mac}", peer.node)
            }
            Some(_) => format!("{}: not permanent", peer.node),
        };
        let action = KernelAction::SetNeighbour {
            address: peer.gateway,
            mac: peer.vtep_mac,
        };
        steps.push(Phase::SetNeighbour, action, why);
    }
    for neighbour in found.into_iter().flatten() {
        let address = neighbour.address;
        if ownership::neighbour(desired.network, neighbour) && !gateways.contains(&address) {
            steps.push(
                Phase::RemoveNeighbour,
                KernelAction::RemoveNeighbour { address },
                UNNAMED,
            );
        }
    }
}

fn routes(desired: &Desired, kept: Option<&Device>, steps: &mut Ordered) {
    let found = contents(kept, |device| &device.routes);
    for (subnet, peer) in &desired.peers {
        if !found.is_some_and(|found| ownership::has_peer_route(found, *subnet, peer.gateway)) {
            let action = KernelAction::SetRoute {
                destination: *subnet,
                gateway: peer.gateway,
            };
            steps.push(Phase::SetRoute, action, missing(peer));
        }
    }
    for route in found.into_iter().flatten() {
        let Route {
            destination,
            gateway: Some(gateway),
            ..
        } = route
        else {
            continue;
        };
        // What has our shape and the destination of a peer is that peer's route.
        if ownership::route(desired.network, route) && !desired.peers.contains_key(destination) {
            let action = KernelAction::RemoveRoute {
                destination: *destination,
                gateway: *gateway,
            };
            steps.push(Phase::RemoveRoute, action, UNNAMED);
        }
    }
}

fn contents<'o, T>(
    kept: Option<&'o Device>,
    of: fn(&'o Device) -> &'o BTreeSet<T>,
) -> Option<&'o BTreeSet<T>> {
    kept.map(of)
}

fn missing(peer: &Peer) -> String {
    format!("{}: missing", peer.node)
}
