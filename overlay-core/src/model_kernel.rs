//! A kernel as far as plans are concerned: carries out actions on an [`Observed`] state, and refuses what the kernel
//! refuses. For tests only; `tests/` checks against a real kernel what this one is taught here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::action::{Action, Hook, VxlanDevice};
use crate::model::MacAddr;
use crate::net_conf::DEFAULT_PORT;
use crate::observed::{
    Attachment, Device, FdbEntry, Neighbour, Observed, ObservedDataplane, Route, VxlanAttributes,
};
use crate::ownership::{DEVICE_MARK, ROUTE_PROTOCOL};

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
            Action::CreateDevice(device) => self.create(device),
            Action::DeleteDevice { ifindex, .. } => self.delete(*ifindex),
            Action::LoadDataplane => {
                self.load();
                Ok(())
            }
            Action::RemoveDataplane => {
                self.observed.dataplane = None;
                Ok(())
            }
            Action::Attach { hook, device } => self.attach(*hook, device),
            Action::SetConfig(_)
            | Action::AddPeer(_)
            | Action::RemovePeer(_)
            | Action::SetSubnet { .. }
            | Action::RemoveSubnet(_) => {
                match self.observed.dataplane.as_mut().filter(|maps| maps.compatible) {
                    None => Err("no maps".into()),
                    Some(maps) => {
                        write_map(maps, action);
                        Ok(())
                    }
                }
            }
            Action::SetDeviceMtu(_)
            | Action::SetDeviceUp
            | Action::AddAddress(_)
            | Action::RemoveAddress(_)
            | Action::SetNeighbour { .. }
            | Action::RemoveNeighbour { .. }
            | Action::SetFdb { .. }
            | Action::RemoveFdb { .. }
            | Action::SetRoute { .. }
            | Action::RemoveRoute { .. } => match self.observed.device.as_mut() {
                None => Err("no device".into()),
                Some(device) => change_device(device, action),
            },
        }
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
            Some(dataplane) if dataplane.compatible => {}
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
            Hook::VtepEgress => self.observed.device.as_ref().map(|device| device.ifindex),
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

fn write_map(maps: &mut ObservedDataplane, action: &Action) {
    match action {
        Action::SetConfig(config) => maps.config = Some(**config),
        Action::AddPeer(vtep) => drop(maps.peers.insert(*vtep)),
        Action::RemovePeer(vtep) => drop(maps.peers.remove(vtep)),
        Action::SetSubnet { subnet, entry } => drop(maps.subnets.insert(*subnet, *entry)),
        Action::RemoveSubnet(subnet) => drop(maps.subnets.remove(subnet)),
        other => unreachable!("{other} writes no map"),
    }
}

fn change_device(device: &mut Device, action: &Action) -> Result<(), String> {
    match action {
        Action::SetDeviceMtu(mtu) => device.mtu = *mtu,
        Action::SetDeviceUp => device.up = true,
        Action::AddAddress(address) => drop(device.addresses.insert(*address)),
        Action::RemoveAddress(address) => drop(device.addresses.remove(address)),
        Action::SetNeighbour { address, mac } => {
            take_neighbour(device, *address);
            device.neighbours.insert(Neighbour {
                address: *address,
                mac: Some(*mac),
                permanent: true,
            });
        }
        Action::RemoveNeighbour { address } => take_neighbour(device, *address),
        Action::SetFdb { mac, destination } => set_fdb(device, *mac, *destination),
        Action::RemoveFdb { mac, destination } => {
            for permanent in [false, true] {
                device.fdb.remove(&FdbEntry {
                    permanent,
                    ..fdb_entry(*mac, *destination)
                });
            }
        }
        Action::SetRoute { destination, gateway } => {
            if !device.up {
                return Err("ENETDOWN".into());
            }
            // `NLM_F_REPLACE`: destination and metric are the key.
            for route in routes_to(device, *destination) {
                if route.metric == 0 {
                    device.routes.remove(&route);
                }
            }
            device.routes.insert(flannel_route(*destination, *gateway));
        }
        Action::RemoveRoute { destination, gateway } => {
            device.routes.remove(&flannel_route(*destination, *gateway));
        }
        other => unreachable!("{other} is not about the device"),
    }
    Ok(())
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

fn take_neighbour(device: &mut Device, address: IpAddr) {
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
fn set_fdb(device: &mut Device, mac: MacAddr, destination: IpAddr) {
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
