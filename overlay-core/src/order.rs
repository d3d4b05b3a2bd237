//! The order of a plan, and what must not be done when an earlier step failed.
//!
//! The rule: the kernel fallback first on add, the fast path first on delete. After every step, each `SUBNETS` entry
//! that the plan wrote or left has the kernel's route, neighbour and forwarding entry behind it, so the two paths never
//! lead to different places, wherever the plan stops.
//!
//! A peer that moves (other MAC or underlay address) is therefore taken off the fast path, moved in the kernel and put
//! back. Overwriting its `SUBNETS` entry would be one step less, but between the kernel's change and the map's one path
//! would lead to the old VTEP and the other to the new one.
//!
//! The flows that the fast path has learned rely on `SUBNETS` and `PEERS`, too. Where an entry was removed or overwritten
//! they are all forgotten, by one write, before anything else happens: learning them again takes milliseconds. A new
//! peer makes no learned flow wrong, because its subnet overlaps no other's and its VTEP was no peer's, so a cluster that
//! grows keeps its flows.

mod failures;

use std::borrow::Cow;
use std::collections::BTreeMap;

pub use self::failures::Failures;
use crate::action::{Action, Step};

/// When, within a plan, something is done. In order of declaration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    /// Before anything changes in the kernel: maps that cannot be read cannot be kept in step with it.
    RemoveDataplane,
    /// The fast path goes first. This also makes room in the maps.
    RemoveSubnet,
    RemovePeer,
    /// The entries that packets are learned by are gone, so no flow is learned by them again: what was learned before
    /// goes, too, before the kernel changes.
    ForgetFlows,
    DeleteDevice,
    CreateDevice,
    LoadDataplane,
    /// Before any configuration that switches the fast path on.
    SetConntrack,
    /// A configuration that replaces a working one: while the device is down or new the kernel delivers nothing, so
    /// nothing is refused by the new configuration that the kernel would take, or the other way round.
    Reconfigure,
    /// Programs that have no configuration or no subnets pass everything, so this can be early.
    Attach,
    Mtu,
    /// Before the removal of others, so that the node always has an overlay source address.
    AddAddress,
    RemoveAddress,
    /// Routes need it.
    Up,
    /// Before the neighbour entry that leads to it.
    SetFdb,
    SetNeighbour,
    SetRoute,
    /// After the new routes: a subnet that was split or merged is never without one, which would send its packets to
    /// the default gateway.
    RemoveRoute,
    RemoveFdb,
    RemoveNeighbour,
    SetPeer,
    /// A flow may have been learned by an entry that was overwritten.
    ForgetChanged,
    SetSubnet,
    /// The first configuration switches everything on at once: until then the programs pass every packet, and the peer
    /// check refuses none before it knows all peers.
    Configure,
}

/// Steps that put themselves in order.
#[derive(Default)]
pub(crate) struct Ordered {
    phases: BTreeMap<Phase, Vec<Step>>,
}

impl Ordered {
    /// Adds a step after those that the same phase already has.
    pub(crate) fn push(
        &mut self,
        phase: Phase,
        action: impl Into<Action>,
        why: impl Into<Cow<'static, str>>,
    ) {
        self.phases.entry(phase).or_default().push(Step {
            action: action.into(),
            why: why.into(),
        });
    }

    pub(crate) fn into_steps(self) -> Vec<Step> {
        self.phases.into_values().flatten().collect()
    }
}
