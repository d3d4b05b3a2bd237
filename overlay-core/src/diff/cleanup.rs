//! Removing everything that the agent ever made, and nothing else.

use crate::action::{DataplaneAction, KernelAction, Step};
use crate::observed::Observed;
use crate::ownership;

/// What `cleanup` does, and what it leaves.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Cleanup {
    /// What to do, in order.
    pub steps: Vec<Step>,
    /// What stays in place and why, for the operator.
    pub notes: Vec<String>,
}

/// The plan of `cleanup` for the link called `device_name`.
///
/// The fast path goes first. The device goes only when it carries this agent's mark; what is on it goes with it. An
/// adopted device stays as flannel would leave it, with its peers, so that flannel can take it over without a gap.
#[must_use]
pub fn cleanup_plan(observed: &Observed, device_name: &str) -> Cleanup {
    let mut cleanup = Cleanup::default();
    if observed.dataplane.is_some() {
        cleanup.steps.push(Step {
            action: DataplaneAction::Remove.into(),
            why: "cleanup".into(),
        });
    }
    let Some(device) = &observed.device else {
        return cleanup;
    };
    let ifindex = device.ifindex;
    if ownership::made_by_us(device) {
        let action = KernelAction::DeleteDevice {
            name: device_name.to_owned(),
            ifindex,
        };
        cleanup.steps.push(Step {
            action: action.into(),
            why: "cleanup: made by this agent".into(),
        });
    } else if ownership::usable(device) {
        cleanup.notes.push(format!(
            "{device_name} (index {ifindex}) stays, with its addresses, routes, neighbours and forwarding entries: it \
             does not carry the alias \"{}\", so this agent did not make it. `ip link delete {device_name}` removes it \
             and everything on it",
            ownership::DEVICE_MARK
        ));
    } else {
        cleanup.notes.push(format!(
            "{device_name} (index {ifindex}) stays: it is not a VXLAN device, so this agent never used it"
        ));
    }
    cleanup
}
