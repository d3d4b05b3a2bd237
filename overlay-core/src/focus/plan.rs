//! The plan for a few changed leases.

use super::{Changes, Standing, Verdicts, focus};
use crate::action::{Action, DataplaneAction, Step, Subject};
use crate::desired::desired;
use crate::diff;
use crate::model::{ConntrackParameter, NodeFacts, Settings};
use crate::observed::{Keys, Links, Observed};
use crate::view::View;

/// What is known since the last plan that was made from everything.
#[derive(Clone, PartialEq, Debug)]
pub struct Baseline {
    /// What the node was.
    pub facts: NodeFacts,
    /// What the kernel holds: as it was observed, with what has been done since.
    pub observed: Observed,
    /// How the leases stand.
    pub standing: Standing,
}

/// What a few changed leases ask for.
#[derive(Clone, PartialEq, Debug)]
pub struct FocusedPlan {
    /// What to do, in order.
    pub steps: Vec<Step>,
    /// The part of the observation that it was made from.
    pub observed: Observed,
    /// Where it looked.
    pub keys: Keys,
    /// What it says of the leases that it looked at.
    pub verdicts: Verdicts,
}

impl Baseline {
    /// Takes note of an action that has worked.
    pub fn done(&mut self, action: &Action, links: &Links) {
        self.observed.apply(action, links);
        if let Action::SetConntrack(parameter) = action {
            self.facts
                .conntrack
                .insert(*parameter, ConntrackParameter::WANTED);
        }
    }
}

/// Plans for `changes`, which led to `view`, as [`crate::desired`] and [`crate::diff`] would for everything. Costs O(log n)
/// for each lease that the changes can have to do with.
///
/// `None` when everything must be looked at: see [`super::focus`]; or the eBPF maps have no room for all peers; or there is
/// no desired state.
#[must_use]
pub fn plan(
    view: &View,
    changes: &Changes,
    baseline: &Baseline,
    settings: &Settings,
    limit: usize,
) -> Option<FocusedPlan> {
    let Baseline {
        facts,
        observed,
        standing,
    } = baseline;
    let focus = focus(view, standing, changes, settings, limit)?;
    let desired = desired(&focus.view, facts, settings).ok()?;
    let verdicts = standing.verdicts(&focus, &desired);
    // Which peers have room is decided among all of them.
    let room = usize::try_from(settings.max_peers).unwrap_or(usize::MAX);
    if standing.peers().max(verdicts.peers()) > room {
        return None;
    }
    let observed = observed.restricted(&focus.keys);
    let steps = diff::plan(&desired, &observed).ok()?;
    Some(FocusedPlan {
        steps,
        observed,
        keys: focus.keys,
        verdicts,
    })
}

/// Whether an action is about peers, and so a focused plan's to carry out. What concerns the device, the programs or
/// their configuration is for a plan that knows every peer.
#[must_use]
pub fn is_about_peers(action: &Action) -> bool {
    *action == DataplaneAction::ForgetFlows.into() || action.subject() != Subject::default()
}
