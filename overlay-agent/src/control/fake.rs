//! A kernel made of the actions it was told to carry out, for the tests of the loop.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use anyhow::{Result, anyhow, bail};
use ipnet::IpNet;
use overlay_common::maps::SubnetEntry;
use overlay_core::action::{Action, Step};
use overlay_core::model::{MacAddr, NodeFacts, Underlay};
use overlay_core::observed::{
    Attachment, Device, FdbEntry, Neighbour, Observed, ObservedDataplane, Route, VxlanAttributes,
};
use overlay_core::ownership::DEVICE_MARK;

use super::kernel::Kernel;

const UNDERLAY_IFINDEX: u32 = 2;
const DEVICE_IFINDEX: u32 = 100;

/// A step with a reason.
pub(crate) fn step(action: Action) -> Step {
    Step {
        action,
        why: "missing".into(),
    }
}

/// The five steps that make node `n` a peer.
pub(crate) fn peer_steps(n: u8) -> Vec<Step> {
    let mac = [2, 0, 0, 0, 0, n];
    let vtep = [192, 168, 0, n].into();
    let overlay = [10, 244, n, 0].into();
    let subnet: IpNet = format!("10.244.{n}.0/24").parse().unwrap();
    [
        Action::SetFdb {
            mac: MacAddr::new(mac),
            destination: vtep,
        },
        Action::SetNeighbour {
            address: overlay,
            mac: MacAddr::new(mac),
        },
        Action::SetRoute {
            destination: subnet,
            gateway: overlay,
        },
        Action::AddPeer(vtep),
        Action::SetSubnet {
            subnet,
            entry: SubnetEntry::new(vtep.into(), mac),
        },
    ]
    .map(step)
    .into()
}

/// Shared with the test, which looks and meddles while the loop runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeKernel(Rc<RefCell<State>>);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) observed: Observed,
    pub(crate) underlay_missing: bool,
    pub(crate) underlay_mtu: u32,
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

    pub(crate) fn refuse(&self, action: Action) {
        self.0.borrow_mut().refused.push(action);
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
            smallest_route_mtu: None,
            local_port_range: (32768, 60999),
            default_ttl: 64,
            fib_flags: 0,
            port_shared: false,
            underlay_prefixes: vec!["192.168.0.1/24".parse()?],
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
        apply(&mut self.observed, action)?;
        self.done.push(action.clone());
        Ok(())
    }
}

fn apply(observed: &mut Observed, action: &Action) -> Result<()> {
    match action {
        Action::CreateDevice(new) => {
            observed.device = Some(Device {
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
            });
        }
        Action::DeleteDevice { .. } => observed.device = None,
        Action::LoadDataplane => {
            observed.dataplane = Some(ObservedDataplane {
                compatible: true,
                ..ObservedDataplane::default()
            });
        }
        Action::RemoveDataplane => observed.dataplane = None,
        Action::Attach { .. }
        | Action::SetConfig(_)
        | Action::AddPeer(_)
        | Action::RemovePeer(_)
        | Action::SetSubnet { .. }
        | Action::RemoveSubnet(_) => {
            let dataplane = observed
                .dataplane
                .as_mut()
                .ok_or_else(|| anyhow!("nothing is pinned"))?;
            apply_dataplane(dataplane, action);
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
        | Action::RemoveRoute { .. } => {
            apply_device(
                observed.device.as_mut().ok_or_else(|| anyhow!("no device"))?,
                action,
            );
        }
    }
    Ok(())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "apply sends the others elsewhere")]
fn apply_device(device: &mut Device, action: &Action) {
    match action {
        Action::SetDeviceMtu(mtu) => device.mtu = *mtu,
        Action::SetDeviceUp => device.up = true,
        Action::AddAddress(address) => drop(device.addresses.insert(*address)),
        Action::RemoveAddress(address) => drop(device.addresses.remove(address)),
        Action::SetNeighbour { address, mac } => {
            device.neighbours.retain(|n| n.address != *address);
            device.neighbours.insert(Neighbour {
                address: *address,
                mac: Some(*mac),
                permanent: true,
            });
        }
        Action::RemoveNeighbour { address } => device.neighbours.retain(|n| n.address != *address),
        Action::SetFdb { mac, destination } => {
            device.fdb.retain(|e| e.mac != *mac);
            device.fdb.insert(FdbEntry {
                mac: *mac,
                destination: Some(*destination),
                permanent: true,
                plain: true,
            });
        }
        Action::RemoveFdb { mac, destination } => {
            device
                .fdb
                .retain(|e| e.mac != *mac || e.destination != Some(*destination));
        }
        Action::SetRoute { destination, gateway } => {
            device.routes.insert(Route {
                destination: *destination,
                gateway: Some(*gateway),
                onlink: true,
                protocol: 3,
                metric: 0,
                plain: true,
            });
        }
        Action::RemoveRoute { destination, gateway } => {
            device
                .routes
                .retain(|r| r.destination != *destination || r.gateway != Some(*gateway));
        }
        other => panic!("not a step on the device: {other}"),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "apply sends the others elsewhere")]
fn apply_dataplane(dataplane: &mut ObservedDataplane, action: &Action) {
    match action {
        Action::Attach { hook, device } => {
            let ifindex = if device == "eth0" {
                UNDERLAY_IFINDEX
            } else {
                DEVICE_IFINDEX
            };
            dataplane.attached.insert(
                *hook,
                Attachment {
                    ifindex,
                    current: true,
                },
            );
        }
        Action::SetConfig(config) => dataplane.config = Some(**config),
        Action::AddPeer(vtep) => drop(dataplane.peers.insert(*vtep)),
        Action::RemovePeer(vtep) => drop(dataplane.peers.remove(vtep)),
        Action::SetSubnet { subnet, entry } => drop(dataplane.subnets.insert(*subnet, *entry)),
        Action::RemoveSubnet(subnet) => drop(dataplane.subnets.remove(subnet)),
        other => panic!("not a step of the dataplane: {other}"),
    }
}
