//! Leases: which node has which pod subnet, as the agent's file source reads them.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::packet::Mac;

/// One node's lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Name of the node.
    pub node: String,
    /// First address of the pod subnet; the prefix has 24 bits.
    pub subnet: Ipv4Addr,
    /// Underlay address of the VTEP.
    pub public_ip: Ipv4Addr,
    /// MAC address of the VTEP device.
    pub vtep_mac: Mac,
}

impl Lease {
    /// The lease of node `index` of a testbed, reached at `public_ip`.
    #[must_use]
    pub fn of_node(index: u8, public_ip: Ipv4Addr) -> Self {
        Self {
            node: format!("node-{index}"),
            subnet: Ipv4Addr::new(10, 244, index, 0),
            public_ip,
            vtep_mac: Mac([0x02, 0, 0, 0, 0, index]),
        }
    }
}

/// A list of leases, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leases {
    entries: Vec<Lease>,
}

impl Leases {
    /// The leases in the order in which they joined.
    #[must_use]
    pub fn entries(&self) -> &[Lease] {
        &self.entries
    }

    /// Adds `lease`, in place of one with the same node name.
    pub fn join(&mut self, lease: Lease) {
        match self.entries.iter_mut().find(|entry| entry.node == lease.node) {
            Some(entry) => *entry = lease,
            None => self.entries.push(lease),
        }
    }

    /// Removes the lease of `node`, if there is one.
    pub fn leave(&mut self, node: &str) {
        self.entries.retain(|entry| entry.node != node);
    }

    /// The file that the agent reads.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        if self.entries.is_empty() {
            return "leases: []\n".to_owned();
        }
        let mut text = "leases:\n".to_owned();
        for Lease {
            node,
            subnet,
            public_ip,
            vtep_mac,
        } in &self.entries
        {
            // Writing to a String cannot fail.
            write!(
                text,
                "  - node: {node}\n    subnet: {subnet}/24\n    publicIP: {public_ip}\n    vtepMAC: {vtep_mac}\n"
            )
            .ok();
        }
        text
    }
}

impl FromIterator<Lease> for Leases {
    fn from_iter<I: IntoIterator<Item = Lease>>(leases: I) -> Self {
        Self {
            entries: leases.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejoining_node_replaces_its_lease() {
        let mut leases: Leases = (1..=2)
            .map(|index| Lease::of_node(index, Ipv4Addr::new(192, 168, 0, index)))
            .collect();
        leases.join(Lease::of_node(1, Ipv4Addr::new(192, 168, 0, 9)));
        leases.leave("node-2");
        assert_eq!(
            leases.to_yaml(),
            "leases:\n  - node: node-1\n    subnet: 10.244.1.0/24\n    publicIP: 192.168.0.9\n    \
             vtepMAC: 02:00:00:00:00:01\n"
        );
    }

    #[test]
    fn nobody_is_an_empty_list() {
        assert_eq!(Leases::default().to_yaml(), "leases: []\n");
    }
}
