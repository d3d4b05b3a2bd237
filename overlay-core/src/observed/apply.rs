//! What an action that worked makes of an observation.

use std::collections::{BTreeMap, BTreeSet};

use super::{Attachment, Device, Observed, ObservedDataplane, VxlanAttributes, entries};
use crate::action::{Action, DataplaneAction, Hook, KernelAction, VxlanDevice};
use crate::net_conf::DEFAULT_PORT;
use crate::ownership::DEVICE_MARK;

/// The interface indices that an action does not tell.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Links {
    /// What a device gets that is created; 0 where only the next observation will tell.
    pub created: u32,
    /// Other links, by name.
    pub others: BTreeMap<String, u32>,
}

impl Observed {
    /// Makes this what a new observation would be, as far as plans are concerned, after `action` has worked.
    ///
    /// What a plan works on is exact. What the kernel does besides (the link-local address of a new device) is not there
    /// before the next observation.
    pub fn apply(&mut self, action: &Action, links: &Links) {
        match action {
            Action::Kernel(action) => self.apply_kernel(action, links),
            Action::Dataplane(action) => self.apply_dataplane(action, links),
            // A fact, no part of what is observed.
            Action::SetConntrack(_) => {}
        }
    }

    fn apply_kernel(&mut self, action: &KernelAction, links: &Links) {
        match action {
            KernelAction::CreateDevice(new) => self.device = Some(created(new, links.created)),
            KernelAction::DeleteDevice { ifindex, .. } => self.delete(*ifindex),
            KernelAction::SetDeviceMtu(_)
            | KernelAction::SetDeviceUp
            | KernelAction::AddAddress(_)
            | KernelAction::RemoveAddress(_)
            | KernelAction::SetNeighbour { .. }
            | KernelAction::RemoveNeighbour { .. }
            | KernelAction::SetFdb { .. }
            | KernelAction::RemoveFdb { .. }
            | KernelAction::SetRoute { .. }
            | KernelAction::RemoveRoute { .. } => {
                if let Some(device) = &mut self.device {
                    device.apply(action);
                }
            }
        }
    }

    fn delete(&mut self, ifindex: u32) {
        self.device = None;
        if let Some(dataplane) = &mut self.dataplane {
            dataplane
                .attached
                .retain(|_, attachment| attachment.ifindex != ifindex);
        }
    }

    fn apply_dataplane(&mut self, action: &DataplaneAction, links: &Links) {
        match action {
            DataplaneAction::Load => return self.load(),
            DataplaneAction::Remove => return self.dataplane = None,
            DataplaneAction::Attach { hook, device } => return self.attach(*hook, device, links),
            DataplaneAction::ForgetFlows
            | DataplaneAction::SetConfig(_)
            | DataplaneAction::SetPeer { .. }
            | DataplaneAction::RemovePeer(_)
            | DataplaneAction::SetSubnet { .. }
            | DataplaneAction::RemoveSubnet(_) => {}
        }
        if let Some(dataplane) = &mut self.dataplane {
            dataplane.apply(action);
        }
    }

    fn load(&mut self) {
        match &mut self.dataplane {
            Some(dataplane) if dataplane.compatible => dataplane.missing.clear(),
            other => {
                *other = Some(ObservedDataplane {
                    compatible: true,
                    ..ObservedDataplane::default()
                });
            }
        }
    }

    fn attach(&mut self, hook: Hook, device: &str, links: &Links) {
        let ifindex = match hook {
            Hook::VtepEgress | Hook::VtepIngress => self.device.as_ref().map(|device| device.ifindex),
            Hook::UnderlayIngress => links.others.get(device).copied(),
        };
        if let (Some(ifindex), Some(dataplane)) = (ifindex, &mut self.dataplane) {
            let current = Attachment {
                ifindex,
                current: true,
            };
            dataplane.attached.insert(hook, current);
        }
    }
}

impl Device {
    /// What concerns the link as a whole is not its own to do.
    fn apply(&mut self, action: &KernelAction) {
        match action {
            KernelAction::CreateDevice(_) | KernelAction::DeleteDevice { .. } => {}
            KernelAction::SetDeviceMtu(mtu) => self.mtu = *mtu,
            KernelAction::SetDeviceUp => self.up = true,
            KernelAction::AddAddress(address) => drop(self.addresses.insert(*address)),
            KernelAction::RemoveAddress(address) => drop(self.addresses.remove(address)),
            KernelAction::SetNeighbour { address, mac } => entries::set_neighbour(self, *address, *mac),
            KernelAction::RemoveNeighbour { address } => entries::remove_neighbour(self, *address),
            KernelAction::SetFdb { mac, destination } => entries::set_fdb(self, *mac, *destination),
            KernelAction::RemoveFdb { mac, destination } => entries::remove_fdb(self, *mac, *destination),
            KernelAction::SetRoute { destination, gateway } => {
                entries::set_route(self, *destination, *gateway);
            }
            KernelAction::RemoveRoute { destination, gateway } => {
                entries::remove_route(self, *destination, *gateway);
            }
        }
    }
}

impl ObservedDataplane {
    /// What concerns the programs is not the maps' to do.
    fn apply(&mut self, action: &DataplaneAction) {
        match action {
            DataplaneAction::SetConfig(config) => self.config = Some(**config),
            DataplaneAction::SetPeer { vtep, subnet } => drop(self.peers.insert(*vtep, *subnet)),
            DataplaneAction::RemovePeer(vtep) => drop(self.peers.remove(vtep)),
            DataplaneAction::SetSubnet { subnet, entry } => drop(self.subnets.insert(*subnet, *entry)),
            DataplaneAction::RemoveSubnet(subnet) => drop(self.subnets.remove(subnet)),
            // Flows are not observed.
            DataplaneAction::ForgetFlows
            | DataplaneAction::Load
            | DataplaneAction::Remove
            | DataplaneAction::Attach { .. } => {}
        }
    }
}

fn created(new: &VxlanDevice, ifindex: u32) -> Device {
    Device {
        ifindex,
        up: false,
        mtu: new.mtu,
        mac: Some(new.mac),
        alias: Some(DEVICE_MARK.to_owned()),
        vxlan: Some(VxlanAttributes {
            vni: new.vni,
            port: new.port.unwrap_or(DEFAULT_PORT),
            local: Some(new.local),
            underlay_ifindex: Some(new.underlay_ifindex),
            learning: new.learning,
            gbp: new.gbp,
            collect_metadata: false,
            group: None,
            l2miss: false,
        }),
        addresses: BTreeSet::new(),
        routes: BTreeSet::new(),
        neighbours: BTreeSet::new(),
        fdb: BTreeSet::new(),
    }
}
