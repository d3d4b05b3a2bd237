//! One whole pass: look, compare, act.

mod announce;
mod compare;
mod focused;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result};
use overlay_core::action::{Action, DataplaneAction, KernelAction, Step};
use overlay_core::desired::{Desired, Problem};
use overlay_core::focus::{self, Baseline, Changes};
use overlay_core::model::{LeaseEvent, NodeFacts, Settings};
use overlay_core::observed::{Links, Observed};
use overlay_core::view::View;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

pub use self::compare::{Compared, Comparison};
use self::compare::{Found, apply};
pub use self::focused::LIMIT;
use super::backoff::{self, Jitter};
use super::execute::{Report, Scope, execute};
use super::groups::Group;
use super::kernel::Kernel;
use super::messages::Messages;
use super::retries::Retries;
use super::say::{say, say_problems};
use super::state::{self, DeviceState, State};
use super::summary::summary;
use crate::text::count;

const CHECK_OPEN: &str =
    "the peer check only counts and refuses nothing: not every peer could be made known to it";

/// Failed attempts to look at the node after which nothing is known of its device any more.
const BLIND: u32 = 2;

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
    let Found { desired, steps, .. } = Found::new(view, settings, &facts, &observed)?;
    Ok(Plan {
        desired,
        observed,
        steps,
    })
}

/// What became of a pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Everything that has changed is in the kernel, or has failed and is due again then.
    Done(Option<Instant>),
    /// Only a whole pass can tell what is to be done.
    NeedsAll,
}

/// A look at the node that is under way.
pub type Observation = Pin<Box<dyn Future<Output = Result<(NodeFacts, Observed)>> + Send>>;

/// Brings a node in line with the leases, pass by pass.
#[derive(Debug)]
pub struct Controller<K> {
    kernel: K,
    settings: Settings,
    view: Arc<View>,
    informed: bool,
    /// What has come since the last plan.
    changes: Changes,
    /// What has come since the comparison that is under way began.
    since: Option<Changes>,
    /// What is known since the last whole pass; `None` before one has worked.
    baseline: Option<Baseline>,
    /// What the last whole pass had to leave undone that is not about peers.
    leftover: Vec<Action>,
    /// What was done since the observation that is under way began.
    journal: Option<Vec<Action>>,
    /// The first complete list is in the kernel.
    announced: bool,
    /// Flows may have been learned by entries that are no longer there.
    stale_flows: bool,
    /// The peer check is open because a peer could not be made known to it.
    check_open: bool,
    fastpath: Option<String>,
    blind: u32,
    jitter: Jitter,
    retries: Retries,
    obstacles: Messages,
    problems: Messages,
    failures: Messages,
    state: watch::Sender<State>,
}

impl<K: Kernel> Controller<K> {
    /// Knows of no lease yet.
    #[must_use]
    pub fn new(kernel: K, settings: Settings) -> Self {
        Self {
            kernel,
            settings,
            view: Arc::default(),
            informed: false,
            changes: Changes::default(),
            since: None,
            baseline: None,
            leftover: Vec::new(),
            journal: None,
            announced: false,
            // Whatever has changed while no agent was there.
            stale_flows: true,
            check_open: false,
            fastpath: None,
            blind: 0,
            jitter: Jitter::from_system(),
            retries: Retries::new(Jitter::from_system()),
            obstacles: Messages::default(),
            problems: Messages::default(),
            failures: Messages::default(),
            state: watch::Sender::default(),
        }
    }

    /// How this node stands, kept up to date by every pass.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Takes note of what a source reports.
    pub fn apply(&mut self, event: LeaseEvent) {
        // A comparison that is under way keeps the view that it began with.
        let change = Arc::make_mut(&mut self.view).apply(event);
        if let Some(since) = &mut self.since {
            since.add(change.clone());
        }
        self.changes.add(change);
        self.informed = true;
    }

    /// Begins a whole pass: starts to look at the node. [`Controller::compare`] takes what is seen; meanwhile focused
    /// passes go on.
    ///
    /// `None` before the first lease event: what is on the node keeps working.
    pub fn begin(&mut self) -> Option<Observation> {
        if !self.informed {
            return None;
        }
        self.journal = Some(Vec::new());
        Some(Box::pin(self.kernel.observe_in_background()))
    }

    /// Ends a whole pass: acts, and looks once more at the leases that have changed since the comparison began.
    pub async fn finish(&mut self, compared: Result<Compared>) -> Outcome {
        let retry = self.conclude(compared).await;
        if self.baseline.is_none() || self.changes.is_empty() {
            return Outcome::Done(retry);
        }
        self.focused().await
    }

