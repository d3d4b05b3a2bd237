//! One failed action must not delay other peers, and must not break the order's promise for its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use overlay_common::maps::SubnetEntry;

use crate::action::{Action, DataplaneAction, Hook, KernelAction};
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
            Action::Kernel(action) => self.record_kernel(action),
            Action::Dataplane(action) => self.record_dataplane(action),
            // The executor keeps the fast path out of the configuration then; nothing else relies on it.
            Action::SetConntrack(_) => {}
        }
    }

    fn record_kernel(&mut self, action: &KernelAction) {
        match action {
            KernelAction::DeleteDevice { .. } => self.delete_device = true,
            KernelAction::CreateDevice(_) => self.device = true,
            KernelAction::SetDeviceUp => self.up = true,
            KernelAction::SetFdb { mac, destination } => {
                self.fdb.insert(*mac);
                self.peers.insert(*destination);
            }
            KernelAction::RemoveFdb { mac, .. } => {
                self.forked_macs.insert(*mac);
            }
            KernelAction::SetNeighbour { address, .. } => {
                self.neighbours.insert(*address);
            }
            KernelAction::SetRoute { destination, .. } => {
                self.routes.insert(*destination);
            }
            // Nothing relies on these.
            KernelAction::SetDeviceMtu(_)
            | KernelAction::AddAddress(_)
            | KernelAction::RemoveAddress(_)
            | KernelAction::RemoveNeighbour { .. }
            | KernelAction::RemoveRoute { .. } => {}
        }
    }

    fn record_dataplane(&mut self, action: &DataplaneAction) {
        match action {
            DataplaneAction::RemoveSubnet(subnet) => {
                self.kept_subnets.insert(*subnet);
                self.kept_gateways.insert(subnet.network());
                if let Some(entry) = self.before.subnets.get(subnet) {
                    self.kept_macs.insert(MacAddr::new(entry.vtep_mac));
                    self.kept_vteps.insert(entry.vtep.into());
                }
            }
            DataplaneAction::Load => self.load = true,
            DataplaneAction::Remove => self.remove_dataplane = true,
            DataplaneAction::SetConfig(_) => self.config = true,
            DataplaneAction::SetPeer { vtep, .. } => {
                self.peers.insert(*vtep);
            }
            // Nothing relies on these. (Flows that could not be forgotten end by themselves when they are not proved
            // anew, which the kernel's changes must not wait for.)
            DataplaneAction::Attach { .. }
            | DataplaneAction::ForgetFlows
            | DataplaneAction::RemovePeer(_)
            | DataplaneAction::SetSubnet { .. } => {}
        }
    }

    /// Whether an action relies on one that failed. It is then left out, and recorded like a failure.
    ///
    /// A dataplane that could not be removed blocks no change of the kernel's peers: its entries are stale whatever the
    /// kernel holds, and the kernel is the part that must always work.
    #[must_use]
    pub fn blocks(&self, action: &Action) -> bool {
        match action {
            Action::Kernel(action) => self.blocks_kernel(action),
            Action::Dataplane(action) => self.blocks_dataplane(action),
            Action::SetConntrack(_) => false,
        }
    }

    fn blocks_kernel(&self, action: &KernelAction) -> bool {
        match action {
            KernelAction::DeleteDevice { .. } => !self.kept_subnets.is_empty(),
            KernelAction::CreateDevice(_) => self.delete_device,
            KernelAction::SetDeviceMtu(_)
            | KernelAction::SetDeviceUp
            | KernelAction::AddAddress(_)
            | KernelAction::RemoveAddress(_) => self.no_device(),
            KernelAction::SetFdb { mac, .. } => self.no_device() || self.kept_macs.contains(mac),
            KernelAction::SetNeighbour { address, mac } => {
                self.no_device() || self.fdb.contains(mac) || self.kept_gateways.contains(address)
            }
            KernelAction::SetRoute { gateway, .. } => {
                self.no_device() || self.up || self.neighbours.contains(gateway)
            }
            KernelAction::RemoveRoute { destination, .. } => {
                self.no_device() || self.kept_subnets.contains(destination)
            }
            KernelAction::RemoveFdb { mac, .. } => {
                self.no_device() || self.fdb.contains(mac) || self.kept_macs.contains(mac)
            }
            KernelAction::RemoveNeighbour { address } => {
                self.no_device() || self.kept_gateways.contains(address)
            }
        }
    }

    fn blocks_dataplane(&self, action: &DataplaneAction) -> bool {
        match action {
            DataplaneAction::RemoveSubnet(_) | DataplaneAction::Remove => false,
            DataplaneAction::RemovePeer(vtep) => self.kept_vteps.contains(vtep),
            DataplaneAction::Load => self.remove_dataplane,
            DataplaneAction::Attach {
                hook: Hook::UnderlayIngress,
                ..
            } => self.load || self.remove_dataplane,
            // The old configuration is not the new device's.
            DataplaneAction::Attach {
                hook: Hook::VtepEgress | Hook::VtepIngress,
                ..
            } => self.load || self.remove_dataplane || self.no_device() || self.config,
            DataplaneAction::ForgetFlows => self.no_maps(),
            DataplaneAction::SetConfig(_) => self.no_maps() || self.no_device(),
            DataplaneAction::SetPeer { vtep, .. } => {
                self.no_maps() || self.no_device() || self.peers.contains(vtep)
            }
            DataplaneAction::SetSubnet { subnet, entry } => {
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
mod tests;
