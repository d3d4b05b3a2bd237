//! One failed action must not delay other peers, and must not break the order's promise for its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use overlay_common::maps::SubnetEntry;

use crate::action::{Action, Hook};
use crate::model::MacAddr;
use crate::observed::Observed;

/// What failed so far in one run of a plan, and so what must be left for the next plan.
///
/// Without it a failed route would still be followed by the `SUBNETS` entry that relies on it.
#[derive(Debug, Default)]
pub struct Failures {
    before: Before,
    /// `SUBNETS` entries that should have gone, and what they lead to.
    kept_subnets: BTreeSet<IpNet>,
    kept_gateways: BTreeSet<IpAddr>,
    kept_macs: BTreeSet<MacAddr>,
    kept_vteps: BTreeSet<IpAddr>,
    /// MACs that keep a stale destination beside the right one: the kernel sends to both.
    forked_macs: BTreeSet<MacAddr>,
    delete_device: bool,
    device: bool,
    up: bool,
    load: bool,
    remove_dataplane: bool,
    config: bool,
    fdb: BTreeSet<MacAddr>,
    neighbours: BTreeSet<IpAddr>,
    routes: BTreeSet<IpNet>,
    peers: BTreeSet<IpAddr>,
}

/// What was there before the plan: where it fails, this stays.
#[derive(Debug, Default)]
struct Before {
    /// The programs that use these maps work even where ours do not load.
    maps_usable: bool,
    subnets: BTreeMap<IpNet, SubnetEntry>,
}

impl Failures {
    /// None yet, for a plan that was made from `observed`.
    #[must_use]
    pub fn none(observed: &Observed) -> Self {
        let maps = observed
            .dataplane
            .as_ref()
            .filter(|dataplane| dataplane.compatible);
        let before = Before {
            maps_usable: maps.is_some(),
            subnets: maps.map(|maps| maps.subnets.clone()).unwrap_or_default(),
        };
        Self {
            before,
            ..Self::default()
        }
    }

    /// Notes an action that failed, or that was left out because [`Failures::blocks`] said so.
    pub fn record(&mut self, action: &Action) {
        match action {
            Action::RemoveSubnet(subnet) => {
                self.kept_subnets.insert(*subnet);
                self.kept_gateways.insert(subnet.network());
                if let Some(entry) = self.before.subnets.get(subnet) {
                    self.kept_macs.insert(MacAddr::new(entry.vtep_mac));
                    self.kept_vteps.insert(entry.vtep.into());
                }
            }
            Action::DeleteDevice { .. } => self.delete_device = true,
            Action::CreateDevice(_) => self.device = true,
            Action::SetDeviceUp => self.up = true,
            Action::LoadDataplane => self.load = true,
            Action::RemoveDataplane => self.remove_dataplane = true,
            Action::SetConfig(_) => self.config = true,
            Action::SetFdb { mac, destination } => {
                self.fdb.insert(*mac);
                self.peers.insert(*destination);
            }
            Action::RemoveFdb { mac, .. } => {
                self.forked_macs.insert(*mac);
            }
            Action::SetNeighbour { address, .. } => {
                self.neighbours.insert(*address);
            }
            Action::SetRoute { destination, .. } => {
                self.routes.insert(*destination);
            }
            Action::AddPeer(vtep) => {
                self.peers.insert(*vtep);
            }
            // Nothing relies on these.
            Action::SetDeviceMtu(_)
            | Action::AddAddress(_)
            | Action::RemoveAddress(_)
            | Action::RemoveNeighbour { .. }
            | Action::RemoveRoute { .. }
            | Action::Attach { .. }
            | Action::RemovePeer(_)
            | Action::SetSubnet { .. } => {}
        }
    }

