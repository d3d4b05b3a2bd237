//! Which steps of a plan depend on one another.
//!
//! A failed step holds back the rest of its group and nothing else: one bad peer never delays the others. Within a
//! group the plan's order is kept, so that what the plan guarantees for every prefix of itself holds for each peer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use overlay_core::action::{Action, Step, Subject};
use overlay_core::model::MacAddr;
use overlay_core::observed::Observed;

/// What a step works on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Group {
    /// The VTEP device: everything depends on it.
    Device,
    /// The eBPF programs and their configuration: the eBPF side of each peer depends on it, the kernel side does not.
    Dataplane,
    /// What the fast path needs of the node besides: nothing but the fast path depends on it.
    Fastpath,
    /// One peer, or several that share an address. The number means nothing outside its plan.
    Peer(usize),
}

/// What connects two steps for the same peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    /// Overlay address: the first of the peer's subnet.
    Overlay(IpAddr),
    /// Address of the peer's VTEP device.
    Mac(MacAddr),
    /// Underlay address.
    Underlay(IpAddr),
}

/// The group of each step, in the order of `steps`. What is there already connects steps too: the removal of a
/// neighbour names no MAC address, and that of a forwarding entry no overlay address.
#[must_use]
pub fn groups(steps: &[Step], observed: &Observed) -> Vec<Group> {
    let mut sets = Sets::default();
    if let Some(device) = &observed.device {
        for neighbour in &device.neighbours {
            if let Some(mac) = neighbour.mac {
                sets.join(&[Key::Overlay(neighbour.address), Key::Mac(mac)]);
            }
        }
        for entry in &device.fdb {
            if let Some(destination) = entry.destination {
                sets.join(&[Key::Mac(entry.mac), Key::Underlay(destination)]);
            }
        }
    }
    for step in steps {
        sets.join(&keys(&step.action));
    }
    steps
        .iter()
        .map(|step| match (keys(&step.action).first(), &step.action) {
            (Some(key), _) => Group::Peer(sets.of(*key)),
            (None, Action::Kernel(_)) => Group::Device,
            (None, Action::Dataplane(_)) => Group::Dataplane,
            (None, Action::SetConntrack(_)) => Group::Fastpath,
        })
        .collect()
}

fn keys(action: &Action) -> Vec<Key> {
    let Subject {
        subnet,
        overlay,
        mac,
        underlay,
    } = action.subject();
    let keys = [
        overlay.map(Key::Overlay),
        subnet.map(|subnet| Key::Overlay(subnet.network())),
        mac.map(Key::Mac),
        underlay.map(Key::Underlay),
    ];
    keys.into_iter().flatten().collect()
}

/// Disjoint sets of keys (union-find with path halving).
#[derive(Default)]
struct Sets {
    index: BTreeMap<Key, usize>,
    parent: Vec<usize>,
}

impl Sets {
    fn join(&mut self, keys: &[Key]) {
        let mut first = None;
        for key in keys {
            let next = self.parent.len();
            let index = *self.index.entry(*key).or_insert(next);
            if index == next {
                self.parent.push(next);
            }
            let root = self.root(index);
            match first {
                None => first = Some(root),
                Some(first) => {
                    if let Some(parent) = self.parent.get_mut(root) {
                        *parent = first;
                    }
                }
            }
        }
    }

    fn of(&mut self, key: Key) -> usize {
        self.index.get(&key).copied().map_or(0, |index| self.root(index))
    }

    fn root(&mut self, mut index: usize) -> usize {
        while let Some(&parent) = self.parent.get(index) {
            if parent == index {
                break;
            }
            let grandparent = self.parent.get(parent).copied().unwrap_or(parent);
            if let Some(slot) = self.parent.get_mut(index) {
                *slot = grandparent;
            }
            index = grandparent;
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use overlay_common::maps::SubnetEntry;
    use overlay_core::action::{DataplaneAction, KernelAction};
    use overlay_core::observed::{Device, FdbEntry, Neighbour};

    use super::*;
    use crate::control::fake::{peer_steps, step};

    #[test]
    fn the_steps_of_a_peer_are_one_group() {
        let mut steps = vec![step(KernelAction::SetDeviceUp)];
        steps.extend(peer_steps(1));
        steps.extend(peer_steps(2));
        steps.push(step(DataplaneAction::Load));
        let groups = groups(&steps, &Observed::default());
        let (one, two) = (groups[1], groups[6]);
        assert_ne!(one, two);
        assert_eq!(groups[0], Group::Device);
        assert_eq!(groups[1..6], [one; 5]);
        assert_eq!(groups[6..11], [two; 5]);
        assert_eq!(groups[11], Group::Dataplane);
    }

    #[test]
    fn what_is_there_connects_the_removals_of_a_peer() {
        let (mac, overlay, vtep) = (
            MacAddr::new([2, 0, 0, 0, 0, 1]),
            [10, 244, 1, 0].into(),
            [192, 168, 0, 1].into(),
        );
        let steps = [
            step(DataplaneAction::RemoveSubnet("10.244.1.0/24".parse().unwrap())),
            step(DataplaneAction::RemovePeer(vtep)),
            step(KernelAction::RemoveFdb {
                mac,
                destination: vtep,
            }),
            step(KernelAction::RemoveNeighbour { address: overlay }),
        ];
        let device = Device {
            ifindex: 7,
            up: true,
            mtu: 1450,
            mac: None,
            alias: None,
            vxlan: None,
            addresses: BTreeSet::new(),
            routes: BTreeSet::new(),
            neighbours: [Neighbour {
                address: overlay,
                mac: Some(mac),
                permanent: true,
            }]
            .into(),
            fdb: [FdbEntry {
                mac,
                destination: Some(vtep),
                permanent: true,
                plain: true,
            }]
            .into(),
        };
        let groups = groups(
            &steps,
            &Observed {
                device: Some(device),
                dataplane: None,
            },
        );
        assert_eq!(groups, [groups[0]; 4]);
    }

    #[test]
    fn a_vtep_that_two_subnets_share_joins_them() {
        let mut steps = peer_steps(1);
        steps.extend(peer_steps(2));
        steps.push(step(DataplaneAction::SetSubnet {
            subnet: "10.244.1.0/24".parse().unwrap(),
            entry: SubnetEntry::new(IpAddr::from([192, 168, 0, 2]).into(), [2, 0, 0, 0, 0, 1]),
        }));
        let groups = groups(&steps, &Observed::default());
        assert!(groups.iter().all(|group| *group == groups[0]), "{groups:?}");
    }
}
