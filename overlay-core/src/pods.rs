//! Devices that lead to pods: which of a node's links they are, and what is to be done about each.
//!
//! ```text
//! Observed ─▶ verdicts ─▶ diff ─▶ Vec<PodAction>
//! ```
//!
//! A device leads to a pod when it is a port of the pod bridge (a bridge with an address in the node's pod subnet), or
//! a veth outside of bridges with a route to a single address of that subnet.

mod diff;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

pub use self::diff::diff;
pub use self::verdict::{ALIAS_PREFIX, Exclusion, Verdict, host_route_candidates, verdicts};
use crate::action::Program;

/// The programs of a pod's device, in the order in which they are attached: what learns before what sends.
pub const POD_PROGRAMS: [Program; 2] = [Program::PodEgress, Program::PodIngress];

/// What the fast path's configuration says about this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PodSettings {
    /// This node's pod subnet.
    pub subnet: Ipv4Net,
    /// The underlay device: never a pod's.
    pub underlay_ifindex: u32,
}

/// A network device of the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodLink {
    /// Interface name.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// Index of the bridge (or bond, VRF, …) that it is a port of.
    pub master: Option<u32>,
    /// `IFLA_IFALIAS`.
    pub alias: Option<String>,
    /// Kind of the root qdisc.
    pub qdisc: Option<String>,
}

/// What matters of a device's kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkKind {
    /// A veth whose other end is in another network namespace.
    Veth,
    /// A veth whose other end is in the node's own namespace: no pod's, and packets cannot be handed across it.
    LocalVeth,
    /// A bridge.
    Bridge,
    /// Anything else.
    Other,
}

/// What others have put on a device's ingress or egress hook that must see every packet: the fast path would go round
/// it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Limiter {
    /// An `ingress` qdisc: how the bandwidth plugin of CNI limits what a pod sends. It takes the place of clsact, too.
    IngressQdisc,
    /// A filter that works by actions, such as police and mirred. Not an eBPF program in direct-action mode: most only
    /// look or decide, and what they decide about a flow is asked for again at every proof, as of netfilter rules.
    Filter {
        /// Its kind: `u32`, `matchall`, `flower`, ….
        kind: String,
        /// The hook that it is on.
        side: Side,
    },
}

/// A hook of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// What the device receives.
    Ingress,
    /// What is sent through the device.
    Egress,
}

/// How a pod's packets are handled: `ENDPOINTS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndpointMode {
    /// The whole fast path.
    Fast,
    /// The kernel device decapsulates, for pods that encapsulate again what they receive.
    Shortcut,
}

/// What the kernel holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Observed {
    /// `None` while there is no fast path.
    pub settings: Option<PodSettings>,
    /// The node's devices by index.
    pub links: BTreeMap<u32, PodLink>,
    /// Whether the list may lack devices (it changed while it was read), so that absence proves nothing.
    pub incomplete: bool,
    /// Indices of devices that have ended since the last pass; another may have the index by now.
    pub gone: BTreeSet<u32>,
    /// Addresses of the devices.
    pub addresses: BTreeMap<u32, BTreeSet<Ipv4Addr>>,
    /// Destinations of /32 routes of table main, by the device that they leave by.
    pub host_routes: BTreeMap<u32, BTreeSet<Ipv4Addr>>,
    /// Where our programs are: index and program → whether nothing is left to do (alive, of this build, alone).
    pub attached: BTreeMap<(u32, Program), bool>,
    /// The first thing on a device's hooks that the fast path must not go round.
    pub limiters: BTreeMap<u32, Limiter>,
    /// `ENDPOINTS`; `None` for a value that this version does not know.
    pub endpoints: BTreeMap<u32, Option<EndpointMode>>,
    /// `SHORTCUTS`.
    pub shortcuts: u32,
}

/// One change. Each is idempotent but [`PodAction::ForgetDevice`], which may be repeated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PodAction {
    /// Attach a program, or make an attached one current.
    Attach {
        /// [`Program::PodIngress`] or [`Program::PodEgress`].
        program: Program,
        /// Index of the device.
        ifindex: u32,
        /// Name of the device.
        name: String,
    },
    /// Detach a program and remove what is pinned for it. The device may be gone.
    Detach {
        /// [`Program::PodIngress`] or [`Program::PodEgress`].
        program: Program,
        /// Index of the device.
        ifindex: u32,
    },
    /// Write an `ENDPOINTS` entry.
    SetEndpoint {
        /// Index of the device.
        ifindex: u32,
        /// Its mode.
        mode: EndpointMode,
    },
    /// Remove an `ENDPOINTS` entry: no more flows are learned.
    RemoveEndpoint {
        /// Index of the device.
        ifindex: u32,
    },
    /// Raise the epoch of a device: its flows are forgotten at once.
    ForgetDevice {
        /// Index of the device.
        ifindex: u32,
    },
    /// Write `SHORTCUTS`.
    SetShortcuts(u32),
}

impl PodAction {
    /// Index of the device that it is about.
    #[must_use]
    pub const fn ifindex(&self) -> Option<u32> {
        match self {
            Self::Attach { ifindex, .. }
            | Self::Detach { ifindex, .. }
            | Self::SetEndpoint { ifindex, .. }
            | Self::RemoveEndpoint { ifindex }
            | Self::ForgetDevice { ifindex } => Some(*ifindex),
            Self::SetShortcuts(_) => None,
        }
    }
}

impl fmt::Display for EndpointMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fast => "fast path",
            Self::Shortcut => "shortcut",
        })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

impl fmt::Display for PodAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attach {
                program,
                ifindex,
                name,
            } => {
                write!(f, "pod attach {} to {name} (index {ifindex})", program.name())
            }
            Self::Detach { program, ifindex } => {
                write!(f, "pod detach {} from interface {ifindex}", program.name())
            }
            Self::SetEndpoint { ifindex, mode } => write!(f, "pod endpoint set {ifindex}: {mode}"),
            Self::RemoveEndpoint { ifindex } => write!(f, "pod endpoint remove {ifindex}"),
            Self::ForgetDevice { ifindex } => write!(f, "pod forget flows of interface {ifindex}"),
            Self::SetShortcuts(count) => write!(f, "pod shortcuts {count}"),
        }
    }
}
