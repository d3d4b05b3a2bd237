//! Why there is no desired state.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use thiserror::Error;

use super::problem::Who;
use crate::model::MacAddr;
use crate::net_conf::{ENCAP_OVERHEAD, MIN_OVERLAY_MTU};
use crate::view::View;

/// How many node names an error lists.
const SHOWN_NODES: usize = 5;

/// Why nothing can be planned: this node's own part is missing or unusable. What the kernel holds stays as it is.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DesiredError {
    /// The source has not delivered its first complete list.
    #[error("the lease source has not delivered its first complete list: nothing is changed until it has")]
    Incomplete,
    /// No lease carries this node's name.
    #[error(
        "no lease for this node, \"{node}\": {known}; check --node (NODE_NAME), add the lease to the file, or wait for the Node's podCIDR"
    )]
    NoOwnLease {
        /// This node's name.
        node: String,
        /// Which nodes have leases, in words.
        known: String,
    },
    /// The own lease has no IPv4 side.
    #[error("the own lease {own} has no IPv4 subnet, and this version serves IPv4 overlays only")]
    OwnLeaseNotIpv4 {
        /// The own lease.
        own: Who,
    },
    /// The own subnet is not the cluster's.
    #[error("the own lease {own}: subnet {subnet} is not inside the Network {network} of the net-conf")]
    OwnSubnetOutside {
        /// The own lease.
        own: Who,
        /// Its subnet.
        subnet: IpNet,
        /// The cluster's network.
        network: Ipv4Net,
    },
    /// The own VTEP's MAC address cannot be a device's.
    #[error(
        "the own lease {own}: VTEP MAC {mac} is not the address of one device (group bit set, or all zero)"
    )]
    OwnMac {
        /// The own lease.
        own: Who,
        /// Its MAC address.
        mac: MacAddr,
    },
    /// The underlay device's address cannot be a VTEP's.
    #[error(
        "underlay device {name}: {address} cannot be a VTEP's address: it must be a unicast IPv4 address"
    )]
    UnderlayAddress {
        /// Interface name.
        name: String,
        /// Its address.
        address: IpAddr,
    },
    /// The underlay would be routed into the overlay.
    #[error("the own lease {own}: subnet {subnet} contains {address}, this node's underlay address")]
    UnderlayInOverlay {
        /// The own lease.
        own: Who,
        /// Its subnet.
        subnet: IpNet,
        /// The underlay address.
        address: IpAddr,
    },
    /// Nothing would be left for the overlay.
    #[error(
        "an MTU of {mtu} on underlay device {underlay} is too small: the overlay needs {} bytes for headers and at least \
         {MIN_OVERLAY_MTU} for its packets",
        ENCAP_OVERHEAD
    )]
    MtuTooSmall {
        /// Interface name of the underlay device.
        underlay: String,
        /// The underlay's MTU, or the smaller one that the net-conf asks for, in bytes.
        mtu: u32,
    },
}

pub(super) fn no_own_lease(view: &View, node: &str) -> DesiredError {
    let count = view.nodes().len();
    let mut known = match count {
        0 => "there are no leases at all".to_owned(),
        1 => "the only lease is of ".to_owned(),
        _ => format!("the {count} leases are of "),
    };
    for (index, name) in view.nodes().take(SHOWN_NODES).enumerate() {
        if index > 0 {
            known.push_str(", ");
        }
        known.push_str(name);
    }
    if count > SHOWN_NODES {
        known.push_str(", …");
    }
    DesiredError::NoOwnLease {
        node: node.to_owned(),
        known,
    }
}
