//! Who holds which subnet, MAC and underlay address: first come keeps it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::{Peer, Problem, Who};
use crate::model::{FamilyLease, Lease, MacAddr, can_be_vtep};

/// What has been given away so far. Each question costs O(log n).
pub(super) struct Claims<'l> {
    /// By first address. Entries never overlap.
    subnets: BTreeMap<IpAddr, (IpNet, &'l Lease)>,
    macs: BTreeMap<MacAddr, &'l Lease>,
    public_ips: BTreeMap<IpAddr, &'l Lease>,
}

/// Whether `subnet` is part of the cluster's network.
pub(super) fn inside(network: Ipv4Net, subnet: IpNet) -> bool {
    match subnet {
        IpNet::V4(subnet) => network.contains(&subnet),
        IpNet::V6(_) => false,
    }
}

/// What a lease claims of the overlay, if it makes sense by itself, whatever others claim.
pub(crate) fn claim(lease: &Lease, network: Ipv4Net) -> Result<FamilyLease, Box<Problem>> {
    let peer = || Who::from(lease);
    let Some(FamilyLease {
        subnet,
        public_ip,
        vtep_mac,
    }) = lease.v4
    else {
        return Err(Box::new(Problem::NotIpv4 { peer: peer() }));
    };
    let subnet = subnet.trunc();
    if !inside(network, subnet) {
        return Err(Box::new(Problem::OutsideNetwork {
            peer: peer(),
            subnet,
            network,
        }));
    }
    if !vtep_mac.is_unicast() {
        return Err(Box::new(Problem::UnusableMac {
            peer: peer(),
            mac: vtep_mac,
        }));
    }
    if !can_be_vtep(public_ip) {
        return Err(Box::new(Problem::UnusablePublicIp {
            peer: peer(),
            public_ip,
        }));
    }
    if subnet.contains(&public_ip) {
        return Err(Box::new(Problem::PublicIpInSubnet {
            peer: peer(),
            public_ip,
            owner: peer(),
            subnet,
            holder: peer(),
        }));
    }
    Ok(FamilyLease {
        subnet,
        public_ip,
        vtep_mac,
    })
}

impl<'l> Claims<'l> {
    /// This node comes first, whatever the order: it cannot give up what it already uses.
    pub(super) fn of_own_node(own: &'l Lease, family: &FamilyLease, underlay: IpAddr) -> Self {
        Self {
            subnets: BTreeMap::from([(family.subnet.network(), (family.subnet, own))]),
            macs: BTreeMap::from([(family.vtep_mac, own)]),
            // Behind address translation the node has two.
            public_ips: BTreeMap::from([(family.public_ip, own), (underlay, own)]),
        }
    }

    /// Takes a peer in, if it wants nothing that another lease holds. A refused peer claims nothing.
    pub(super) fn admit(
        &mut self,
        lease: &'l Lease,
        network: Ipv4Net,
    ) -> Result<(IpNet, Peer), Box<Problem>> {
        let FamilyLease {
            subnet,
            public_ip,
            vtep_mac: mac,
        } = claim(lease, network)?;
        let peer = || Who::from(lease);
        if let Some((held, holder)) = self.overlapping(subnet) {
            return Err(Box::new(Problem::SubnetTaken {
                peer: peer(),
                subnet,
                holder: Who::from(*holder),
                held: *held,
            }));
        }
        if let Some(holder) = self.macs.get(&mac) {
            return Err(Box::new(Problem::MacTaken {
                peer: peer(),
                mac,
                holder: Who::from(*holder),
            }));
        }
        if let Some(holder) = self.public_ips.get(&public_ip) {
            return Err(Box::new(Problem::PublicIpTaken {
                peer: peer(),
                public_ip,
                holder: Who::from(*holder),
            }));
        }
        if let Some((held, holder)) = self.overlapping(IpNet::from(public_ip)) {
            return Err(Box::new(Problem::PublicIpInSubnet {
                peer: peer(),
                public_ip,
                owner: peer(),
                subnet: *held,
                holder: Who::from(*holder),
            }));
        }
        if let Some((address, owner)) = self
            .public_ips
            .range(subnet.network()..=subnet.broadcast())
            .next()
        {
            return Err(Box::new(Problem::PublicIpInSubnet {
                peer: peer(),
                public_ip: *address,
                owner: Who::from(*owner),
                subnet,
                holder: peer(),
            }));
        }
        self.subnets.insert(subnet.network(), (subnet, lease));
        self.macs.insert(mac, lease);
        self.public_ips.insert(public_ip, lease);
        let gateway = subnet.network();
        Ok((
            subnet,
            Peer {
                node: lease.node.clone(),
                gateway,
                public_ip,
                vtep_mac: mac,
            },
        ))
    }

    /// A claimed subnet that shares an address with `subnet`. Claimed subnets are disjoint, so one that begins at or
    /// before the end of `subnet` and overlaps it can only be the last of these.
    fn overlapping(&self, subnet: IpNet) -> Option<&(IpNet, &'l Lease)> {
        let (_, last) = self.subnets.range(..=subnet.broadcast()).next_back()?;
        let (held, _) = last;
        (held.contains(&subnet) || subnet.contains(held)).then_some(last)
    }
}
