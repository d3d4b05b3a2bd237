//! The nouns of the control plane.

mod lease;
mod mac;
mod settings;

pub use lease::{FamilyLease, Lease, LeaseEvent, can_be_vtep};
pub use mac::{InvalidMac, MacAddr};
pub use settings::{Dataplane, NodeFacts, Settings, Underlay};
