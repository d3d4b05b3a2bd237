//! The fold of lease events: what the source says now, and who said it first.

mod index;

use std::collections::{BTreeMap, BTreeSet};

use self::index::Index;
use crate::model::{FamilyLease, Lease, LeaseEvent};

/// Every lease that the source reports, by node, with the order in which the nodes first came.
///
/// Two nodes that claim the same subnet, MAC or address cannot both be served; the order makes sure that a newcomer
/// never takes over what a node already holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    complete: bool,
    next: Rank,
    leases: BTreeMap<Rank, Lease>,
    ranks: BTreeMap<String, Rank>,
    index: Index,
    duplicates: Vec<Duplicate>,
}

/// A node's place in the order in which the nodes first came: the lower keeps what both claim. None is given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Rank(u64);

impl Rank {
    const FIRST: Self = Self(0);
    const LAST: Self = Self(u64::MAX);
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

/// What an event changed in a [`View`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The source said what it had said before.
    Nothing,
    /// The lease of one node, and nothing else.
    Node {
        /// Name of the node.
        node: String,
        /// What it was before, and the node's place; `None` when there was none.
        before: Option<(Rank, Lease)>,
    },
    /// More than that.
    Everything,
}

impl View {
    /// Takes in what the source reports, and says what is different now.
    ///
    /// A node keeps its place when its lease changes, and loses it when it is removed or left out of a complete list.
    pub fn apply(&mut self, event: LeaseEvent) -> Change {
        match event {
            LeaseEvent::Replace(leases) => {
                self.replace(leases);
                Change::Everything
            }
            LeaseEvent::Upsert(lease) => self.upsert(lease),
            LeaseEvent::Remove { node } => self.remove(node),
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
        self.at(self.rank(node)?)
    }

    /// Every lease, first come first.
    pub fn in_order(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// Names of the nodes, sorted.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.ranks.keys().map(String::as_str)
    }

    /// Nodes that the last complete list named more than once.
    #[must_use]
    pub fn duplicates(&self) -> &[Duplicate] {
        &self.duplicates
    }

    /// The place of a node.
    #[must_use]
    pub fn rank(&self, node: &str) -> Option<Rank> {
        self.ranks.get(node).copied()
    }

    /// The lease of the node with this place.
    #[must_use]
    pub fn at(&self, rank: Rank) -> Option<&Lease> {
        self.leases.get(&rank)
    }

    /// The places of the leases whose IPv4 side cannot be served together with `claim`, the one that makes this claim
    /// among them; `None` when there are more than `limit`. Costs O(log n) for each that it finds.
    #[must_use]
    pub fn conflicts(&self, claim: &FamilyLease, limit: usize) -> Option<BTreeSet<Rank>> {
        self.index.conflicts(claim, limit)
    }

    /// This view with the leases of these places only.
    #[must_use]
    pub fn restricted(&self, ranks: &BTreeSet<Rank>) -> Self {
        let mut view = Self {
            complete: self.complete,
            next: self.next,
            ..Self::default()
        };
        for rank in ranks {
            if let Some(lease) = self.leases.get(rank) {
                view.insert(*rank, lease.clone());
            }
        }
        view
    }

    fn replace(&mut self, leases: Vec<Lease>) {
        let known = std::mem::take(&mut self.ranks);
        self.leases.clear();
        self.index = Index::default();
        self.duplicates.clear();
        self.complete = true;
        for lease in leases {
            if let Some(first) = self.get(&lease.node) {
                let kept = first.origin.clone();
                self.duplicates.push(Duplicate {
                    node: lease.node,
                    kept,
                    ignored: lease.origin,
                });
                continue;
            }
            let rank = match known.get(&lease.node) {
                Some(rank) => *rank,
                None => self.take_rank(),
            };
            self.insert(rank, lease);
        }
    }

    fn upsert(&mut self, lease: Lease) -> Change {
        let was_duplicate = self.forget_duplicates(&lease.node);
        let node = lease.node.clone();
        let before = match self.ranks.get(&node).copied() {
            Some(rank) if self.leases.get(&rank) == Some(&lease) && !was_duplicate => return Change::Nothing,
            Some(rank) => {
                let before = self.take(rank);
                self.insert(rank, lease);
                before
            }
            None => {
                let rank = self.take_rank();
                self.insert(rank, lease);
                None
            }
        };
        changed(node, before, was_duplicate)
    }

    fn remove(&mut self, node: String) -> Change {
        let was_duplicate = self.forget_duplicates(&node);
        match self.rank(&node).and_then(|rank| self.take(rank)) {
            Some(before) => changed(node, Some(before), was_duplicate),
            None => Change::Nothing,
        }
    }

    /// Whether there were any.
    fn forget_duplicates(&mut self, node: &str) -> bool {
        let before = self.duplicates.len();
        self.duplicates.retain(|duplicate| duplicate.node != node);
        self.duplicates.len() != before
    }

    fn insert(&mut self, rank: Rank, lease: Lease) {
        self.index.insert(rank, &lease);
        self.ranks.insert(lease.node.clone(), rank);
        self.leases.insert(rank, lease);
    }

    fn take(&mut self, rank: Rank) -> Option<(Rank, Lease)> {
        let lease = self.leases.remove(&rank)?;
        self.index.remove(rank, &lease);
        self.ranks.remove(&lease.node);
        Some((rank, lease))
    }

    fn take_rank(&mut self) -> Rank {
        let Rank(next) = self.next;
        self.next = Rank(next + 1);
        Rank(next)
    }
}

fn changed(node: String, before: Option<(Rank, Lease)>, was_duplicate: bool) -> Change {
    if was_duplicate {
        return Change::Everything;
    }
    Change::Node { node, before }
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
        view.in_order().map(|lease| lease.node.as_str()).collect()
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

    #[test]
    fn says_what_an_event_changed() {
        let mut view = View::default();
        let twice = vec![lease("a", "1"), lease("b", "1"), lease("b", "2")];
        assert_eq!(view.apply(LeaseEvent::Replace(twice)), Change::Everything);
        assert_eq!(view.apply(LeaseEvent::Upsert(lease("a", "1"))), Change::Nothing);
        let before = Some((view.rank("a").unwrap(), lease("a", "1")));
        let node = |node: &str, before| Change::Node {
            node: node.into(),
            before,
        };
        assert_eq!(view.apply(LeaseEvent::Upsert(lease("a", "2"))), node("a", before));
        assert_eq!(view.apply(LeaseEvent::Upsert(lease("c", "1"))), node("c", None));
        let gone = |node: &str| LeaseEvent::Remove { node: node.into() };
        let before = Some((view.rank("c").unwrap(), lease("c", "1")));
        assert_eq!(view.apply(gone("c")), node("c", before));
        assert_eq!(view.apply(gone("c")), Change::Nothing);
        // A problem that is no lease's of its own ends with it.
        assert_eq!(view.apply(gone("b")), Change::Everything);
    }
}
