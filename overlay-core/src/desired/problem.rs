//! What is wrong without stopping the rest.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::FastpathOff;
use crate::model::{Lease, MacAddr};
use crate::view::Duplicate;

/// A lease, as messages name it: `worker-2 (leases.yaml:7)`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Who {
    /// Name of the node.
    pub node: String,
    /// Where its lease was read.
    pub origin: String,
}

impl From<&Lease> for Who {
    fn from(lease: &Lease) -> Self {
        Self {
            node: lease.node.clone(),
            origin: lease.origin.clone(),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.node, self.origin)
    }
}

/// Something an operator should look at. Where a `peer` is named it is left out of the overlay on this node until the
/// leases change; everything else works.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Problem {
    /// One list names a node twice.
    DuplicateNode(Duplicate),
    /// The own lease advertises another address than packets leave with.
    OwnPublicIp {
        /// The own lease.
        own: Who,
        /// What peers send to.
        public_ip: IpAddr,
        /// Interface name of the underlay device.
        underlay: String,
        /// What packets leave with, and what the peer check accepts as their destination.
        address: IpAddr,
    },
    /// The net-conf asks for more than the underlay device carries.
    MtuTooLarge {
        /// MTU of the underlay that the net-conf asks for, in bytes.
        wanted: u32,
        /// Interface name of the underlay device.
        underlay: String,
        /// MTU of that device in bytes.
        mtu: u32,
    },
    /// Packets on the underlay device do not begin with an Ethernet header, as on a tunnel.
    NotEthernet {
        /// Interface name of the underlay device.
        underlay: String,
    },
    /// The fast path is wanted and cannot be had.
    NoFastpath(FastpathOff),
    /// The eBPF maps are too small for the cluster.
    TooManyPeers {
        /// How many peers there are.
        peers: usize,
        /// How many the maps hold.
        room: usize,
    },
    /// The lease has no IPv4 side.
    NotIpv4 {
        /// The lease left out.
        peer: Who,
    },
    /// The subnet is not the cluster's.
    OutsideNetwork {
        /// The lease left out.
        peer: Who,
        /// Its subnet.
        subnet: IpNet,
        /// The cluster's network.
        network: Ipv4Net,
    },
    /// The MAC address cannot be a device's.
    UnusableMac {
        /// The lease left out.
        peer: Who,
        /// Its MAC address.
        mac: MacAddr,
    },
    /// The underlay address cannot be a VTEP's.
    UnusablePublicIp {
        /// The lease left out.
        peer: Who,
        /// Its underlay address.
        public_ip: IpAddr,
    },
    /// Another lease holds the subnet, or part of it.
    SubnetTaken {
        /// The lease left out.
        peer: Who,
        /// Its subnet.
        subnet: IpNet,
        /// The lease that keeps its subnet.
        holder: Who,
        /// The subnet that is kept.
        held: IpNet,
    },
    /// Another lease holds the MAC address.
    MacTaken {
        /// The lease left out.
        peer: Who,
        /// Its MAC address.
        mac: MacAddr,
        /// The lease that keeps it.
        holder: Who,
    },
    /// Another lease holds the underlay address.
    PublicIpTaken {
        /// The lease left out.
        peer: Who,
        /// Its underlay address.
        public_ip: IpAddr,
        /// The lease that keeps it.
        holder: Who,
    },
    /// The underlay address of one lease lies in the subnet of the other: a route to the subnet would send the tunnel
    /// packets for that address back into the tunnel.
    PublicIpInSubnet {
        /// The lease left out.
        peer: Who,
        /// The address in question.
        public_ip: IpAddr,
        /// Whose address it is.
        owner: Who,
        /// The subnet that contains it.
        subnet: IpNet,
        /// Whose subnet it is.
        holder: Who,
    },
}

impl Problem {
    /// The lease that is left out because of it, if it is about one.
    #[must_use]
    pub const fn peer(&self) -> Option<&Who> {
        match self {
            Self::DuplicateNode(_)
            | Self::OwnPublicIp { .. }
            | Self::MtuTooLarge { .. }
            | Self::NotEthernet { .. }
            | Self::NoFastpath(_)
            | Self::TooManyPeers { .. } => None,
            Self::NotIpv4 { peer }
            | Self::OutsideNetwork { peer, .. }
            | Self::UnusableMac { peer, .. }
            | Self::UnusablePublicIp { peer, .. }
            | Self::SubnetTaken { peer, .. }
            | Self::MacTaken { peer, .. }
            | Self::PublicIpTaken { peer, .. }
            | Self::PublicIpInSubnet { peer, .. } => Some(peer),
        }
    }

