//! One pass: look, compare, act.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use ipnet::Ipv4Net;
use overlay_core::action::{Program, Subject};
use overlay_core::pods::{
    Limiter, Observed, PodAction, PodLink, PodSettings, diff, host_route_candidates, verdicts,
};
use tokio::time::Instant;

use super::Options;
use super::events::News;
use super::links;
use super::report::Report;
use crate::control::backoff::Jitter;
use crate::control::retries::Retries;
use crate::dataplane::{FastPath, PodDevices};

/// Actions that are carried out together, about: those of 32 new pods.
const PART: usize = 96;

/// What a pass found that decides about the next one.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The node's pod subnet.
    pub(super) subnet: Option<Ipv4Net>,
    /// When what failed is due again.
    pub(super) retry: Option<Instant>,
    /// Some devices may not have been seen.
    pub(super) incomplete: bool,
}

/// What is remembered between passes.
pub(super) struct Pods {
    options: Options,
    /// `None` until BPF can be used.
    devices: Option<PodDevices>,
    /// Where the programs are, as far as nothing has been heard to the contrary.
    attached: BTreeMap<(u32, Program), bool>,
    /// What others have put on devices, as far as nothing has been heard to the contrary.
    limiters: BTreeMap<u32, Limiter>,
    /// Devices that `attached` and `limiters` are about.
    seen: BTreeSet<u32>,
    /// News of passes that could not be completed.
    pending: News,
    retries: Retries,
    report: Report,
}

