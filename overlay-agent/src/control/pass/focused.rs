//! A pass that looks only at what a few changed leases can have to do with, in what is known since the last whole pass.

use std::collections::BTreeMap;

use overlay_core::desired::Problem;
use overlay_core::focus::{self, Changes, FocusedPlan, is_about_peers};
use tokio::time::Instant;

use super::{Controller, Outcome, done, links};
use crate::control::execute::{Scope, execute};
use crate::control::kernel::Kernel;
use crate::control::say::say_problems;
use crate::control::summary::summary;

/// Leases that one focused pass looks at, at most: beyond that looking at everything is no worse.
pub const LIMIT: usize = 256;

impl<K: Kernel> Controller<K> {
    /// Brings the node in line with the leases that have changed, without looking at it. The cost does not grow with the
    /// cluster.
    pub async fn focused(&mut self) -> Outcome {
        let start = Instant::now();
        if self.changes.is_empty() {
            return match self.baseline {
                Some(_) => Outcome::Done(self.retries.next()),
                None => Outcome::NeedsAll,
            };
        }
        let Some(plan) = self.focused_plan() else {
            return Outcome::NeedsAll;
        };
        self.changes = Changes::default();
        let FocusedPlan {
            steps,
            observed,
            keys,
            verdicts,
        } = plan;
        let changes = self.problems.change(texts(&verdicts.over), said(&verdicts.new));
        say_problems(&changes, &verdicts.new);
        let other_problems = !verdicts.over.is_empty() || !verdicts.new.is_empty();
        if let Some(baseline) = &mut self.baseline {
            baseline.standing.update(verdicts);
        }
        let report = execute(
            &mut self.kernel,
            &steps,
            &observed,
            &mut self.retries,
            Scope::Peers(&keys),
        )
        .await;
        self.say_failures();
        if let Some(summary) = summary(&report, start.elapsed()) {
            log::info!("{summary}");
        }
        self.stale_flows |= report.not_forgotten;
        if let Some(baseline) = &mut self.baseline {
            let links = links(&baseline.facts);
            for action in done(&report) {
                baseline.done(action, &links);
            }
            if let Some(journal) = &mut self.journal {
                journal.extend(done(&report).cloned());
            }
            if other_problems || report.peers_not_done > 0 {
                self.state.send_modify(|state| {
                    if other_problems {
                        state.problems = baseline.standing.problems().cloned().collect();
                    }
                    state.failing += report.peers_not_done;
                });
            }
        }
        Outcome::Done(self.retries.next())
    }

    fn focused_plan(&self) -> Option<FocusedPlan> {
        let baseline = self.baseline.as_ref()?;
        let plan = focus::plan(&self.view, &self.changes, baseline, &self.settings, LIMIT)?;
        // What has failed waits for its time; anything else that is not about peers is a surprise.
        let is_expected = |action| is_about_peers(action) || self.leftover.contains(action);
        plan.steps
            .iter()
            .all(|step| is_expected(&step.action))
            .then_some(plan)
    }
}

fn texts(problems: &[Problem]) -> impl Iterator<Item = String> {
    problems.iter().map(ToString::to_string)
}

fn said(problems: &[Problem]) -> BTreeMap<String, String> {
    texts(problems).zip(texts(problems)).collect()
}
