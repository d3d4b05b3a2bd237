//! What must never get worse while a plan is carried out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use overlay_common::config::ABI_VERSION;

use crate::action::{Action, DataplaneAction, Hook};
use crate::model::MacAddr;
use crate::observed::{Device, Observed, Route};
use crate::ownership::is_own_protocol;

/// Where the fast path and the kernel disagree.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Broken {
    /// `SUBNETS` entries that lead elsewhere than the kernel, or where the kernel does not lead at all.
    unbacked: BTreeSet<IpNet>,
    /// `SUBNETS` entries whose VTEP is not in `PEERS`.
    unknown_vtep: BTreeSet<IpNet>,
    /// `PEERS` keys to which the kernel sends nothing.
    unreached: BTreeSet<IpAddr>,
    /// Routes of flannel's shape whose packets the device would drop: no neighbour, or no destination for its MAC.
    pub(super) dead_routes: BTreeSet<IpNet>,
    /// The program on the device would write other outer headers than the device.
    wrong_headers: bool,
}

impl Broken {
    pub(super) fn of(observed: &Observed) -> Self {
        let device = observed.device.as_ref();
        let dead_routes = device.map(dead_routes).unwrap_or_default();
        let Some(dataplane) = observed
            .dataplane
            .as_ref()
            .filter(|dataplane| dataplane.compatible)
        else {
            return Self {
                dead_routes,
                ..Self::default()
            };
        };
        let unbacked = dataplane.subnets.iter().filter(|(subnet, entry)| {
            !device.is_some_and(|d| carries(d, **subnet, entry.vtep.into(), MacAddr::new(entry.vtep_mac)))
        });
        let unknown = dataplane
            .subnets
            .iter()
            .filter(|(_, e)| !dataplane.peers.contains_key(&IpAddr::from(e.vtep)));
        let reached: BTreeSet<_> = device
            .into_iter()
            .flat_map(|device| &device.fdb)
            .filter_map(|entry| entry.destination)
            .collect();
        Self {
            unbacked: unbacked.map(|(subnet, _)| *subnet).collect(),
            unknown_vtep: unknown.map(|(subnet, _)| *subnet).collect(),
            unreached: dataplane
                .peers
                .keys()
                .filter(|vtep| !reached.contains(vtep))
                .copied()
                .collect(),
            dead_routes,
            wrong_headers: wrong_headers(observed),
        }
    }

    /// `staying` are the VTEPs that stay known throughout. They may be without the kernel's entries for a while (a MAC
    /// moves to another VTEP, the device is recreated): receiving from them needs none. A VTEP that becomes known must be
    /// reached already, and one that is forgotten must be forgotten first.
    pub(super) fn is_no_worse_than(
        &self,
        before: &Self,
        action: &Action,
        staying: &BTreeSet<IpAddr>,
    ) -> bool {
        let reached_when_added = match action {
            Action::Dataplane(DataplaneAction::SetPeer { vtep, .. }) => !self.unreached.contains(vtep),
            Action::Dataplane(_) | Action::Kernel(_) | Action::SetConntrack(_) => true,
        };
        let unreached = self
            .unreached
            .iter()
            .all(|vtep| before.unreached.contains(vtep) || staying.contains(vtep));
        self.unbacked.is_subset(&before.unbacked)
            && self.unknown_vtep.is_subset(&before.unknown_vtep)
            && self.dead_routes.is_subset(&before.dead_routes)
            && unreached
            && reached_when_added
            && (!self.wrong_headers || before.wrong_headers)
    }
}

/// Whether the kernel sends packets for `subnet` to `vtep` and nowhere else.
pub(super) fn carries(device: &Device, subnet: IpNet, vtep: IpAddr, mac: MacAddr) -> bool {
    let gateway = subnet.network();
    let route = device
        .routes
        .iter()
        .any(|r| r.destination == subnet && r.gateway == Some(gateway) && r.onlink);
    let neighbour = device
        .neighbours
        .iter()
        .any(|n| n.address == gateway && n.mac == Some(mac) && n.permanent);
    let destinations: Vec<_> = device.fdb.iter().filter(|entry| entry.mac == mac).collect();
    let fdb = matches!(&destinations[..], [entry] if entry.destination == Some(vtep) && entry.permanent);
    device.up && route && neighbour && fdb
}

fn dead_routes(device: &Device) -> BTreeSet<IpNet> {
    let network: IpNet = "10.244.0.0/16".parse().unwrap();
    let ours = device.routes.iter().filter(|route| {
        network.contains(&route.destination)
            && route.onlink
            && route.metric == 0
            && is_own_protocol(route.protocol)
            && route.gateway == Some(route.destination.network())
    });
    let leads_nowhere = |route: &&Route| {
        let neighbour = device
            .neighbours
            .iter()
            .find(|n| Some(n.address) == route.gateway && n.permanent);
        let mac = neighbour.and_then(|neighbour| neighbour.mac);
        !mac.is_some_and(|mac| {
            device
                .fdb
                .iter()
                .any(|entry| entry.mac == mac && entry.destination.is_some())
        })
    };
    ours.filter(leads_nowhere)
        .map(|route| route.destination)
        .collect()
}

fn wrong_headers(observed: &Observed) -> bool {
    let (Some(device), Some(dataplane)) = (&observed.device, &observed.dataplane) else {
        return false;
    };
    let (Some(vxlan), Some(config)) = (&device.vxlan, &dataplane.config) else {
        return false;
    };
    let attached = dataplane
        .attached
        .get(&Hook::VtepEgress)
        .is_some_and(|a| a.ifindex == device.ifindex);
    let [a, b, c] = config.vni;
    let same = u32::from_be_bytes([0, a, b, c]) == vxlan.vni
        && u16::from_be_bytes(config.port) == vxlan.port
        && Some(IpAddr::from(config.vtep)) == vxlan.local
        && Some(config.underlay_ifindex) == vxlan.underlay_ifindex
        && Some(MacAddr::new(config.vtep_mac)) == device.mac;
    attached && config.abi == ABI_VERSION && !dataplane.subnets.is_empty() && !same
}
