//! A kernel made of the actions it was told to carry out, for the tests of the loop.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use overlay_common::maps::SubnetEntry;
use overlay_core::action::{Action, DataplaneAction, KernelAction, Step, VxlanDevice};
use overlay_core::model::{ConntrackParameter, MacAddr, NodeFacts, Underlay};
use overlay_core::observed::{
    Attachment, Device, FdbEntry, Neighbour, Observed, ObservedDataplane, Route, VxlanAttributes,
};
use overlay_core::ownership::DEVICE_MARK;

use super::kernel::Kernel;

const UNDERLAY_IFINDEX: u32 = 2;
const DEVICE_IFINDEX: u32 = 100;

/// A step with a reason.
pub(crate) fn step(action: impl Into<Action>) -> Step {
    Step {
        action: action.into(),
        why: "missing".into(),
    }
}

/// The five steps that make node `n` a peer.
pub(crate) fn peer_steps(n: u8) -> Vec<Step> {
    let mac = [2, 0, 0, 0, 0, n];
    let vtep = [192, 168, 0, n].into();
    let overlay = [10, 244, n, 0].into();
    let subnet: IpNet = format!("10.244.{n}.0/24").parse().unwrap();
    let fdb = KernelAction::SetFdb {
        mac: MacAddr::new(mac),
        destination: vtep,
    };
    let neighbour = KernelAction::SetNeighbour {
        address: overlay,
        mac: MacAddr::new(mac),
    };
    let route = KernelAction::SetRoute {
        destination: subnet,
        gateway: overlay,
    };
    let entry = DataplaneAction::SetSubnet {
        subnet,
        entry: SubnetEntry::new(vtep.into(), mac),
    };
    vec![
        step(fdb),
        step(neighbour),
        step(route),
        step(DataplaneAction::SetPeer { vtep, subnet }),
        step(entry),
    ]
}

/// Shared with the test, which looks and meddles while the loop runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeKernel(Rc<RefCell<State>>);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) observed: Observed,
    pub(crate) underlay_missing: bool,
    pub(crate) underlay_mtu: u32,
    /// What is set.
    pub(crate) conntrack: BTreeSet<ConntrackParameter>,
    /// How often all flows were forgotten.
    pub(crate) forgotten: usize,
    pub(crate) done: Vec<Action>,
    pub(crate) observations: usize,
    refused: Vec<Action>,
    attempts: usize,
}

impl FakeKernel {
    /// With a device and maps, and no peer.
    pub(crate) fn prepared() -> Self {
        let fake = Self::default();
        fake.with(|state| {
            state.observed.device = Some(Device {
                ifindex: DEVICE_IFINDEX,
                up: true,
                mtu: 1450,
                mac: None,
                alias: None,
                vxlan: None,
                addresses: BTreeSet::new(),
                routes: BTreeSet::new(),
                neighbours: BTreeSet::new(),
                fdb: BTreeSet::new(),
            });
            state.observed.dataplane = Some(ObservedDataplane {
                compatible: true,
                ..ObservedDataplane::default()
            });
        });
        fake
    }

    pub(crate) fn observed(&self) -> Observed {
        self.0.borrow().observed.clone()
    }

    pub(crate) fn refuse(&self, action: impl Into<Action>) {
        self.0.borrow_mut().refused.push(action.into());
    }

    pub(crate) fn allow_all(&self) {
        self.0.borrow_mut().refused.clear();
    }

    pub(crate) fn attempts(&self) -> usize {
        self.0.borrow().attempts
    }

    pub(crate) fn with<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(&mut self.0.borrow_mut())
    }
}

impl Kernel for FakeKernel {
    async fn facts(&mut self) -> Result<NodeFacts> {
        let state = self.0.borrow();
        if state.underlay_missing {
            bail!("no default route");
        }
        Ok(NodeFacts {
            underlay: Underlay {
                name: "eth0".into(),
                ifindex: UNDERLAY_IFINDEX,
                mtu: if state.underlay_mtu == 0 {
                    1500
                } else {
                    state.underlay_mtu
                },
                address: [192, 168, 0, 1].into(),
            },
            underlay_is_ethernet: true,
            smallest_route_mtu: None,
            local_port_range: (32768, 60999),
            default_ttl: 64,
            fib_flags: 0,
            port_shared: false,
            underlay_prefixes: vec!["192.168.0.1/24".parse()?],
            possible_cpus: 2,
            realtime: false,
            conntrack: ConntrackParameter::ALL
                .map(|parameter| (parameter, u32::from(state.conntrack.contains(&parameter))))
                .into(),
        })
    }

    async fn observe(&mut self) -> Result<Observed> {
        let mut state = self.0.borrow_mut();
        state.observations += 1;
        Ok(state.observed.clone())
    }

