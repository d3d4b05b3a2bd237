//! What a plan consists of: actions as data. The agent's executors are the only places that carry them out.
//!
//! The type says which side does it: route netlink ([`KernelAction`]), BPF ([`DataplaneAction`]) or the files of
//! `/proc/sys` ([`Action::SetConntrack`]). Each executor takes its own type, so none can be handed what is another's.

mod dataplane;
mod display;
mod kernel;
mod subject;

use std::borrow::Cow;
use std::mem::discriminant;

pub use self::dataplane::{DataplaneAction, Hook, Program};
pub use self::kernel::{KernelAction, VxlanDevice};
pub use self::subject::Subject;
use crate::model::ConntrackParameter;

/// One action of a plan, and why it is there.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// Why, for an operator: `missing`, `no lease names it`, `MTU is 1500, wanted 1450`.
    pub why: Cow<'static, str>,
}

/// A change to the kernel. Each is idempotent: carrying it out twice is carrying it out once.
///
/// "The device" is always this agent's VTEP device (`flannel.<VNI>`).
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// A change to the device or what is on it.
    Kernel(KernelAction),
    /// A change to the eBPF programs or their maps.
    Dataplane(DataplaneAction),
    /// Sets a parameter of connection tracking to what the fast path needs.
    SetConntrack(ConntrackParameter),
}

impl Action {
    /// Whether it gives something, rather than taking it away.
    #[must_use]
    pub const fn is_addition(&self) -> bool {
        match self {
            Self::Kernel(action) => action.is_addition(),
            Self::Dataplane(action) => action.is_addition(),
            Self::SetConntrack(_) => true,
        }
    }

    /// Whether both do the same kind of thing, to whatever they do it.
    #[must_use]
    pub fn is_same_kind(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Kernel(a), Self::Kernel(b)) => discriminant(a) == discriminant(b),
            (Self::Dataplane(a), Self::Dataplane(b)) => discriminant(a) == discriminant(b),
            (Self::SetConntrack(_), Self::SetConntrack(_)) => true,
            (Self::Kernel(_) | Self::Dataplane(_) | Self::SetConntrack(_), _) => false,
        }
    }

    /// What of a peer it names.
    #[must_use]
    pub fn subject(&self) -> Subject {
        match self {
            Self::Kernel(action) => action.subject(),
            Self::Dataplane(action) => action.subject(),
            Self::SetConntrack(_) => Subject::default(),
        }
    }
}

impl From<KernelAction> for Action {
    fn from(action: KernelAction) -> Self {
        Self::Kernel(action)
    }
}

impl From<DataplaneAction> for Action {
    fn from(action: DataplaneAction) -> Self {
        Self::Dataplane(action)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn kinds_are_told_apart_within_a_side() {
        let address = IpAddr::from([10, 244, 1, 0]);
        let peer = |n: u8| {
            Action::from(DataplaneAction::SetPeer {
                vtep: [192, 168, 0, n].into(),
                subnet: "10.244.2.0/24".parse().unwrap(),
            })
        };
        let up = Action::from(KernelAction::SetDeviceUp);
        let neighbour = Action::from(KernelAction::RemoveNeighbour { address });
        assert!(peer(1).is_same_kind(&peer(2)));
        assert!(!peer(1).is_same_kind(&DataplaneAction::RemovePeer(address).into()));
        assert!(!up.is_same_kind(&neighbour));
        assert!(!up.is_same_kind(&peer(1)));
    }
}