    /// Acts; says when what failed is due again.
    async fn conclude(&mut self, compared: Result<Compared>) -> Option<Instant> {
        let start = Instant::now();
        let journal = self.journal.take().unwrap_or_default();
        self.changes = self.since.take().unwrap_or_default();
        let Compared {
            facts,
            mut observed,
            mut found,
        } = match compared {
            Ok(compared) => compared,
            Err(error) => return Some(self.obstacle(&error, None)),
        };
        apply(&journal, &facts, &mut observed);
        if !self.still_holds(&found, &journal) {
            self.changes = Changes::default();
            found = Found::new(&self.view, &self.settings, &facts, &observed);
        }
        let Found {
            desired,
            steps,
            standing,
        } = match found {
            Ok(found) => found,
            Err(error) => return Some(self.obstacle(&error, Some(&observed))),
        };
        self.no_obstacle();
        let problems = desired
            .problems
            .iter()
            .map(|problem| (problem.to_string(), problem.to_string()));
        say_problems(&self.problems.update(problems.collect()), &desired.problems);
        if !has_device(&steps) {
            let failing = self.state.borrow().failing;
            self.publish(None, &desired.problems, failing);
        }
        self.forget_stale_flows(&observed).await;
        let report = execute(
            &mut self.kernel,
            &steps,
            &observed,
            &mut self.retries,
            Scope::Everything,
        )
        .await;
        self.check_open = report.check_open;
        self.say_failures();
        announce::steps(&report);
        if let Some(summary) = summary(&report, start.elapsed()) {
            log::info!("{summary}");
        }
        // A configuration forgets them, too.
        let configured = report
            .done
            .iter()
            .any(|(_, step)| matches!(step.action, Action::Dataplane(DataplaneAction::SetConfig(_))));
        self.stale_flows = report.not_forgotten || self.stale_flows && !configured;
        self.announce(&desired, &report, steps.is_empty());
        self.announce_fastpath(&desired, &report);

        let mut baseline = Baseline {
            standing,
            facts,
            observed,
        };
        let links = links(&baseline.facts);
        for action in done(&report) {
            baseline.done(action, &links);
        }
        let device = if report.incomplete.contains(&Group::Device) {
            None
        } else {
            self.device(&desired, &baseline)
        };
        self.publish(device, &desired.problems, report.not_done);
        self.leftover = leftover(&self.view, &baseline, &self.settings);
        let before = self.baseline.replace(baseline);
        // To free what is known of 15,000 peers takes milliseconds.
        drop(spawn_blocking(move || drop((before, desired))));
        self.retries.next()
    }

    /// Whether what was found still says what is to be done, although leases may have changed, and with them the node, since
    /// the comparison began: then it does where it is that nothing is, nothing new is to be said, and the own lease is the
    /// same. What has changed is looked at once more, by itself.
    fn still_holds(&self, found: &Result<Found>, journal: &[Action]) -> bool {
        if self.changes.is_empty() && journal.is_empty() {
            return true;
        }
        let (Ok(found), Some(baseline)) = (found, &self.baseline) else {
            return false;
        };
        found.steps.is_empty()
            && !self.changes.may_concern(&self.settings.node)
            && found.standing.problems().eq(baseline.standing.problems())
    }

    /// Nothing can be planned: says why, and when to try again. What is there is known where it could be seen.
    fn obstacle(&mut self, error: &anyhow::Error, observed: Option<&Observed>) -> Instant {
        self.blind = self.blind.saturating_add(1);
        self.baseline = None;
        let text = format!("waiting: {error:#}; nothing is changed until then");
        let changes = self.obstacles.update([(String::new(), text)].into());
        say(&changes, log::Level::Error, "");
        let unknown = observed.is_none() && self.blind >= BLIND;
        self.state.send_if_modified(|state| {
            let before = state.clone();
            let stands =
                |device: &DeviceState| observed.is_none_or(|observed| state::stands(device, observed));
            state.device = state.device.take().filter(|device| !unknown && stands(device));
            state.ready &= state.device.is_some();
            state.failing = state.failing.max(1);
            *state != before
        });
        Instant::now() + backoff::delay(self.blind, &mut self.jitter)
    }

    fn no_obstacle(&mut self) {
        if self.blind > 0 {
            let attempts = usize::try_from(self.blind).unwrap_or(usize::MAX);
            log::info!("continuing after {}", count(attempts, "failed attempt"));
            self.blind = 0;
        }
        self.obstacles.update(BTreeMap::new());
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

    fn say_failures(&mut self) {
        if self.retries.is_empty() && !self.check_open && self.failures.is_empty() {
            return;
        }
        let mut failures = self.retries.messages();
        if self.check_open {
            failures.insert("peer check".to_owned(), CHECK_OPEN.to_owned());
        }
        let changes = self.failures.update(failures);
        say(&changes, log::Level::Error, "no longer failing: ");
    }

    /// The device, if it is as it should be after a pass that worked.
    fn device(&self, desired: &Desired, baseline: &Baseline) -> Option<DeviceState> {
        let own = self.view.get(&self.settings.node)?.v4?;
        let underlay = &baseline.facts.underlay.name;
        state::device(desired, &baseline.observed, own.subnet.trunc(), underlay)
    }

    fn publish(&self, device: Option<DeviceState>, problems: &[Problem], failing: usize) {
        let ready = self.announced && device.is_some();
        self.state.send_if_modified(|state| {
            let same = state.device == device
                && (state.ready, state.failing) == (ready, failing)
                && state.problems == problems;
            if !same {
                *state = State {
                    device,
                    ready,
                    failing,
                    problems: problems.to_vec(),
                };
            }
            !same
        });
    }
}

/// Whether the device is there before the plan, to stay.
fn has_device(steps: &[Step]) -> bool {
    !steps.iter().any(|step| {
        matches!(
            step.action,
            Action::Kernel(
                KernelAction::CreateDevice(_) | KernelAction::DeleteDevice { .. } | KernelAction::SetDeviceUp
            )
        )
    })
}

/// What was carried out, in order.
fn done<'r>(report: &'r Report<'_>) -> impl Iterator<Item = &'r Action> {
    let steps = report.done.iter().map(|(_, step)| &step.action);
    steps.chain(&report.altered)
}

/// The indices that actions do not tell. That of a device which this agent makes is learned by looking.
fn links(facts: &NodeFacts) -> Links {
    Links {
        created: 0,
        others: [(facts.underlay.name.clone(), facts.underlay.ifindex)].into(),
    }
}

/// What would still be done if there were no other node.
fn leftover(view: &View, baseline: &Baseline, settings: &Settings) -> Vec<Action> {
    let plan = focus::plan(view, &Changes::default(), baseline, settings, LIMIT);
    let steps = plan.into_iter().flat_map(|plan| plan.steps);
    steps.map(|step| step.action).collect()
}
