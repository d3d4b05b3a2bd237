//! A kernel as far as plans are concerned: carries out actions on an [`Observed`] state, and refuses what the kernel
//! refuses. For tests only; `tests/` checks against a real kernel what this one is taught here.

mod entries;

use std::collections::{BTreeMap, BTreeSet};

use crate::action::{Action, DataplaneAction, Hook, KernelAction, VxlanDevice};
use crate::net_conf::DEFAULT_PORT;
use crate::observed::{Attachment, Device, Observed, ObservedDataplane, VxlanAttributes};
use crate::ownership::DEVICE_MARK;

/// The modelled kernel.
#[derive(Clone, PartialEq, Debug)]
pub struct ModelKernel {
    /// What an observer would see.
    pub observed: Observed,
    /// Interface indices of the other links, by name.
    pub links: BTreeMap<String, u32>,
    /// The next device's interface index.
    pub next_ifindex: u32,
}

impl ModelKernel {
    /// A kernel that holds `observed` and one other link.
    #[must_use]
    pub fn new(observed: Observed, underlay: &str, underlay_ifindex: u32) -> Self {
        let highest = observed
            .device
            .as_ref()
            .map_or(0, |device| device.ifindex)
            .max(underlay_ifindex);
        let links = BTreeMap::from([(underlay.to_owned(), underlay_ifindex)]);
        Self {
            observed,
            links,
            next_ifindex: highest + 1,
        }
    }

    /// Carries out one action.
    ///
    /// # Errors
    ///
    /// Where a real kernel would refuse: what is missing or in the way.
    pub fn apply(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Kernel(action) => self.apply_kernel(action),
            Action::Dataplane(action) => self.apply_dataplane(action),
            // A fact, no part of what is observed.
            Action::SetConntrack(_) => Ok(()),
        }
    }

    fn apply_kernel(&mut self, action: &KernelAction) -> Result<(), String> {
        match action {
            KernelAction::CreateDevice(device) => return self.create(device),
            KernelAction::DeleteDevice { ifindex, .. } => return self.delete(*ifindex),
            KernelAction::SetDeviceMtu(mtu) => self.device()?.mtu = *mtu,
            KernelAction::SetDeviceUp => self.device()?.up = true,
            KernelAction::AddAddress(address) => drop(self.device()?.addresses.insert(*address)),
            KernelAction::RemoveAddress(address) => drop(self.device()?.addresses.remove(address)),
            KernelAction::SetNeighbour { address, mac } => {
                entries::set_neighbour(self.device()?, *address, *mac);
            }
            KernelAction::RemoveNeighbour { address } => entries::remove_neighbour(self.device()?, *address),
            KernelAction::SetFdb { mac, destination } => entries::set_fdb(self.device()?, *mac, *destination),
            KernelAction::RemoveFdb { mac, destination } => {
                entries::remove_fdb(self.device()?, *mac, *destination);
            }
            KernelAction::SetRoute { destination, gateway } => {
                return entries::set_route(self.device()?, *destination, *gateway);
            }
            KernelAction::RemoveRoute { destination, gateway } => {
                entries::remove_route(self.device()?, *destination, *gateway);
            }
        }
        Ok(())
    }

    fn apply_dataplane(&mut self, action: &DataplaneAction) -> Result<(), String> {
        match action {
            DataplaneAction::Load => self.load(),
            DataplaneAction::Remove => self.observed.dataplane = None,
            DataplaneAction::Attach { hook, device } => return self.attach(*hook, device),
            DataplaneAction::ForgetFlows => return self.maps().map(|_| ()),
            DataplaneAction::SetConfig(config) => self.maps()?.config = Some(**config),
            DataplaneAction::SetPeer { vtep, subnet } => drop(self.maps()?.peers.insert(*vtep, *subnet)),
            DataplaneAction::RemovePeer(vtep) => drop(self.maps()?.peers.remove(vtep)),
            DataplaneAction::SetSubnet { subnet, entry } => {
                self.maps()?.subnets.insert(*subnet, *entry);
            }
            DataplaneAction::RemoveSubnet(subnet) => drop(self.maps()?.subnets.remove(subnet)),
        }
        Ok(())
    }

    fn device(&mut self) -> Result<&mut Device, String> {
        self.observed.device.as_mut().ok_or_else(|| "no device".into())
    }

    fn maps(&mut self) -> Result<&mut ObservedDataplane, String> {
        let maps = self.observed.dataplane.as_mut().filter(|maps| maps.compatible);
        maps.ok_or_else(|| "no maps".into())
    }

    /// What `ip link set down` does: routes and permanent neighbours are lost, the forwarding database is not.
    pub fn set_down(&mut self) {
        if let Some(device) = &mut self.observed.device {
            device.up = false;
            device.routes.clear();
            device.neighbours.clear();
        }
    }

    fn create(&mut self, wanted: &VxlanDevice) -> Result<(), String> {
        if self.observed.device.is_some() {
            return Err("EEXIST".into());
        }
        let ifindex = self.next_ifindex;
        self.next_ifindex += 1;
        self.observed.device = Some(Device {
            ifindex,
            up: false,
            mtu: wanted.mtu,
            mac: Some(wanted.mac),
            alias: Some(DEVICE_MARK.to_owned()),
            vxlan: Some(VxlanAttributes {
                vni: wanted.vni,
                port: wanted.port.unwrap_or(DEFAULT_PORT),
                local: Some(wanted.local),
                underlay_ifindex: Some(wanted.underlay_ifindex),
                learning: wanted.learning,
                gbp: wanted.gbp,
                collect_metadata: false,
                group: None,
                l2miss: false,
            }),
            addresses: BTreeSet::new(),
            routes: BTreeSet::new(),
            neighbours: BTreeSet::new(),
            fdb: BTreeSet::new(),
        });
        Ok(())
    }

    fn delete(&mut self, ifindex: u32) -> Result<(), String> {
        match &self.observed.device {
            Some(device) if device.ifindex != ifindex => return Err("another device has the name".into()),
            Some(_) | None => self.observed.device = None,
        }
        if let Some(dataplane) = &mut self.observed.dataplane {
            dataplane
                .attached
                .retain(|_, attachment| attachment.ifindex != ifindex);
        }
        Ok(())
    }

    fn load(&mut self) {
        match &mut self.observed.dataplane {
            Some(dataplane) if dataplane.compatible => dataplane.missing.clear(),
            other => {
                *other = Some(ObservedDataplane {
                    compatible: true,
                    ..ObservedDataplane::default()
                });
            }
        }
    }

    fn attach(&mut self, hook: Hook, device: &str) -> Result<(), String> {
        let ifindex = match hook {
            Hook::VtepEgress | Hook::VtepIngress => {
                self.observed.device.as_ref().map(|device| device.ifindex)
            }
            Hook::UnderlayIngress => self.links.get(device).copied(),
        };
        let dataplane = self
            .observed
            .dataplane
            .as_mut()
            .filter(|dataplane| dataplane.compatible);
        let (Some(ifindex), Some(dataplane)) = (ifindex, dataplane) else {
            return Err("no such device, or no program".into());
        };
        dataplane.attached.insert(
            hook,
            Attachment {
                ifindex,
                current: true,
            },
        );
        Ok(())
    }
}