impl Pods {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            devices: None,
            attached: BTreeMap::new(),
            limiters: BTreeMap::new(),
            seen: BTreeSet::new(),
            pending: News::default(),
            retries: Retries::new(Jitter::from_system()),
            report: Report::default(),
        }
    }

    /// The port that our own changes come from, if there were any.
    pub(super) fn own_port(&self) -> Option<u32> {
        self.devices.as_ref().and_then(PodDevices::port)
    }

    /// Reports that a pass failed.
    pub(super) fn cannot_see(&mut self, error: &anyhow::Error) {
        self.report.blind(error);
    }

    /// Looks at what may have changed (at everything if `thorough`), and does what is to be done.
    pub(super) fn pass(&mut self, news: News, thorough: bool) -> Result<Outcome> {
        self.pending.gone.extend(news.gone);
        self.pending.traffic_control.extend(news.traffic_control);
        self.pending.lost |= thorough;
        let devices = match &mut self.devices {
            Some(devices) => devices,
            none => none.insert(PodDevices::open(
                self.options.pin_dir.clone(),
                self.options.attach,
            )?),
        }
        .clone();
        let observed = match devices.fast_path()? {
            FastPath::Absent => {
                // Whoever comes next starts anew.
                self.attached.clear();
                self.limiters.clear();
                self.seen.clear();
                self.pending = News {
                    lost: true,
                    ..News::default()
                };
                self.report.settle(
                    &BTreeMap::new(),
                    &BTreeMap::new(),
                    &BTreeSet::new(),
                    &self.retries,
                );
                return Ok(Outcome {
                    subnet: None,
                    retry: None,
                    incomplete: false,
                });
            }
            FastPath::Off => self.observe(&devices, None)?,
            FastPath::On(settings) => self.observe(&devices, Some(settings))?,
        };
        let wanted = verdicts(&observed);
        let actions = diff(&observed, &wanted);
        let failed = self.execute(&devices, &actions);
        self.pending = News::default();
        self.report
            .settle(&wanted, &observed.links, &failed, &self.retries);
        Ok(Outcome {
            subnet: observed.settings.map(|settings| settings.subnet),
            retry: self.retries.next(),
            incomplete: observed.incomplete && observed.settings.is_some(),
        })
    }

    fn observe(&mut self, devices: &PodDevices, settings: Option<PodSettings>) -> Result<Observed> {
        let (links, mut incomplete) = links::links()?;
        let mut observed = Observed {
            settings,
            links,
            gone: self.pending.gone.clone(),
            endpoints: devices.endpoints()?,
            shortcuts: devices.shortcuts()?,
            ..Observed::default()
        };
        if settings.is_some() {
            let (addresses, some_missing) = links::addresses()?;
            incomplete |= some_missing;
            observed.addresses = addresses;
            let (routes, some_missing) = links::host_routes(&host_route_candidates(&observed))?;
            incomplete |= some_missing;
            observed.host_routes = routes;
        }
        observed.incomplete = incomplete;
        self.look_at_devices(devices, &observed)?;
        observed.attached = self.attached.clone();
        observed.limiters = self.limiters.clone();
        Ok(observed)
    }

    /// Brings `attached` and `limiters` up to date.
    fn look_at_devices(&mut self, devices: &PodDevices, observed: &Observed) -> Result<()> {
        let doubtful = |ifindex: &u32| {
            self.pending.lost
                || self.pending.traffic_control.contains(ifindex)
                || self.pending.gone.contains(ifindex)
        };
        let wanted = verdicts(observed);
        // At first, everywhere: what an earlier run has left. Later, where pods are or something of ours is.
        let look: BTreeMap<u32, String> = observed
            .links
            .iter()
            .filter(|(ifindex, _)| {
                self.pending.lost
                    || (wanted.contains_key(ifindex) && !self.seen.contains(ifindex))
                    || (self.seen.contains(ifindex) && doubtful(ifindex))
            })
            .map(|(ifindex, link): (&u32, &PodLink)| (*ifindex, link.name.clone()))
            .collect();
        let found = devices.look(&look)?;
        let lost = self.pending.lost;
        self.attached
            .retain(|(ifindex, _), _| !lost && !look.contains_key(ifindex));
        self.limiters
            .retain(|ifindex, _| !lost && !look.contains_key(ifindex));
        if lost {
            self.seen.clear();
            let present = |ifindex| observed.links.contains_key(&ifindex);
            self.attached.extend(devices.leftovers(present)?);
        }
        self.attached.extend(found.attached);
        self.limiters.extend(found.limiters);
        self.seen.extend(look.into_keys());
        self.seen
            .retain(|ifindex| observed.links.contains_key(ifindex) || observed.incomplete);
        self.limiters.retain(|ifindex, _| self.seen.contains(ifindex));
        Ok(())
    }

    /// Carries out the plan. Devices are independent of each other; what follows a failure on a device waits. Answers
    /// with the devices that are not as they should be.
    ///
    /// In parts: the first pods do not wait for the last, and the other loop gets its turn.
    fn execute(&mut self, devices: &PodDevices, actions: &[PodAction]) -> BTreeSet<u32> {
        let now = Instant::now();
        let mut failed = BTreeSet::new();
        let mut due = Vec::new();
        for action in actions {
            let waits = |ifindex| failed.contains(&ifindex);
            if action.ifindex().is_some_and(waits) {
                continue;
            }
            if self.retries.is_held(&action.to_string(), now) {
                failed.extend(action.ifindex());
            } else {
                due.push(action);
            }
        }
        for mut part in parts(due) {
            part.retain(|action| action.ifindex().is_none_or(|ifindex| !failed.contains(&ifindex)));
            for (action, result) in part.iter().zip(devices.execute(&part)) {
                match result {
                    Some(Ok(())) => {
                        log::debug!("{action}");
                        self.retries.succeeded(&action.to_string());
                        self.done(action);
                    }
                    Some(Err(error)) => {
                        failed.extend(action.ifindex());
                        let message = format!(
                            "failed: {action}: {error:#}; the pod's packets take the host stack meanwhile, other pods are \
                             not affected; trying again with growing waits (0.1 s to 30 s)"
                        );
                        self.retries
                            .failed(&action.to_string(), Subject::default(), message, Instant::now());
                    }
                    None => {}
                }
            }
        }
        let planned = actions.iter().map(ToString::to_string).collect();
        self.retries.keep_only(&planned, |_| true);
        failed
    }

    fn done(&mut self, action: &PodAction) {
        match action {
            PodAction::Attach { program, ifindex, .. } => {
                self.attached.insert((*ifindex, *program), true);
            }
            PodAction::Detach { program, ifindex } => {
                self.attached.remove(&(*ifindex, *program));
            }
            PodAction::SetEndpoint { .. }
            | PodAction::RemoveEndpoint { .. }
            | PodAction::ForgetDevice { .. }
            | PodAction::SetShortcuts(_) => {}
        }
    }
}

/// Cuts a plan into parts, never between neighbouring actions on the same device.
fn parts(actions: Vec<&PodAction>) -> Vec<Vec<&PodAction>> {
    let mut parts: Vec<Vec<&PodAction>> = Vec::new();
    for action in actions {
        let same_device = |last: &&PodAction| last.ifindex() == action.ifindex();
        let fits = |part: &&mut Vec<_>| part.len() < PART || part.last().is_some_and(same_device);
        match parts.last_mut().filter(fits) {
            Some(part) => part.push(action),
            None => parts.push(vec![action]),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_everything_in_order_and_do_not_cut_a_device() {
        let forget = |ifindex| PodAction::ForgetDevice { ifindex };
        let actions: Vec<_> = (0..200).flat_map(|n| vec![forget(n); 5]).collect();
        let parts = parts(actions.iter().collect());
        assert!(parts.len() > 1);
        assert!(parts.concat().into_iter().eq(&actions));
        for part in &parts {
            assert!((1..=PART + 4).contains(&part.len()) && part.len() % 5 == 0);
        }
    }
}
