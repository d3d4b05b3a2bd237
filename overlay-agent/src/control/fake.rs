//! A kernel made of the actions it was told to carry out, for the tests of the loop.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use overlay_common::maps::SubnetEntry;
use overlay_core::action::{Action, DataplaneAction, KernelAction, Step};
use overlay_core::model::{ConntrackParameter, MacAddr, NodeFacts, Underlay};
use overlay_core::observed::{Device, Links, Observed, ObservedDataplane};
use tokio::sync::Notify;

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
    /// Observations in the background end when this is notified; at once without it.
    pub(crate) gate: Option<Arc<Notify>>,
    refused: Vec<Action>,
    /// Actions that read so at their beginning.
    refused_kinds: Vec<&'static str>,
    attempts: usize,
    /// How often something was asked for, in one call.
    calls: usize,
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
        let mut state = self.0.borrow_mut();
        state.refused.clear();
        state.refused_kinds.clear();
    }

    pub(crate) fn attempts(&self) -> usize {
        self.0.borrow().attempts
    }

    pub(crate) fn calls(&self) -> usize {
        self.0.borrow().calls
    }

    fn node_facts(&self) -> Result<NodeFacts> {
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
            routes_by_port: false,
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

    fn snapshot(&self) -> Observed {
        let mut state = self.0.borrow_mut();
        state.observations += 1;
        state.observed.clone()
    }

    fn look(&self) -> Result<(NodeFacts, Observed)> {
        Ok((self.node_facts()?, self.snapshot()))
    }

    pub(crate) fn with<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(&mut self.0.borrow_mut())
    }
}

impl Kernel for FakeKernel {
    async fn facts(&mut self) -> Result<NodeFacts> {
        self.node_facts()
    }

    async fn observe(&mut self) -> Result<Observed> {
        Ok(self.snapshot())
    }

    fn observe_in_background(
        &mut self,
    ) -> impl Future<Output = Result<(NodeFacts, Observed)>> + Send + 'static {
        let gate = self.with(|state| state.gate.clone());
        let seen = self.look();
        async move {
            if let Some(gate) = gate {
                gate.notified().await;
            }
            seen
        }
    }

    async fn execute(&mut self, actions: &[&Action]) -> Vec<Result<()>> {
        let mut state = self.0.borrow_mut();
        state.calls += 1;
        actions.iter().map(|action| state.execute(action)).collect()
    }

    fn dataplane_name(&self) -> String {
        "fake".to_owned()
    }
}

impl State {
    pub(crate) fn refuse_kind(&mut self, words: &'static str) {
        self.refused_kinds.push(words);
    }

    fn execute(&mut self, action: &Action) -> Result<()> {
        self.attempts += 1;
        let text = action.to_string();
        let is_of_refused_kind = self.refused_kinds.iter().any(|kind| text.starts_with(kind));
        if is_of_refused_kind || self.refused.contains(action) {
            bail!("refused by the test");
        }
        match action {
            Action::Kernel(KernelAction::CreateDevice(_)) | Action::Dataplane(DataplaneAction::Load) => {}
            Action::Kernel(_) => drop(self.observed.device.as_ref().context("no device")?),
            Action::Dataplane(DataplaneAction::ForgetFlows) => self.forgotten += 1,
            Action::Dataplane(_) => drop(self.observed.dataplane.as_ref().context("nothing is pinned")?),
            Action::SetConntrack(parameter) => drop(self.conntrack.insert(*parameter)),
        }
        let links = Links {
            created: DEVICE_IFINDEX,
            others: [("eth0".to_owned(), UNDERLAY_IFINDEX)].into(),
        };
        self.observed.apply(action, &links);
        self.done.push(action.clone());
        Ok(())
    }
}
