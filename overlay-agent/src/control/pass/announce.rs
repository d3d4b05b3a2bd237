//! What a whole pass says when it is done.

use overlay_core::action::DataplaneAction;
use overlay_core::desired::Desired;

use super::Controller;
use crate::control::execute::Report;
use crate::control::groups::Group;
use crate::control::kernel::Kernel;
use crate::text::count;

/// Names what was done to the node itself.
pub(super) fn steps(report: &Report<'_>) {
    for (group, step) in &report.done {
        // Flows are forgotten at every turn.
        let common = step.action == DataplaneAction::ForgetFlows.into();
        if matches!(group, Group::Device | Group::Dataplane | Group::Fastpath) && !common {
            log::info!("{step}");
        }
    }
}

impl<K: Kernel> Controller<K> {
    /// Says whether there is a fast path, when that has changed.
    pub(super) fn announce_fastpath(&mut self, desired: &Desired, report: &Report<'_>) {
        if report.incomplete.contains(&Group::Device) || report.incomplete.contains(&Group::Dataplane) {
            return;
        }
        let text = if report.fastpath_off {
            "off: connection tracking could not be set for it, see above".to_owned()
        } else {
            desired.fastpath.to_string()
        };
        if self.fastpath.as_ref() != Some(&text) {
            log::info!("fast path: {text}");
            self.fastpath = Some(text);
        }
    }

    /// Says once that the first complete list is in the kernel.
    pub(super) fn announce(&mut self, desired: &Desired, report: &Report<'_>, nothing_to_do: bool) {
        let whole = [Group::Device, Group::Dataplane]
            .iter()
            .all(|group| !report.incomplete.contains(group));
        if self.announced || !whole || !self.view.complete() {
            return;
        }
        self.announced = true;
        let peers = count(desired.peers.len(), "peer");
        let incomplete = match report.incomplete.len() {
            0 => String::new(),
            number => format!(" ({number} not complete, see above)"),
        };
        let nothing = if nothing_to_do { "; nothing to do" } else { "" };
        log::info!(
            "ready: {peers}{incomplete}, device {}, dataplane {}{nothing}",
            desired.device.name,
            self.kernel.dataplane_name()
        );
    }
}