    async fn execute(&mut self, actions: &[&Action]) -> Vec<Result<()>> {
        let mut state = self.0.borrow_mut();
        actions.iter().map(|action| state.execute(action)).collect()
    }

    fn dataplane_name(&self) -> String {
        "fake".to_owned()
    }
}

impl State {
    fn execute(&mut self, action: &Action) -> Result<()> {
        self.attempts += 1;
        if self.refused.contains(action) {
            bail!("refused by the test");
        }
        match action {
            Action::Kernel(action) => self.apply_kernel(action)?,
            Action::Dataplane(action) => self.apply_dataplane(action)?,
            Action::SetConntrack(parameter) => drop(self.conntrack.insert(*parameter)),
        }
        self.done.push(action.clone());
        Ok(())
    }

    fn apply_kernel(&mut self, action: &KernelAction) -> Result<()> {
        match action {
            KernelAction::CreateDevice(new) => self.observed.device = Some(created(new)),
            KernelAction::DeleteDevice { .. } => self.observed.device = None,
            KernelAction::SetDeviceMtu(mtu) => self.device()?.mtu = *mtu,
            KernelAction::SetDeviceUp => self.device()?.up = true,
            KernelAction::AddAddress(address) => drop(self.device()?.addresses.insert(*address)),
            KernelAction::RemoveAddress(address) => drop(self.device()?.addresses.remove(address)),
            KernelAction::SetNeighbour { address, mac } => {
                let device = self.device()?;
                device.neighbours.retain(|n| n.address != *address);
                device.neighbours.insert(Neighbour {
                    address: *address,
                    mac: Some(*mac),
                    permanent: true,
                });
            }
            KernelAction::RemoveNeighbour { address } => {
                self.device()?.neighbours.retain(|n| n.address != *address);
            }
            KernelAction::SetFdb { mac, destination } => {
                let device = self.device()?;
                device.fdb.retain(|e| e.mac != *mac);
                device.fdb.insert(FdbEntry {
                    mac: *mac,
                    destination: Some(*destination),
                    permanent: true,
                    plain: true,
                });
            }
            KernelAction::RemoveFdb { mac, destination } => {
                let is_other = |e: &FdbEntry| e.mac != *mac || e.destination != Some(*destination);
                self.device()?.fdb.retain(is_other);
            }
            KernelAction::SetRoute { destination, gateway } => {
                self.device()?.routes.insert(Route {
                    destination: *destination,
                    gateway: Some(*gateway),
                    onlink: true,
                    protocol: 3,
                    metric: 0,
                    plain: true,
                });
            }
            KernelAction::RemoveRoute { destination, gateway } => {
                let is_other = |r: &Route| r.destination != *destination || r.gateway != Some(*gateway);
                self.device()?.routes.retain(is_other);
            }
        }
        Ok(())
    }

    fn apply_dataplane(&mut self, action: &DataplaneAction) -> Result<()> {
        match action {
            DataplaneAction::Load => {
                self.observed.dataplane = Some(ObservedDataplane {
                    compatible: true,
                    ..ObservedDataplane::default()
                });
            }
            DataplaneAction::Remove => self.observed.dataplane = None,
            DataplaneAction::Attach { hook, device } => {
                let ifindex = if device == "eth0" {
                    UNDERLAY_IFINDEX
                } else {
                    DEVICE_IFINDEX
                };
                let attachment = Attachment {
                    ifindex,
                    current: true,
                };
                self.dataplane()?.attached.insert(*hook, attachment);
            }
            DataplaneAction::ForgetFlows => self.forgotten += 1,
            DataplaneAction::SetConfig(config) => self.dataplane()?.config = Some(**config),
            DataplaneAction::SetPeer { vtep, subnet } => drop(self.dataplane()?.peers.insert(*vtep, *subnet)),
            DataplaneAction::RemovePeer(vtep) => drop(self.dataplane()?.peers.remove(vtep)),
            DataplaneAction::SetSubnet { subnet, entry } => {
                self.dataplane()?.subnets.insert(*subnet, *entry);
            }
            DataplaneAction::RemoveSubnet(subnet) => drop(self.dataplane()?.subnets.remove(subnet)),
        }
        Ok(())
    }

    fn device(&mut self) -> Result<&mut Device> {
        self.observed.device.as_mut().context("no device")
    }

    fn dataplane(&mut self) -> Result<&mut ObservedDataplane> {
        self.observed.dataplane.as_mut().context("nothing is pinned")
    }
}

fn created(new: &VxlanDevice) -> Device {
    Device {
        ifindex: DEVICE_IFINDEX,
        up: false,
        mtu: new.mtu,
        mac: Some(new.mac),
        alias: Some(DEVICE_MARK.to_owned()),
        vxlan: Some(VxlanAttributes {
            vni: new.vni,
            port: new.port.unwrap_or(8472),
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
