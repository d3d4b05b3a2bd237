//! A kernel as far as plans are concerned: carries out actions on an [`Observed`] state, and refuses what the kernel
//! refuses. For tests only; `tests/` checks against a real kernel what this one is taught here.

use std::collections::BTreeMap;

use crate::action::{Action, DataplaneAction, Hook, KernelAction};
use crate::observed::entries::foreign_route;
use crate::observed::{Links, Observed};

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
            Action::Kernel(action) => self.check_kernel(action)?,
            Action::Dataplane(action) => self.check_dataplane(action)?,
            Action::SetConntrack(_) => {}
        }
        let links = self.links();
        self.observed.apply(action, &links);
        if let Action::Kernel(KernelAction::CreateDevice(_)) = action {
            self.next_ifindex += 1;
        }
        Ok(())
    }

    /// The indices that the next action meets.
    #[must_use]
    pub fn links(&self) -> Links {
        Links {
            created: self.next_ifindex,
            others: self.links.clone(),
        }
    }

    fn check_kernel(&self, action: &KernelAction) -> Result<(), String> {
        let device = self.observed.device.as_ref();
        match action {
            KernelAction::CreateDevice(_) if device.is_some() => Err("EEXIST".into()),
            KernelAction::CreateDevice(_) => Ok(()),
            KernelAction::DeleteDevice { ifindex, .. }
                if device.is_some_and(|device| device.ifindex != *ifindex) =>
            {
                Err("another device has the name".into())
            }
            KernelAction::DeleteDevice { .. } => Ok(()),
            KernelAction::SetRoute { .. } if device.is_some_and(|device| !device.up) => {
                Err("ENETDOWN".into())
            }
            KernelAction::SetRoute { destination, .. }
                if device.is_some_and(|device| foreign_route(device, *destination)) =>
            {
                Err("EEXIST".into())
            }
            KernelAction::SetDeviceMtu(_)
            | KernelAction::SetDeviceUp
            | KernelAction::AddAddress(_)
            | KernelAction::RemoveAddress(_)
            | KernelAction::SetNeighbour { .. }
            | KernelAction::RemoveNeighbour { .. }
            | KernelAction::SetFdb { .. }
            | KernelAction::RemoveFdb { .. }
            | KernelAction::SetRoute { .. }
            | KernelAction::RemoveRoute { .. } => device.map(|_| ()).ok_or_else(|| "no device".into()),
        }
    }

    fn check_dataplane(&self, action: &DataplaneAction) -> Result<(), String> {
        let maps = self
            .observed
            .dataplane
            .as_ref()
            .is_some_and(|maps| maps.compatible);
        match action {
            DataplaneAction::Load | DataplaneAction::Remove => Ok(()),
            DataplaneAction::Attach { hook, device } => {
                let there = match hook {
                    Hook::VtepEgress | Hook::VtepIngress => self.observed.device.is_some(),
                    Hook::UnderlayIngress => self.links.contains_key(device),
                };
                (maps && there)
                    .then_some(())
                    .ok_or_else(|| "no such device, or no program".into())
            }
            DataplaneAction::ForgetFlows
            | DataplaneAction::SetConfig(_)
            | DataplaneAction::SetPeer { .. }
            | DataplaneAction::RemovePeer(_)
            | DataplaneAction::SetSubnet { .. }
            | DataplaneAction::RemoveSubnet(_) => maps.then_some(()).ok_or_else(|| "no maps".into()),
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
}
