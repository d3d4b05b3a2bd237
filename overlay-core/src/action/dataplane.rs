//! What BPF carries out.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_common::config::Config;
use overlay_common::maps::{self, SubnetEntry};

/// A change to the eBPF programs, their attachments or their maps.
#[derive(Clone, PartialEq, Debug)]
pub enum DataplaneAction {
    /// Load the embedded object, pin its maps and programs; whatever of ours was pinned before is replaced.
    Load,
    /// Detach our programs and remove everything pinned.
    Remove,
    /// Attach our program to a hook of the named device, beside what is there; replaces only our own.
    Attach {
        /// Which hook, and so which program.
        hook: Hook,
        /// Interface name of the device.
        device: String,
    },
    /// Write the `CONFIG` entry, except for its epoch: that is raised, which forgets the flows of the fast path.
    SetConfig(Box<Config>),
    /// Raise the epoch in the `CONFIG` entry: no flow that was learned before is used any more.
    ForgetFlows,
    /// Make a VTEP known to the peer check, with the subnet that it may speak for.
    SetPeer {
        /// Underlay address of the VTEP.
        vtep: IpAddr,
        /// Its pod subnet.
        subnet: IpNet,
    },
    /// Forget a VTEP.
    RemovePeer(IpAddr),
    /// Write a `SUBNETS` entry.
    SetSubnet {
        /// The peer's pod subnet.
        subnet: IpNet,
        /// Where it lives.
        entry: SubnetEntry,
    },
    /// Remove a `SUBNETS` entry.
    RemoveSubnet(IpNet),
}

impl DataplaneAction {
    /// Whether it gives something, rather than taking it away.
    #[must_use]
    pub const fn is_addition(&self) -> bool {
        match self {
            Self::Load
            | Self::Attach { .. }
            | Self::SetConfig(_)
            | Self::SetPeer { .. }
            | Self::SetSubnet { .. } => true,
            Self::Remove | Self::ForgetFlows | Self::RemovePeer(_) | Self::RemoveSubnet(_) => false,
        }
    }
}

/// One of our programs. All are loaded and pinned together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Program {
    /// For [`Hook::VtepEgress`].
    VtepEgress,
    /// For [`Hook::VtepIngress`].
    VtepIngress,
    /// For [`Hook::UnderlayIngress`].
    UnderlayIngress,
    /// For the ingress hook of each device that leads to a pod.
    PodIngress,
    /// For the egress hook of each device that leads to a pod.
    PodEgress,
}

impl Program {
    /// Every program.
    pub const ALL: [Self; 5] = [
        Self::VtepEgress,
        Self::VtepIngress,
        Self::UnderlayIngress,
        Self::PodIngress,
        Self::PodEgress,
    ];

    /// Its name in the object, and in the names of its pins.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::VtepEgress => maps::VTEP_EGRESS,
            Self::VtepIngress => maps::VTEP_INGRESS,
            Self::UnderlayIngress => maps::UNDERLAY_INGRESS,
            Self::PodIngress => maps::POD_INGRESS,
            Self::PodEgress => maps::POD_EGRESS,
        }
    }
}

impl From<Hook> for Program {
    fn from(hook: Hook) -> Self {
        hook.program()
    }
}

/// A hook of the node's own devices, where one of our programs belongs. (The programs for pods go where the pods are.)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Hook {
    /// Egress of the VTEP device.
    VtepEgress,
    /// Ingress of the VTEP device.
    VtepIngress,
    /// Ingress of the underlay device.
    UnderlayIngress,
}

impl Hook {
    /// Every hook, in the order in which programs are detached: encapsulation first, so that traffic falls back to the
    /// kernel before the check of received packets goes.
    pub const ALL: [Self; 3] = [Self::VtepEgress, Self::VtepIngress, Self::UnderlayIngress];

    /// The program that belongs here.
    #[must_use]
    pub const fn program(self) -> Program {
        match self {
            Self::VtepEgress => Program::VtepEgress,
            Self::VtepIngress => Program::VtepIngress,
            Self::UnderlayIngress => Program::UnderlayIngress,
        }
    }
}
