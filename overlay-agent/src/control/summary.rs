//! What a pass did, in one line.

use std::collections::BTreeMap;
use std::time::Duration;

use super::execute::Report;
use super::groups::Group;
use crate::text::count;

/// `programmed 3 peers, removed 1 peer: 14 steps in 4.1 ms`; `None` when no peer was touched.
#[must_use]
pub fn summary(report: &Report<'_>, took: Duration) -> Option<String> {
    // A peer that got something was programmed, even when something stale of it was removed as well.
    let mut peers: BTreeMap<Group, bool> = BTreeMap::new();
    let mut steps = 0_usize;
    for (group, step) in &report.done {
        if let Group::Peer(_) = group {
            *peers.entry(*group).or_default() |= step.action.is_addition();
            steps += 1;
        }
    }
    let incomplete = report
        .incomplete
        .iter()
        .filter(|group| matches!(group, Group::Peer(_)))
        .count();
    let programmed = peers.values().filter(|added| **added).count();
    let removed = peers.len() - programmed;
    let mut parts = Vec::new();
    if programmed > 0 {
        parts.push(format!("programmed {}", count(programmed, "peer")));
    }
    if removed > 0 {
        parts.push(format!("removed {}", count(removed, "peer")));
    }
    if parts.is_empty() {
        return None;
    }
    if incomplete > 0 {
        parts.push(format!("{} not complete", count(incomplete, "peer")));
    }
    let ms = took.as_secs_f64() * 1e3;
    Some(format!(
        "{}: {} in {ms:.1} ms",
        parts.join(", "),
        count(steps, "step")
    ))
}

#[cfg(test)]
mod tests {
    use overlay_core::action::{DataplaneAction, KernelAction};
    use overlay_core::observed::Observed;

    use super::*;
    use crate::control::fake::{peer_steps, step};
    use crate::control::groups::groups;

    #[test]
    fn counts_peers_not_steps() {
        let removal = DataplaneAction::RemoveSubnet("10.244.9.0/24".parse().unwrap());
        let steps = [
            peer_steps(1),
            peer_steps(2),
            vec![step(removal), step(KernelAction::SetDeviceUp)],
        ]
        .concat();
        let mut report = Report {
            done: groups(&steps, &Observed::default())
                .into_iter()
                .zip(&steps)
                .collect(),
            ..Report::default()
        };
        let took = Duration::from_micros(4_120);
        let text = summary(&report, took).unwrap();
        assert_eq!(text, "programmed 2 peers, removed 1 peer: 11 steps in 4.1 ms");
        report.done.retain(|(group, _)| *group == Group::Device);
        assert_eq!(summary(&report, took), None);
    }
}
