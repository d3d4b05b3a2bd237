//! From what is to what should be.

use std::collections::{BTreeMap, BTreeSet};

use super::{EndpointMode, Observed, POD_PROGRAMS, PodAction, Verdict};

/// The changes that lead from `observed` to what `verdicts` ask for, in order.
///
/// A device gets its programs before its entry, without which they learn nothing. It loses the entry first and its
/// flows next, so that none is learned again, and the programs last: wherever this is interrupted, what is left says
/// that the flows may not have been forgotten yet.
///
/// Of devices that `observed` may lack only those are given up that have ended.
#[must_use]
pub fn diff(observed: &Observed, verdicts: &BTreeMap<u32, Verdict>) -> Vec<PodAction> {
    let mut actions = Vec::new();
    let mut detachments = Vec::new();
    let mut shortcuts = 0;
    for ifindex in known(observed) {
        let wanted = matches!(verdicts.get(&ifindex), Some(Verdict::Endpoint(_)));
        // An excluded device is seen; one without a verdict may not have been.
        let certain = !observed.incomplete
            || observed.settings.is_none()
            || observed.gone.contains(&ifindex)
            || verdicts.contains_key(&ifindex);
        if !wanted && certain {
            forget(observed, ifindex, &mut actions);
            detach(observed, ifindex, &mut detachments);
        } else if !wanted && observed.endpoints.get(&ifindex) == Some(&Some(EndpointMode::Shortcut)) {
            shortcuts += 1;
        }
    }
    // Taking programs off takes longer than forgetting, of which no device waits for another.
    actions.extend(detachments);
    let mut additions = Vec::new();
    for (ifindex, verdict) in verdicts {
        if let Verdict::Endpoint(mode) = verdict {
            shortcuts += u32::from(*mode == EndpointMode::Shortcut);
            add(observed, *ifindex, *mode, &mut additions);
        }
    }
    // The program on the VTEP device works before the first endpoint needs it, and until the last does not.
    let set = (shortcuts != observed.shortcuts).then_some(PodAction::SetShortcuts(shortcuts));
    let (before, after) = if shortcuts > observed.shortcuts {
        (set, None)
    } else {
        (None, set)
    };
    actions.extend(before);
    actions.extend(additions);
    actions.extend(after);
    actions
}

/// Every device that something of ours is on or for.
fn known(observed: &Observed) -> BTreeSet<u32> {
    let attached = observed.attached.keys().map(|(ifindex, _)| ifindex);
    attached.chain(observed.endpoints.keys()).copied().collect()
}

fn forget(observed: &Observed, ifindex: u32, actions: &mut Vec<PodAction>) {
    if observed.endpoints.contains_key(&ifindex) {
        actions.push(PodAction::RemoveEndpoint { ifindex });
    }
    actions.push(PodAction::ForgetDevice { ifindex });
}

fn detach(observed: &Observed, ifindex: u32, actions: &mut Vec<PodAction>) {
    for program in POD_PROGRAMS.into_iter().rev() {
        if observed.attached.contains_key(&(ifindex, program)) {
            actions.push(PodAction::Detach { program, ifindex });
        }
    }
}

fn add(observed: &Observed, ifindex: u32, mode: EndpointMode, actions: &mut Vec<PodAction>) {
    let endpoint = observed.endpoints.get(&ifindex);
    // A new device with an old index: what is known is about the old one.
    let reused = endpoint.is_some() && observed.gone.contains(&ifindex);
    if reused {
        actions.push(PodAction::ForgetDevice { ifindex });
    }
    for program in POD_PROGRAMS {
        if observed.attached.get(&(ifindex, program)) != Some(&true)
            && let Some(link) = observed.links.get(&ifindex)
        {
            actions.push(PodAction::Attach {
                program,
                ifindex,
                name: link.name.clone(),
            });
        }
    }
    if endpoint != Some(&Some(mode)) {
        actions.push(PodAction::SetEndpoint { ifindex, mode });
        if endpoint.is_some() && !reused {
            actions.push(PodAction::ForgetDevice { ifindex });
        }
    }
}
