//! How the leases stand: which are served, and why the others are not.

use std::collections::BTreeMap;

use super::Focus;
use crate::desired::{Desired, Problem};
use crate::view::{Rank, View};

/// What the last plan says of every lease, kept up to date by focused ones.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// What is wrong besides leases that are left out.
    general: Vec<Problem>,
    /// Why leases are left out, by place.
    refused: BTreeMap<Rank, Problem>,
    /// How many are served.
    peers: usize,
}

/// What a focused plan says that the plans before did not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verdicts {
    /// Problems that are no longer there.
    pub over: Vec<Problem>,
    /// Problems that are new.
    pub new: Vec<Problem>,
    judged: Vec<Rank>,
    refused: BTreeMap<Rank, Problem>,
    peers: usize,
}

impl Standing {
    /// By a plan that was made from all of `view`.
    #[must_use]
    pub fn new(view: &View, desired: &Desired) -> Self {
        let mut standing = Self {
            peers: desired.peers.len(),
            ..Self::default()
        };
        for problem in &desired.problems {
            match rank(view, problem) {
                Some(rank) => drop(standing.refused.insert(rank, problem.clone())),
                None => standing.general.push(problem.clone()),
            }
        }
        standing
    }

    /// How many leases of other nodes are served.
    #[must_use]
    pub const fn peers(&self) -> usize {
        self.peers
    }

    /// Everything that is wrong: with the node or the list first, then with leases, first come first.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.general.iter().chain(self.refused.values())
    }

    /// What `desired`, made from the view of `focus`, changes.
    #[must_use]
    pub fn verdicts(&self, focus: &Focus, desired: &Desired) -> Verdicts {
        let refused: BTreeMap<_, _> = desired
            .problems
            .iter()
            .filter_map(|problem| Some((rank(&focus.view, problem)?, problem.clone())))
            .collect();
        let mut verdicts = Verdicts {
            judged: focus.judged.iter().copied().collect(),
            peers: (self.peers + desired.peers.len()).saturating_sub(focus.fixed + focus.served_before),
            ..Verdicts::default()
        };
        for rank in &focus.judged {
            let (old, new) = (self.refused.get(rank), refused.get(rank));
            if old != new {
                verdicts.over.extend(old.cloned());
                verdicts.new.extend(new.cloned());
            }
        }
        // A node that left and came back has another place and the same problem.
        let again: Vec<_> = verdicts
            .over
            .iter()
            .filter(|over| verdicts.new.contains(over))
            .cloned()
            .collect();
        verdicts.over.retain(|problem| !again.contains(problem));
        verdicts.new.retain(|problem| !again.contains(problem));
        verdicts.refused = refused;
        verdicts
    }

    /// Takes over what a focused plan says.
    pub fn update(&mut self, verdicts: Verdicts) {
        for rank in &verdicts.judged {
            self.refused.remove(rank);
        }
        self.refused.extend(verdicts.refused);
        self.peers = verdicts.peers;
    }

    pub(super) fn refused(&self, rank: Rank) -> Option<&Problem> {
        self.refused.get(&rank)
    }

    pub(super) fn is_refused(&self, rank: Rank) -> bool {
        self.refused.contains_key(&rank)
    }
}

impl Verdicts {
    /// How many leases of other nodes are served now.
    #[must_use]
    pub const fn peers(&self) -> usize {
        self.peers
    }
}

/// The place of the lease that a problem is about.
fn rank(view: &View, problem: &Problem) -> Option<Rank> {
    view.rank(&problem.peer()?.node)
}
