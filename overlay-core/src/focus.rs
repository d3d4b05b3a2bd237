//! What a few changed leases can have to do with: the part of a view and the part of an observation in which planning
//! gives the same steps as in all of it.
//!
//! Whether a lease is served depends on the served leases that came before it and claim something of what it claims
//! ([`crate::desired`]). So a change can only reach what conflicts with the changed lease, as it was or as it is, came
//! later, and was served or was left out because of a lease that the change reaches; and so on from there. Everything
//! else stays, and of that only the leases that *decide* about reached ones need to be known. A node whose lease
//! collides with the whole cluster's is left out because of one other, so it makes nobody else's changes expensive.

mod plan;
mod standing;

use std::collections::{BTreeMap, BTreeSet};

pub use self::plan::{Baseline, FocusedPlan, is_about_peers, plan};
pub use self::standing::{Standing, Verdicts};
use crate::desired::claim;
use crate::model::{FamilyLease, Lease, Settings};
use crate::observed::Keys;
use crate::view::{Change, Rank, View};

/// The nodes whose leases have changed since the last plan, and what each was in that plan.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    nodes: BTreeMap<String, Option<(Rank, Lease)>>,
    everything: bool,
}

/// The part of a view that decides about some changed leases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Focus {
    /// The own lease, those that the change may reach, and those that decide about these.
    pub view: View,
    /// Where the kernel and the maps hold something of these.
    pub keys: Keys,
    /// Places about which the plan says something new: of the changed leases as they were, and of all that are reached.
    judged: BTreeSet<Rank>,
    /// How many of them were served before.
    served_before: usize,
    /// How many leases of the view, without the own one, are served before and after.
    fixed: usize,
}

impl Changes {
    /// Takes note of what an event changed in the view.
    pub fn add(&mut self, change: Change) {
        match change {
            Change::Nothing => {}
            // What it was in between was never planned.
            Change::Node { node, before } => drop(self.nodes.entry(node).or_insert(before)),
            Change::Everything => self.everything = true,
        }
    }

    /// Whether nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && !self.everything
    }

    /// Whether the lease of `node` may be among them.
    #[must_use]
    pub fn may_concern(&self, node: &str) -> bool {
        self.everything || self.nodes.contains_key(node)
    }

    /// How many nodes have changed, if that can be told.
    #[must_use]
    pub fn len(&self) -> Option<usize> {
        (!self.everything).then_some(self.nodes.len())
    }
}

/// What `changes`, which led to `view`, can have to do with; `standing` is how the leases stood before. Costs O(log n) for
/// each lease that is reached.
///
/// `None` when everything must be looked at: the own lease has changed, or there are more than `limit` leases to look at.
#[must_use]
pub fn focus(
    view: &View,
    standing: &Standing,
    changes: &Changes,
    settings: &Settings,
    limit: usize,
) -> Option<Focus> {
    if changes.everything || !view.complete() || changes.nodes.contains_key(&settings.node) {
        return None;
    }
    let mut search = Search {
        own: view.rank(&settings.node)?,
        view,
        standing,
        changes,
        settings,
        limit,
        reached: BTreeSet::new(),
        fixed: BTreeSet::new(),
        refused: BTreeSet::new(),
        queue: Vec::new(),
        keys: Keys::default(),
    };
    let mut judged = BTreeSet::new();
    let mut served_before = 0;
    for (node, before) in &changes.nodes {
        if let Some((rank, lease)) = before {
            judged.insert(*rank);
            if !standing.is_refused(*rank) {
                served_before += 1;
                search.claim(*rank, lease);
            }
        }
        if let Some(rank) = view.rank(node) {
            search.reached.insert(rank);
            search.claim(rank, view.at(rank)?);
        }
    }
    search.run()?;
    let Search {
        reached,
        fixed,
        refused,
        keys,
        own,
        ..
    } = search;
    let others = reached.iter().filter(|rank| {
        view.at(**rank)
            .is_some_and(|lease| !changes.nodes.contains_key(&lease.node))
    });
    served_before += others.filter(|rank| !standing.is_refused(**rank)).count();
    judged.extend(reached.iter().chain(&refused));
    let mut ranks: BTreeSet<_> = judged.union(&fixed).copied().collect();
    ranks.insert(own);
    Some(Focus {
        view: view.restricted(&ranks),
        keys,
        judged,
        served_before,
        fixed: fixed.len(),
    })
}

struct Search<'s> {
    own: Rank,
    view: &'s View,
    standing: &'s Standing,
    changes: &'s Changes,
    settings: &'s Settings,
    limit: usize,
    /// Leases that may be served now and were not, or the other way round.
    reached: BTreeSet<Rank>,
    /// Leases that are served whatever becomes of the reached ones, and decide about some of them.
    fixed: BTreeSet<Rank>,
    /// Leases that stay refused, perhaps for another reason.
    refused: BTreeSet<Rank>,
    /// Claims that may come or go.
    queue: Vec<(Rank, FamilyLease)>,
    keys: Keys,
}

impl Search<'_> {
    fn run(&mut self) -> Option<()> {
        while let Some((rank, claim)) = self.queue.pop() {
            for other in self.view.conflicts(&claim, self.limit)? {
                self.meet(rank, other)?;
            }
            if self.reached.len() + self.fixed.len() + self.refused.len() > self.limit {
                return None;
            }
        }
        Some(())
    }

    /// Looks at a lease that conflicts with a claim of the node at `rank`.
    fn meet(&mut self, rank: Rank, other: Rank) -> Option<()> {
        if other == self.own || self.reached.contains(&other) {
            return Some(());
        }
        let lease = self.view.at(other)?;
        match self.standing.refused(other) {
            None if other < rank => self.fix(other, lease),
            None => self.reach(other, lease),
            // It claims nothing.
            Some(_) if other < rank => {}
            Some(problem) => match problem.rival() {
                // It is wrong by itself.
                None => {}
                Some(rival) if rival.node == self.settings.node => drop(self.refused.insert(other)),
                Some(rival) if self.changes.nodes.contains_key(&rival.node) => self.reach(other, lease),
                Some(rival) => {
                    let rival = self.view.rank(&rival.node)?;
                    if self.reached.contains(&rival) {
                        self.reach(other, lease);
                    } else {
                        self.refused.insert(other);
                        self.fix(rival, self.view.at(rival)?);
                    }
                }
            },
        }
        Some(())
    }

    fn reach(&mut self, rank: Rank, lease: &Lease) {
        self.fixed.remove(&rank);
        self.refused.remove(&rank);
        self.reached.insert(rank);
        self.claim(rank, lease);
    }

    fn fix(&mut self, rank: Rank, lease: &Lease) {
        if self.fixed.insert(rank)
            && let Ok(claim) = claim(lease, self.settings.net_conf.network)
        {
            self.keys.add(&claim);
        }
    }

    /// What makes no sense by itself claims nothing.
    fn claim(&mut self, rank: Rank, lease: &Lease) {
        if let Ok(claim) = claim(lease, self.settings.net_conf.network) {
            self.keys.add(&claim);
            self.queue.push((rank, claim));
        }
    }
}
