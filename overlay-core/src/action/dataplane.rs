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
    /// Write the `CONFIG` entry.
    SetConfig(Box<Config>),
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
            Self::Remove | Self::RemovePeer(_) | Self::RemoveSubnet(_) => false,
        }
    }
}

/// A hook that one of our programs belongs on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Hook {
    /// Egress of the VTEP device.
    VtepEgress,
    /// Ingress of the underlay device.
    UnderlayIngress,
}

impl Hook {
    /// Name of the program that belongs here.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::VtepEgress => maps::VTEP_EGRESS,
            Self::UnderlayIngress => maps::UNDERLAY_INGRESS,
        }
    }
}
