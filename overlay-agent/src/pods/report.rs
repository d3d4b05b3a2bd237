//! What is said about pods: each change once.

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::pods::{Exclusion, PodLink, Verdict};

use crate::control::messages::Messages;
use crate::control::retries::Retries;

/// What has been said and still holds.
#[derive(Debug, Default)]
pub(super) struct Report {
    said: BTreeMap<u32, (String, Verdict)>,
    failures: Messages,
    blind: bool,
}

impl Report {
    /// A pass has ended. The devices `failed` are not yet what their verdict says.
    pub(super) fn settle(
        &mut self,
        verdicts: &BTreeMap<u32, Verdict>,
        links: &BTreeMap<u32, PodLink>,
        failed: &BTreeSet<u32>,
        retries: &Retries,
    ) {
        if self.blind {
            self.blind = false;
            log::info!("pods can be looked after again");
        }
        let ended: Vec<u32> = self
            .said
            .keys()
            .filter(|ifindex| !verdicts.contains_key(ifindex) && !failed.contains(ifindex))
            .copied()
            .collect();
        for ifindex in ended {
            if let Some((name, verdict)) = self.said.remove(&ifindex)
                && matches!(verdict, Verdict::Endpoint(_))
            {
                log::info!("pod device {name} (index {ifindex}): no longer a pod's, flows forgotten");
            }
        }
        for (ifindex, verdict) in verdicts {
            let Some(link) = links.get(ifindex).filter(|_| !failed.contains(ifindex)) else {
                continue;
            };
            let now = (link.name.clone(), verdict.clone());
            if self.said.get(ifindex) != Some(&now) {
                say(&link.name, *ifindex, verdict);
                self.said.insert(*ifindex, now);
            }
        }
        let changes = self.failures.update(retries.messages());
        for text in changes.new {
            log::warn!("{text}");
        }
        for step in changes.over {
            log::info!("no longer failing: {step}");
        }
    }

    /// A pass could not see what there is.
    pub(super) fn blind(&mut self, error: &anyhow::Error) {
        if self.blind {
            log::debug!("pods: {error:#}");
        } else {
            self.blind = true;
            log::warn!(
                "cannot look after pods: {error:#}; flows of the pods that are known keep the fast path, new pods do \
                 not get it; trying again with growing waits (0.05 s to 1 s)"
            );
        }
    }
}

fn say(name: &str, ifindex: u32, verdict: &Verdict) {
    match verdict {
        Verdict::Endpoint(mode) => log::info!("pod device {name} (index {ifindex}): {mode}"),
        Verdict::Excluded(why @ Exclusion::Unknown { .. }) => {
            log::warn!("pod device {name} (index {ifindex}): no fast path: {why}");
        }
        Verdict::Excluded(why) => log::info!("pod device {name} (index {ifindex}): no fast path: {why}"),
    }
}
