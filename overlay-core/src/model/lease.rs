//! Leases: which node carries which pod subnet, and how its VTEP is reached.

use std::net::IpAddr;

use ipnet::IpNet;

use super::MacAddr;

/// What one node says of itself, in flannel's terms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Name of the node: the identity of the lease.
    pub node: String,
    /// Where the lease was read, for messages: `leases.yaml:12`, `Node worker-7`.
    pub origin: String,
    /// IPv4 pods over an IPv4 underlay.
    pub v4: Option<FamilyLease>,
    /// IPv6 pods over an IPv6 underlay.
    pub v6: Option<FamilyLease>,
}

/// One address family of a [`Lease`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FamilyLease {
    /// The node's pod subnet (`podCIDR`), host bits clear.
    pub subnet: IpNet,
    /// Underlay address of the node's VTEP (`public-ip`), same family as `subnet`.
    pub public_ip: IpAddr,
    /// MAC address of the node's VTEP device (`VtepMAC`).
    pub vtep_mac: MacAddr,
}

impl Lease {
    /// Both families that the lease has, IPv4 first.
    pub fn families(&self) -> impl Iterator<Item = &FamilyLease> {
        self.v4.iter().chain(self.v6.iter())
    }
}

/// What a lease source reports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseEvent {
    /// The complete list, in the source's order: whatever is not in it is gone.
    Replace(Vec<Lease>),
    /// A node's lease is new or has changed.
    Upsert(Lease),
    /// A node's lease is gone.
    Remove {
        /// Name of the node.
        node: String,
    },
}

/// Whether an address can be one VTEP's: IPv4, unicast, and neither "this network" (RFC 1122 §3.2.1.3) nor loopback.
#[must_use]
pub fn can_be_vtep(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first != 0 && !v4.is_loopback() && !v4.is_multicast() && !v4.is_broadcast()
        }
        IpAddr::V6(_) => false,
    }
}