    /// The other lease in whose favour it is left out, if there is one: without that it would be served, or left out for
    /// another reason.
    #[must_use]
    pub fn rival(&self) -> Option<&Who> {
        let (Self::SubnetTaken { peer, holder, .. }
        | Self::MacTaken { peer, holder, .. }
        | Self::PublicIpTaken { peer, holder, .. }
        | Self::PublicIpInSubnet { peer, holder, .. }) = self
        else {
            return None;
        };
        if holder != peer {
            return Some(holder);
        }
        if let Self::PublicIpInSubnet { owner, .. } = self {
            return Some(owner).filter(|owner| *owner != peer);
        }
        None
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DuplicateNode(Duplicate { node, kept, ignored }) => {
                write!(
                    f,
                    "node {node} has two leases: the one at {kept} counts, the one at {ignored} is ignored"
                )
            }
            Self::OwnPublicIp {
                own,
                public_ip,
                underlay,
                address,
            } => write!(
                f,
                "the own lease {own} says public IP {public_ip}, but packets leave by {underlay} with {address}: peers \
                 send to {public_ip}, and only what arrives for {address} is accepted. Right where {public_ip} is \
                 translated to {address}; otherwise correct the lease or --iface"
            ),
            Self::MtuTooLarge {
                wanted,
                underlay,
                mtu,
            } => write!(
                f,
                "the net-conf asks for an underlay MTU of {wanted}, but {underlay} has {mtu}: {mtu} is used"
            ),
            Self::NotEthernet { underlay } => write!(
                f,
                "{underlay} is not an Ethernet device (as tunnels are not), and the eBPF programs read Ethernet headers: \
                 the kernel's device carries all traffic, and the peer check is off. Name an Ethernet device with --iface, \
                 or say --dataplane kernel if that is meant"
            ),
            Self::NoFastpath(why) => write!(
                f,
                "no fast path: {why}; every packet goes through the host's stack, everything else works (--fastpath off \
                 if that is meant)"
            ),
            Self::TooManyPeers { peers, room } => write!(
                f,
                "{peers} peers, but the eBPF maps have room for {room}: the kernel's device carries the traffic of the others, and the peer check only counts and refuses nothing; start the agent with --max-peers {peers} or more"
            ),
            Self::NotIpv4 { peer } => write!(f, "{peer} is left out: it has no IPv4 subnet"),
            Self::OutsideNetwork {
                peer,
                subnet,
                network,
            } => {
                write!(
                    f,
                    "{peer} is left out: subnet {subnet} is not inside the Network {network}"
                )
            }
            Self::UnusableMac { peer, mac } => write!(
                f,
                "{peer} is left out: VTEP MAC {mac} is not the address of one device (group bit set, or all zero)"
            ),
            Self::UnusablePublicIp { peer, public_ip } => {
                write!(
                    f,
                    "{peer} is left out: public IP {public_ip} is not a unicast IPv4 address"
                )
            }
            Self::SubnetTaken {
                peer,
                subnet,
                holder,
                held,
            } if subnet == held => {
                write!(
                    f,
                    "{peer} is left out: subnet {subnet} is held by {holder}, which came first"
                )
            }
            Self::SubnetTaken {
                peer,
                subnet,
                holder,
                held,
            } => write!(
                f,
                "{peer} is left out: subnet {subnet} overlaps {held}, held by {holder}, which came first"
            ),
            Self::MacTaken { peer, mac, holder } => {
                write!(
                    f,
                    "{peer} is left out: VTEP MAC {mac} is held by {holder}, which came first"
                )
            }
            Self::PublicIpTaken {
                peer,
                public_ip,
                holder,
            } => {
                write!(
                    f,
                    "{peer} is left out: public IP {public_ip} is held by {holder}, which came first"
                )
            }
            Self::PublicIpInSubnet {
                peer,
                public_ip,
                owner,
                subnet,
                holder,
            } => write!(
                f,
                "{peer} is left out: public IP {public_ip} of {owner} lies in subnet {subnet} of {holder}, so tunnel \
                 packets would loop"
            ),
        }
    }
}
