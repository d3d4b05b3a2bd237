//! The nouns of the control plane.

mod conntrack;
mod lease;
mod mac;
mod mark_mask;
mod settings;

pub use conntrack::ConntrackParameter;
pub use lease::{FamilyLease, Lease, LeaseEvent, can_be_vtep};
pub use mac::{InvalidMac, MacAddr};
pub use mark_mask::{InvalidMarkMask, MarkMask};
pub use settings::{Dataplane, FlowSettings, NodeFacts, Settings, Underlay};
