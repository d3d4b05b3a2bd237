//! The fold of lease events: what the source says now, and who said it first.

use std::collections::BTreeMap;

use crate::model::{Lease, LeaseEvent};

/// Every lease that the source reports, by node, with the order in which the nodes first came.
///
/// Two nodes that claim the same subnet, MAC or address cannot both be served; the order makes sure that a newcomer
/// never takes over what a node already holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    complete: bool,
    next: u64,
    nodes: BTreeMap<String, Entry>,
    duplicates: Vec<Duplicate>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    order: u64,
    lease: Lease,
}

/// A node that one complete list named twice. The first lease counts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Duplicate {
    /// Name of the node.
    pub node: String,
    /// Origin of the lease that counts.
    pub kept: String,
    /// Origin of the lease that is ignored.
    pub ignored: String,
}

impl View {
    /// Takes in what the source reports.
    ///
    /// A node keeps its place when its lease changes, and loses it when it is removed or left out of a complete list.
    pub fn apply(&mut self, event: LeaseEvent) {
        match event {
            LeaseEvent::Replace(leases) => self.replace(leases),
            LeaseEvent::Upsert(lease) => self.upsert(lease),
            LeaseEvent::Remove { node } => {
                self.nodes.remove(&node);
                self.duplicates.retain(|duplicate| duplicate.node != node);
            }
        }
    }

    /// Whether a complete list has been seen. Until then nothing may be removed, and nothing is planned.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// The lease of a node.
    #[must_use]
    pub fn get(&self, node: &str) -> Option<&Lease> {
        self.nodes.get(node).map(|entry| &entry.lease)
    }

    /// Every lease, first come first.
    #[must_use]
    pub fn in_order(&self) -> Vec<&Lease> {
        let mut entries: Vec<_> = self.nodes.values().collect();
        entries.sort_by_key(|entry| entry.order);
        entries.into_iter().map(|entry| &entry.lease).collect()
    }

    /// Names of the nodes, sorted.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// Nodes that the last complete list named more than once.
    #[must_use]
    pub fn duplicates(&self) -> &[Duplicate] {
        &self.duplicates
    }

    fn replace(&mut self, leases: Vec<Lease>) {
        let known = std::mem::take(&mut self.nodes);
        self.duplicates.clear();
        self.complete = true;
        for lease in leases {
            if let Some(first) = self.nodes.get(&lease.node) {
                let kept = first.lease.origin.clone();
                self.duplicates.push(Duplicate {
                    node: lease.node,
                    kept,
                    ignored: lease.origin,
                });
                continue;
            }
            let order = match known.get(&lease.node) {
                Some(entry) => entry.order,
                None => self.take_order(),
            };
            self.nodes.insert(lease.node.clone(), Entry { order, lease });
        }
    }

    fn upsert(&mut self, lease: Lease) {
        self.duplicates.retain(|duplicate| duplicate.node != lease.node);
        if let Some(entry) = self.nodes.get_mut(&lease.node) {
            entry.lease = lease;
        } else {
            let order = self.take_order();
            self.nodes.insert(lease.node.clone(), Entry { order, lease });
        }
    }

    fn take_order(&mut self) -> u64 {
        let order = self.next;
        self.next += 1;
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(node: &str, origin: &str) -> Lease {
        Lease {
            node: node.into(),
            origin: origin.into(),
            v4: None,
            v6: None,
        }
    }

    fn order(view: &View) -> Vec<&str> {
        view.in_order()
            .into_iter()
            .map(|lease| lease.node.as_str())
            .collect()
    }

    #[test]
    fn is_complete_after_the_first_list_only() {
        let mut view = View::default();
        view.apply(LeaseEvent::Upsert(lease("a", "1")));
        assert!(!view.complete());
        view.apply(LeaseEvent::Replace(vec![]));
        assert!(view.complete());
        assert_eq!(view.get("a"), None, "a complete list is complete");
    }

    #[test]
    fn nodes_keep_the_order_in_which_they_came() {
        let mut view = View::default();
        view.apply(LeaseEvent::Replace(vec![lease("c", "1"), lease("a", "2")]));
        view.apply(LeaseEvent::Upsert(lease("b", "3")));
        view.apply(LeaseEvent::Upsert(lease("c", "4")));
        assert_eq!(order(&view), ["c", "a", "b"]);
        view.apply(LeaseEvent::Replace(vec![
            lease("e", "5"),
            lease("b", "6"),
            lease("d", "7"),
            lease("c", "8"),
        ]));
        assert_eq!(order(&view), ["c", "b", "e", "d"]);
        assert_eq!(view.get("c").unwrap().origin, "8");
        view.apply(LeaseEvent::Remove { node: "c".into() });
        view.apply(LeaseEvent::Upsert(lease("c", "9")));
        assert_eq!(order(&view), ["b", "e", "d", "c"]);
    }

    #[test]
    fn the_first_of_two_leases_of_a_node_counts_and_both_are_named() {
        let mut view = View::default();
        view.apply(LeaseEvent::Replace(vec![
            lease("a", "one.yaml:2"),
            lease("a", "two.yaml:2"),
        ]));
        assert_eq!(view.get("a").unwrap().origin, "one.yaml:2");
        let duplicate = Duplicate {
            node: "a".into(),
            kept: "one.yaml:2".into(),
            ignored: "two.yaml:2".into(),
        };
        assert_eq!(view.duplicates(), [duplicate]);
        view.apply(LeaseEvent::Upsert(lease("a", "three.yaml:2")));
        assert!(view.duplicates().is_empty());
    }
}
