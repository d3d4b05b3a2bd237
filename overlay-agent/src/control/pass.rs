//! One pass: look, compare, act.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use overlay_core::action::{Action, DataplaneAction, Step};
use overlay_core::desired::{Desired, desired};
use overlay_core::diff;
use overlay_core::model::{LeaseEvent, Settings};
use overlay_core::observed::Observed;
use overlay_core::view::View;
use tokio::time::Instant;

use super::backoff::{self, Jitter};
use super::execute::{Report, execute};
use super::groups::Group;
use super::kernel::Kernel;
use super::messages::Messages;
use super::retries::Retries;
use super::summary::summary;
use crate::text::count;

/// More messages of one kind than this are counted, not printed.
const MAX_MESSAGES: usize = 20;

const CHECK_OPEN: &str =
    "the peer check only counts and refuses nothing: not every peer could be made known to it";

/// What is to be done on a node.
#[derive(Debug)]
pub struct Plan {
    /// What should be there.
    pub desired: Desired,
    /// What is there.
    pub observed: Observed,
    /// What leads from one to the other, in order.
    pub steps: Vec<Step>,
}

/// Looks at the node and compares. Changes nothing.
///
/// # Errors
///
/// When the node cannot be examined, or what is known does not say what should be there.
pub async fn plan<K: Kernel>(kernel: &mut K, view: &View, settings: &Settings) -> Result<Plan> {
    let facts = kernel
        .facts()
        .await
        .context("cannot tell how this node is connected")?;
    let observed = kernel
        .observe()
        .await
        .context("cannot read the state of this node")?;
    let desired = desired(view, &facts, settings)?;
    let steps = diff::plan(&desired, &observed)?;
    Ok(Plan {
        desired,
        observed,
        steps,
    })
}

/// Brings a node in line with the leases, pass by pass.
#[derive(Debug)]
pub struct Controller<K> {
    kernel: K,
    settings: Settings,
    view: View,
    informed: bool,
    ready: bool,
    /// Flows may have been learned by entries that are no longer there.
    stale_flows: bool,
    fastpath: Option<String>,
    blind: u32,
    jitter: Jitter,
    retries: Retries,
    obstacles: Messages,
    problems: Messages,
    failures: Messages,
}

impl<K: Kernel> Controller<K> {
    /// Knows of no lease yet.
    #[must_use]
    pub fn new(kernel: K, settings: Settings) -> Self {
        Self {
            kernel,
            settings,
            view: View::default(),
            informed: false,
            ready: false,
            // Whatever has changed while no agent was there.
            stale_flows: true,
            fastpath: None,
            blind: 0,
            jitter: Jitter::from_system(),
            retries: Retries::new(Jitter::from_system()),
            obstacles: Messages::default(),
            problems: Messages::default(),
            failures: Messages::default(),
        }
    }

    /// Takes note of what a source reports.
    pub fn apply(&mut self, event: LeaseEvent) {
        self.view.apply(event);
        self.informed = true;
    }

    /// Looks, compares and acts; says when what failed is due again.
    ///
    /// Does nothing before the first lease event: what is on the node keeps working.
    pub async fn pass(&mut self) -> Option<Instant> {
        if !self.informed {
            return None;
        }
        let start = Instant::now();
        let plan = match plan(&mut self.kernel, &self.view, &self.settings).await {
            Ok(plan) => plan,
            Err(error) => {
                self.blind = self.blind.saturating_add(1);
                let text = format!("waiting: {error:#}; nothing is changed until then");
                say(
                    &mut self.obstacles,
                    [(String::new(), text)].into(),
                    log::Level::Error,
                    "",
                );
                return Some(Instant::now() + backoff::delay(self.blind, &mut self.jitter));
            }
        };
        if self.blind > 0 {
            log::info!(
                "continuing after {}",
                count(
                    usize::try_from(self.blind).unwrap_or(usize::MAX),
                    "failed attempt"
                )
            );
            self.blind = 0;
        }
        self.obstacles.update(BTreeMap::new());
        let problems = plan
            .desired
            .problems
            .iter()
            .map(|problem| (problem.to_string(), problem.to_string()));
        say(
            &mut self.problems,
            problems.collect(),
            log::Level::Warn,
            "no longer the case: ",
        );
        self.forget_stale_flows(&plan.observed).await;
        let report = execute(&mut self.kernel, &plan.steps, &plan.observed, &mut self.retries).await;
        let mut failures = self.retries.messages();
        if report.check_open {
            failures.insert("peer check".to_owned(), CHECK_OPEN.to_owned());
        }
        say(
            &mut self.failures,
            failures,
            log::Level::Error,
            "no longer failing: ",
        );
        for (group, step) in &report.done {
            // Flows are forgotten at every turn.
            let common = step.action == DataplaneAction::ForgetFlows.into();
            if matches!(group, Group::Device | Group::Dataplane | Group::Fastpath) && !common {
                log::info!("{step}");
            }
        }
        if let Some(summary) = summary(&report, start.elapsed()) {
            log::info!("{summary}");
        }
        // A configuration forgets them, too.
        let configured = report
            .done
            .iter()
            .any(|(_, step)| matches!(step.action, Action::Dataplane(DataplaneAction::SetConfig(_))));
        self.stale_flows = report.not_forgotten || self.stale_flows && !configured;
        self.announce(&plan, &report);
        self.announce_fastpath(&plan, &report);
        self.retries.next()
    }

