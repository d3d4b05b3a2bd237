//! Comparing everything, on another thread: with 15,000 peers it takes tens of milliseconds, for which a new one would
//! have to wait.

use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result};
use overlay_core::action::{Action, Step};
use overlay_core::desired::{Desired, desired};
use overlay_core::diff;
use overlay_core::focus::{Changes, Standing};
use overlay_core::model::{NodeFacts, Settings};
use overlay_core::observed::Observed;
use overlay_core::view::View;
use tokio::task::spawn_blocking;

use super::{Controller, links};
use crate::control::kernel::Kernel;

/// A comparison that is under way.
pub type Comparison = Pin<Box<dyn Future<Output = Result<Compared>> + Send>>;

/// What a comparison found.
#[derive(Debug)]
pub struct Compared {
    pub(super) facts: NodeFacts,
    /// With what was done until the comparison began.
    pub(super) observed: Observed,
    /// What is to be done about it; an error when that cannot be told.
    pub(super) found: Result<Found>,
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) desired: Desired,
    pub(super) steps: Vec<Step>,
    pub(super) standing: Standing,
}

impl Found {
    /// Compares here and now.
    pub(super) fn new(
        view: &View,
        settings: &Settings,
        facts: &NodeFacts,
        observed: &Observed,
    ) -> Result<Self> {
        let desired = desired(view, facts, settings)?;
        Ok(Self {
            steps: diff::plan(&desired, observed)?,
            standing: Standing::new(view, &desired),
            desired,
        })
    }
}

/// An observation may show what was done since it began or not; done once more, it does.
pub(super) fn apply(journal: &[Action], facts: &NodeFacts, observed: &mut Observed) {
    let links = links(facts);
    for action in journal {
        observed.apply(action, &links);
    }
}

impl<K: Kernel> Controller<K> {
    /// Begins to compare what was seen with what should be. [`Controller::finish`] takes what is found; meanwhile focused
    /// passes go on.
    pub fn compare(&mut self, seen: Result<(NodeFacts, Observed)>) -> Comparison {
        let journal = self.journal.replace(Vec::new()).unwrap_or_default();
        self.since = Some(Changes::default());
        let (view, settings) = (Arc::clone(&self.view), self.settings.clone());
        let work = move || {
            let seen = seen.context("cannot tell how this node is connected, or what is on it");
            let (facts, mut observed) = seen?;
            apply(&journal, &facts, &mut observed);
            Ok(Compared {
                found: Found::new(&view, &settings, &facts, &observed),
                facts,
                observed,
            })
        };
        Box::pin(async { spawn_blocking(work).await.context("a comparison did not end")? })
    }
}
