//! Finding the leases that claim the same without looking at all of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Rank;
use crate::model::{FamilyLease, Lease, MacAddr};

/// What the IPv4 sides of the leases claim.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Index {
    subnets: BTreeSet<(IpNet, Rank)>,
    macs: BTreeSet<(MacAddr, Rank)>,
    public_ips: BTreeSet<(IpAddr, Rank)>,
}

impl Index {
    pub(super) fn insert(&mut self, rank: Rank, lease: &Lease) {
        if let Some(claim) = &lease.v4 {
            self.subnets.insert((claim.subnet.trunc(), rank));
            self.macs.insert((claim.vtep_mac, rank));
            self.public_ips.insert((claim.public_ip, rank));
        }
    }

    pub(super) fn remove(&mut self, rank: Rank, lease: &Lease) {
        if let Some(claim) = &lease.v4 {
            self.subnets.remove(&(claim.subnet.trunc(), rank));
            self.macs.remove(&(claim.vtep_mac, rank));
            self.public_ips.remove(&(claim.public_ip, rank));
        }
    }

    pub(super) fn conflicts(&self, claim: &FamilyLease, limit: usize) -> Option<BTreeSet<Rank>> {
        let subnet = claim.subnet.trunc();
        let mut found = BTreeSet::new();
        let within = self
            .subnets
            .range((subnet, Rank::FIRST)..)
            .take_while(|(other, _)| subnet.contains(other));
        take(&mut found, within, limit)?;
        for around in supernets(subnet) {
            take(&mut found, all(&self.subnets, around, around), limit)?;
        }
        let address = IpNet::from(claim.public_ip);
        for around in supernets(address).chain([address]) {
            take(&mut found, all(&self.subnets, around, around), limit)?;
        }
        take(&mut found, all(&self.macs, claim.vtep_mac, claim.vtep_mac), limit)?;
        take(
            &mut found,
            all(&self.public_ips, claim.public_ip, claim.public_ip),
            limit,
        )?;
        take(
            &mut found,
            all(&self.public_ips, subnet.network(), subnet.broadcast()),
            limit,
        )?;
        Some(found)
    }
}

/// Every shorter prefix of `subnet`.
fn supernets(subnet: IpNet) -> impl Iterator<Item = IpNet> {
    (0..subnet.prefix_len())
        .filter_map(move |length| IpNet::new(subnet.network(), length).ok())
        .map(|around| around.trunc())
}

/// The entries with a key from `low` to `high`.
fn all<K: Ord + Copy>(entries: &BTreeSet<(K, Rank)>, low: K, high: K) -> impl Iterator<Item = &(K, Rank)> {
    entries.range((low, Rank::FIRST)..=(high, Rank::LAST))
}

/// `None` once there are more than `limit`.
fn take<'e, K: 'e>(
    found: &mut BTreeSet<Rank>,
    entries: impl Iterator<Item = &'e (K, Rank)>,
    limit: usize,
) -> Option<()> {
    for (_, rank) in entries {
        found.insert(*rank);
        if found.len() > limit {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(subnet: &str, public_ip: &str, mac: u8) -> FamilyLease {
        FamilyLease {
            subnet: subnet.parse().unwrap(),
            public_ip: public_ip.parse().unwrap(),
            vtep_mac: MacAddr::new([2, 0, 0, 0, 0, mac]),
        }
    }

    fn index(claims: &[FamilyLease]) -> Index {
        let mut index = Index::default();
        for (rank, claim) in (0..).zip(claims) {
            index.insert(Rank(rank), &lease(*claim));
        }
        index
    }

    fn lease(claim: FamilyLease) -> Lease {
        Lease {
            node: String::new(),
            origin: String::new(),
            v4: Some(claim),
            v6: None,
        }
    }

    #[test]
    fn finds_each_kind_of_conflict_and_nothing_else() {
        let claims = [
            claim("10.0.1.0/24", "192.168.0.1", 1),
            claim("10.0.0.0/16", "192.168.0.2", 2),
            claim("10.0.1.128/25", "192.168.0.3", 3),
            claim("10.0.2.0/24", "192.168.0.4", 1),
            claim("10.0.3.0/24", "192.168.0.1", 5),
            claim("10.0.4.0/24", "10.0.1.7", 6),
            claim("192.168.0.0/24", "172.16.0.1", 7),
            claim("10.0.5.0/24", "192.168.1.1", 8),
            claim("10.0.0.0/24", "192.168.1.2", 9),
        ];
        let mut index = index(&claims);
        let found = |index: &Index, limit| {
            let found = index.conflicts(&claims[0], limit)?;
            Some(found.into_iter().map(|Rank(rank)| rank).collect::<Vec<_>>())
        };
        assert_eq!(found(&index, 7), Some(vec![0, 1, 2, 3, 4, 5, 6]));
        assert_eq!(found(&index, 6), None);
        for (rank, claim) in (0..).zip(&claims) {
            index.remove(Rank(rank), &lease(*claim));
        }
        assert_eq!(index, Index::default());
    }
}
