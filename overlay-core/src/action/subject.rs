//! Which peer an action is about.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{DataplaneAction, KernelAction};
use crate::model::MacAddr;

/// What of a peer an action names; nothing when it is about the node's own device or programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Subject {
    /// Pod subnet.
    pub subnet: Option<IpNet>,
    /// Overlay address: the first of the pod subnet.
    pub overlay: Option<IpAddr>,
    /// Address of the VTEP device.
    pub mac: Option<MacAddr>,
    /// Underlay address.
    pub underlay: Option<IpAddr>,
}

impl KernelAction {
    /// What of a peer it names.
    #[must_use]
    pub fn subject(&self) -> Subject {
        let none = Subject::default();
        match *self {
            Self::SetNeighbour { address, mac } => Subject {
                overlay: Some(address),
                mac: Some(mac),
                ..none
            },
            Self::RemoveNeighbour { address } => Subject {
                overlay: Some(address),
                ..none
            },
            Self::SetFdb { mac, destination } | Self::RemoveFdb { mac, destination } => Subject {
                mac: Some(mac),
                underlay: Some(destination),
                ..none
            },
            Self::SetRoute { destination, gateway } | Self::RemoveRoute { destination, gateway } => Subject {
                subnet: Some(destination),
                overlay: Some(gateway),
                ..none
            },
            Self::CreateDevice(_)
            | Self::DeleteDevice { .. }
            | Self::SetDeviceMtu(_)
            | Self::SetDeviceUp
            | Self::AddAddress(_)
            | Self::RemoveAddress(_) => none,
        }
    }
}

impl DataplaneAction {
    /// What of a peer it names.
    #[must_use]
    pub fn subject(&self) -> Subject {
        let none = Subject::default();
        match *self {
            Self::SetPeer { vtep, .. } | Self::RemovePeer(vtep) => Subject {
                underlay: Some(vtep),
                ..none
            },
            Self::SetSubnet { subnet, entry } => Subject {
                subnet: Some(subnet),
                mac: Some(MacAddr::new(entry.vtep_mac)),
                underlay: Some(entry.vtep.into()),
                ..none
            },
            Self::RemoveSubnet(subnet) => Subject {
                subnet: Some(subnet),
                ..none
            },
            Self::Load | Self::Remove | Self::Attach { .. } | Self::SetConfig(_) | Self::ForgetFlows => none,
        }
    }
}