    /// Whether an action relies on one that failed. It is then left out, and recorded like a failure.
    ///
    /// A dataplane that could not be removed blocks no change of the kernel's peers: its entries are stale whatever the
    /// kernel holds, and the kernel is the part that must always work.
    #[must_use]
    pub fn blocks(&self, action: &Action) -> bool {
        match action {
            Action::RemoveSubnet(_) | Action::RemoveDataplane => false,
            Action::RemovePeer(vtep) => self.kept_vteps.contains(vtep),
            Action::DeleteDevice { .. } => !self.kept_subnets.is_empty(),
            Action::CreateDevice(_) => self.delete_device,
            Action::SetDeviceMtu(_)
            | Action::SetDeviceUp
            | Action::AddAddress(_)
            | Action::RemoveAddress(_) => self.no_device(),
            Action::SetFdb { mac, .. } => self.no_device() || self.kept_macs.contains(mac),
            Action::SetNeighbour { address, mac } => {
                self.no_device() || self.fdb.contains(mac) || self.kept_gateways.contains(address)
            }
            Action::SetRoute { gateway, .. } => {
                self.no_device() || self.up || self.neighbours.contains(gateway)
            }
            Action::RemoveRoute { destination, .. } => {
                self.no_device() || self.kept_subnets.contains(destination)
            }
            Action::RemoveFdb { mac, .. } => {
                self.no_device() || self.fdb.contains(mac) || self.kept_macs.contains(mac)
            }
            Action::RemoveNeighbour { address } => self.no_device() || self.kept_gateways.contains(address),
            Action::LoadDataplane => self.remove_dataplane,
            Action::Attach {
                hook: Hook::UnderlayIngress,
                ..
            } => self.load || self.remove_dataplane,
            // The old configuration is not the new device's.
            Action::Attach {
                hook: Hook::VtepEgress,
                ..
            } => self.load || self.remove_dataplane || self.no_device() || self.config,
            Action::SetConfig(_) => self.no_maps() || self.no_device(),
            Action::AddPeer(vtep) => self.no_maps() || self.no_device() || self.peers.contains(vtep),
            Action::SetSubnet { subnet, entry } => {
                let mac = MacAddr::new(entry.vtep_mac);
                self.no_maps()
                    || self.no_device()
                    || self.up
                    || self.config
                    || self.routes.contains(subnet)
                    || self.neighbours.contains(&subnet.network())
                    || self.fdb.contains(&mac)
                    || self.forked_macs.contains(&mac)
                    || self.peers.contains(&IpAddr::from(entry.vtep))
            }
        }
    }

    /// The device that the plan is about is not there.
    fn no_device(&self) -> bool {
        self.delete_device || self.device
    }

    /// There is nothing to write entries to.
    fn no_maps(&self) -> bool {
        self.remove_dataplane || (self.load && !self.before.maps_usable)
    }
}

#[cfg(test)]
mod tests {
    use overlay_common::addr::Addr;

    use super::*;

    const MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 2]);
    const OTHER: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 3]);

    fn vtep(last: u8) -> IpAddr {
        IpAddr::from([192, 168, 0, last])
    }

    #[test]
    fn a_peer_without_a_forwarding_entry_gets_nothing_that_relies_on_it() {
        let mut failures = Failures::none(&Observed::default());
        failures.record(&Action::SetFdb {
            mac: MAC,
            destination: vtep(2),
        });
        let neighbour = |mac| Action::SetNeighbour {
            address: IpAddr::from([10, 244, 2, 0]),
            mac,
        };
        let subnet = |mac: MacAddr, last| Action::SetSubnet {
            subnet: "10.244.2.0/24".parse().unwrap(),
            entry: SubnetEntry::new(Addr::from(vtep(last)), mac.octets()),
        };
        assert!(failures.blocks(&neighbour(MAC)));
        assert!(failures.blocks(&Action::AddPeer(vtep(2))));
        assert!(failures.blocks(&subnet(MAC, 2)));
        assert!(!failures.blocks(&neighbour(OTHER)));
        assert!(!failures.blocks(&Action::AddPeer(vtep(3))));
        assert!(!failures.blocks(&subnet(OTHER, 3)));
    }

    #[test]
    fn without_a_device_only_the_fast_path_shrinks() {
        let mut failures = Failures::none(&Observed::default());
        failures.record(&Action::DeleteDevice {
            name: "flannel.1".into(),
            ifindex: 3,
        });
        let route = Action::SetRoute {
            destination: "10.244.2.0/24".parse().unwrap(),
            gateway: IpAddr::from([10, 244, 2, 0]),
        };
        for action in [Action::SetDeviceUp, route, Action::AddPeer(vtep(2))] {
            assert!(failures.blocks(&action), "{action}");
        }
        assert!(!failures.blocks(&Action::RemoveSubnet("10.244.2.0/24".parse().unwrap())));
        assert!(!failures.blocks(&Action::RemovePeer(vtep(2))));
        assert!(!failures.blocks(&Action::LoadDataplane));
    }
}
