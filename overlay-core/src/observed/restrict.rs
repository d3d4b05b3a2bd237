//! The part of an observation that a few peers have to do with.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Device, Observed, ObservedDataplane, entries};
use crate::action::Subject;
use crate::model::{FamilyLease, MacAddr};

/// Under which keys some leases have their entries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Keys {
    /// Pod subnets: routes and `SUBNETS` entries.
    pub subnets: BTreeSet<IpNet>,
    /// First addresses of the subnets: neighbours.
    pub gateways: BTreeSet<IpAddr>,
    /// VTEP devices: forwarding entries.
    pub macs: BTreeSet<MacAddr>,
    /// Underlay addresses: `PEERS` entries.
    pub vteps: BTreeSet<IpAddr>,
}

impl Keys {
    /// Adds those of a lease, whose subnet has no host bits.
    pub fn add(&mut self, claim: &FamilyLease) {
        self.subnets.insert(claim.subnet);
        self.gateways.insert(claim.subnet.network());
        self.macs.insert(claim.vtep_mac);
        self.vteps.insert(claim.public_ip);
    }

    /// Whether an action with this subject works on one of them.
    #[must_use]
    pub fn concern(&self, subject: &Subject) -> bool {
        let Subject {
            subnet,
            overlay,
            mac,
            underlay,
        } = subject;
        subnet.is_some_and(|subnet| self.subnets.contains(&subnet))
            || overlay.is_some_and(|overlay| self.gateways.contains(&overlay))
            || mac.is_some_and(|mac| self.macs.contains(&mac))
            || underlay.is_some_and(|underlay| self.vteps.contains(&underlay))
    }
}

impl Observed {
    /// What there is under `keys`, and everything that is no peer's: the device itself, its addresses, the
    /// configuration, and where programs are attached. Costs O(log n) for each key.
    #[must_use]
    pub fn restricted(&self, keys: &Keys) -> Self {
        Self {
            device: self.device.as_ref().map(|device| device.restricted(keys)),
            dataplane: self.dataplane.as_ref().map(|maps| maps.restricted(keys)),
        }
    }
}

impl Device {
    fn restricted(&self, keys: &Keys) -> Self {
        Self {
            ifindex: self.ifindex,
            up: self.up,
            mtu: self.mtu,
            mac: self.mac,
            alias: self.alias.clone(),
            vxlan: self.vxlan.clone(),
            addresses: self.addresses.clone(),
            routes: keys
                .subnets
                .iter()
                .flat_map(|subnet| entries::routes_to(self, *subnet))
                .cloned()
                .collect(),
            neighbours: keys
                .gateways
                .iter()
                .filter_map(|gateway| entries::neighbour(self, *gateway))
                .cloned()
                .collect(),
            fdb: keys
                .macs
                .iter()
                .flat_map(|mac| entries::destinations(self, *mac))
                .cloned()
                .collect(),
        }
    }
}

impl ObservedDataplane {
    fn restricted(&self, keys: &Keys) -> Self {
        Self {
            compatible: self.compatible,
            config: self.config,
            subnets: keys
                .subnets
                .iter()
                .filter_map(|subnet| Some((*subnet, *self.subnets.get(subnet)?)))
                .collect(),
            peers: keys
                .vteps
                .iter()
                .filter_map(|vtep| Some((*vtep, *self.peers.get(vtep)?)))
                .collect(),
            attached: self.attached.clone(),
            missing: self.missing.clone(),
        }
    }
}
