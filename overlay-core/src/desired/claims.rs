//! Who holds which subnet, MAC and underlay address: first come keeps it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::{Peer, Problem, Who};
use crate::model::{FamilyLease, Lease, MacAddr, can_be_vtep};

/// What has been given away so far. Each question costs O(log n).
pub(super) struct Claims {
    /// By first address. Entries never overlap.
    subnets: BTreeMap<IpAddr, (IpNet, Who)>,
    macs: BTreeMap<MacAddr, Who>,
    public_ips: BTreeMap<IpAddr, Who>,
}

/// Whether `subnet` is part of the cluster's network.
pub(super) fn inside(network: Ipv4Net, subnet: IpNet) -> bool {
    match subnet {
        IpNet::V4(subnet) => network.contains(&subnet),
        IpNet::V6(_) => false,
    }
}

impl Claims {
    /// This node comes first, whatever the order: it cannot give up what it already uses.
    pub(super) fn of_own_node(own: &Lease, family: &FamilyLease, underlay: IpAddr) -> Self {
        let who = Who::from(own);
        Self {
            subnets: BTreeMap::from([(family.subnet.network(), (family.subnet, who.clone()))]),
            macs: BTreeMap::from([(family.vtep_mac, who.clone())]),
            // Behind address translation the node has two.
            public_ips: BTreeMap::from([(family.public_ip, who.clone()), (underlay, who)]),
        }
    }

    /// Takes a peer in, if it wants nothing that another lease holds. A refused peer claims nothing.
    pub(super) fn admit(&mut self, lease: &Lease, network: Ipv4Net) -> Result<(IpNet, Peer), Box<Problem>> {
        let peer = Who::from(lease);
        let Some(FamilyLease {
            subnet,
            public_ip,
            vtep_mac: mac,
        }) = lease.v4
        else {
            return Err(Box::new(Problem::NotIpv4 { peer }));
        };
        let subnet = subnet.trunc();
        if !inside(network, subnet) {
            return Err(Box::new(Problem::OutsideNetwork {
                peer,
                subnet,
                network,
            }));
        }
        if !mac.is_unicast() {
            return Err(Box::new(Problem::UnusableMac { peer, mac }));
        }
        if !can_be_vtep(public_ip) {
            return Err(Box::new(Problem::UnusablePublicIp { peer, public_ip }));
        }
        if let Some((held, holder)) = self.overlapping(subnet) {
            return Err(Box::new(Problem::SubnetTaken {
                peer,
                subnet,
                holder: holder.clone(),
                held: *held,
            }));
        }
        if let Some(holder) = self.macs.get(&mac) {
            return Err(Box::new(Problem::MacTaken {
                peer,
                mac,
                holder: holder.clone(),
            }));
        }
        if let Some(holder) = self.public_ips.get(&public_ip) {
            return Err(Box::new(Problem::PublicIpTaken {
                peer,
                public_ip,
                holder: holder.clone(),
            }));
        }
        if subnet.contains(&public_ip) {
            return Err(Box::new(Problem::PublicIpInSubnet {
                peer: peer.clone(),
                public_ip,
                owner: peer.clone(),
                subnet,
                holder: peer,
            }));
        }
        if let Some((held, holder)) = self.overlapping(IpNet::from(public_ip)) {
            let (subnet, holder) = (*held, holder.clone());
            return Err(Box::new(Problem::PublicIpInSubnet {
                peer: peer.clone(),
                public_ip,
                owner: peer,
                subnet,
                holder,
            }));
        }
        if let Some((address, owner)) = self
            .public_ips
            .range(subnet.network()..=subnet.broadcast())
            .next()
        {
            let (public_ip, owner) = (*address, owner.clone());
            return Err(Box::new(Problem::PublicIpInSubnet {
                peer: peer.clone(),
                public_ip,
                owner,
                subnet,
                holder: peer,
            }));
        }
        self.subnets.insert(subnet.network(), (subnet, peer.clone()));
        self.macs.insert(mac, peer.clone());
        self.public_ips.insert(public_ip, peer);
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
    fn overlapping(&self, subnet: IpNet) -> Option<&(IpNet, Who)> {
        let (_, last) = self.subnets.range(..=subnet.broadcast()).next_back()?;
        let (held, _) = last;
        (held.contains(&subnet) || subnet.contains(held)).then_some(last)
    }
}
