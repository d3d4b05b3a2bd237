//! From what is to what should be: the ordered steps between the two.

mod cleanup;
mod dataplane;
mod device;
mod kernel;
#[cfg(test)]
mod tests;

use thiserror::Error;

pub use self::cleanup::{Cleanup, cleanup_plan};
use crate::action::{Action, Step};
use crate::desired::Desired;
use crate::model::ConntrackParameter;
use crate::observed::Observed;
use crate::order::{Ordered, Phase};

/// The link with our device's name is somebody else's.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "the link {name} (index {ifindex}) is not a VXLAN device, so it is not this agent's to change or delete: remove or \
     rename it; nothing is changed until then"
)]
pub struct ForeignDevice {
    /// Interface name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
}

/// The steps from `observed` to `desired`, in the order of [`crate::order`]. Empty when there is nothing to do.
///
/// Costs O(n log n) in the number of peers and of observed objects.
///
/// # Errors
///
/// When the link with our device's name is not a VXLAN device: it is neither used nor deleted.
pub fn plan(desired: &Desired, observed: &Observed) -> Result<Vec<Step>, ForeignDevice> {
    let mut steps = Ordered::default();
    let fate = device::fate(&desired.device, observed.device.as_ref())?;
    device::plan(desired, &fate, &mut steps);
    kernel::plan(desired, fate.kept(), &mut steps);
    for (parameter, found) in &desired.conntrack {
        let why = format!("is {found}, the fast path needs {}", ConntrackParameter::WANTED);
        steps.push(Phase::SetConntrack, Action::SetConntrack(*parameter), why);
    }
    dataplane::plan(
        desired.dataplane.as_ref(),
        observed.dataplane.as_ref(),
        &fate,
        desired.conntrack.is_empty(),
        &mut steps,
    );
    Ok(steps.into_steps())
}