    /// Forgets flows that may be wrong and that no plan would forget: after a start, and where a plan could not.
    async fn forget_stale_flows(&mut self, observed: &Observed) {
        let configured = observed
            .dataplane
            .as_ref()
            .is_some_and(|maps| maps.config.is_some());
        // Without a configuration there are no flows.
        if !self.stale_flows || !configured {
            return;
        }
        let forget = Action::from(DataplaneAction::ForgetFlows);
        match self.kernel.execute(&[&forget]).await.into_iter().next() {
            Some(Err(error)) => log::debug!("cannot {forget}, trying again with the next pass: {error:#}"),
            Some(Ok(())) | None => self.stale_flows = false,
        }
    }

    /// Says whether there is a fast path, when that has changed.
    fn announce_fastpath(&mut self, plan: &Plan, report: &Report<'_>) {
        if report.incomplete.contains(&Group::Device) || report.incomplete.contains(&Group::Dataplane) {
            return;
        }
        let text = if report.fastpath_off {
            "off: connection tracking could not be set for it, see above".to_owned()
        } else {
            plan.desired.fastpath.to_string()
        };
        if self.fastpath.as_ref() != Some(&text) {
            log::info!("fast path: {text}");
            self.fastpath = Some(text);
        }
    }

    /// Says once that the first complete list is in the kernel.
    fn announce(&mut self, plan: &Plan, report: &Report<'_>) {
        let whole = [Group::Device, Group::Dataplane]
            .iter()
            .all(|group| !report.incomplete.contains(group));
        if self.ready || !whole || !self.view.complete() {
            return;
        }
        self.ready = true;
        let peers = count(plan.desired.peers.len(), "peer");
        let incomplete = match report.incomplete.len() {
            0 => String::new(),
            number => format!(" ({number} not complete, see above)"),
        };
        let nothing = if plan.steps.is_empty() {
            "; nothing to do"
        } else {
            ""
        };
        log::info!(
            "ready: {peers}{incomplete}, device {}, dataplane {}{nothing}",
            plan.desired.device.name,
            self.kernel.dataplane_name()
        );
    }
}

/// Logs what is new at `level`, and at info what is over, after `over` (unless that is empty).
fn say(messages: &mut Messages, current: BTreeMap<String, String>, level: log::Level, over: &str) {
    let changes = messages.update(current);
    for text in changes.new.iter().take(MAX_MESSAGES) {
        log::log!(level, "{text}");
    }
    if let Some(more) = changes
        .new
        .len()
        .checked_sub(MAX_MESSAGES)
        .filter(|more| *more > 0)
    {
        log::log!(level, "… and {more} more like these");
    }
    if over.is_empty() {
        return;
    }
    for subject in changes.over.iter().take(MAX_MESSAGES) {
        log::info!("{over}{subject}");
    }
    if let Some(more) = changes
        .over
        .len()
        .checked_sub(MAX_MESSAGES)
        .filter(|more| *more > 0)
    {
        log::info!("{over}{more} more");
    }
}
