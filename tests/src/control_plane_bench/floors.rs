//! What the agent must reach, and what this run reached.

use super::result::{Figure, Kind, Load, Run};

/// How much more an event may cost in the largest cluster than in the smallest: what is left for caches that are
/// colder when there is more to hold. Work per event that grows with the cluster would multiply it by 15.
const GROWTH: f64 = 1.5;

/// One promise and what became of it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Check {
    /// What it is about.
    pub(super) subject: String,
    /// The most that is allowed.
    pub(super) limit: f64,
    /// `None`: not measured.
    pub(super) found: Option<f64>,
    /// Of both numbers.
    pub(super) unit: &'static str,
}

impl Check {
    /// Whether it was kept; `None` if it was not measured.
    pub(super) fn met(&self) -> Option<bool> {
        self.found.map(|found| found <= self.limit)
    }
}

/// Every promise about the clusters that `run` was about.
pub(super) fn checks(run: &Run) -> Vec<Check> {
    let mut checks = Vec::new();
    for kind in Kind::ALL {
        for nodes in run.sizes() {
            starts(run, kind, nodes, &mut checks);
            events(run, kind, nodes, &mut checks);
            memory(run, kind, nodes, &mut checks);
        }
        for load in Load::ALL {
            checks.extend(growth(run, kind, load));
        }
    }
    checks
}

fn starts(run: &Run, kind: Kind, nodes: u32, checks: &mut Vec<Check>) {
    let limit = match nodes {
        1_000 => 0.4,
        5_000 => 1.5,
        15_000 => 5.0,
        _ => return,
    };
    let found = run.find(kind, nodes, Figure::StartS, None);
    checks.push(Check {
        subject: format!("{kind}, {nodes} nodes: start, median"),
        limit,
        found: found.map(|entry| entry.summary.median),
        unit: "s",
    });
}

fn events(run: &Run, kind: Kind, nodes: u32, checks: &mut Vec<Check>) {
    for load in Load::ALL {
        let found = run.find(kind, nodes, Figure::AddMs, Some(load));
        checks.push(Check {
            subject: format!("{kind}, {nodes} nodes, {load}: new peer, median"),
            limit: 0.8,
            found: found.map(|entry| entry.summary.median),
            unit: "ms",
        });
        checks.push(Check {
            subject: format!("{kind}, {nodes} nodes, {load}: new peer, 99 %"),
            limit: 5.0,
            found: found.map(|entry| entry.summary.p99),
            unit: "ms",
        });
    }
}

fn memory(run: &Run, kind: Kind, nodes: u32, checks: &mut Vec<Check>) {
    let limit = match nodes {
        1_000 => 25.0,
        15_000 => 60.0,
        _ => return,
    };
    let found = run.find(kind, nodes, Figure::RssMib, None);
    checks.push(Check {
        subject: format!("{kind}, {nodes} nodes: memory, peak"),
        limit,
        found: found.map(|entry| entry.summary.max),
        unit: "MiB",
    });
}

/// The cost of an event in the largest cluster by that in the smallest.
fn growth(run: &Run, kind: Kind, load: Load) -> Option<Check> {
    let sizes = run.sizes();
    let (first, last) = (*sizes.first()?, *sizes.last()?);
    let of = |nodes| {
        Some(
            run.find(kind, nodes, Figure::EventCpuUs, Some(load))?
                .summary
                .median,
        )
    };
    (first < last).then(|| Check {
        subject: format!("{kind}, {load}: CPU time per event, {last} nodes by {first}"),
        limit: GROWTH,
        found: of(last).zip(of(first)).map(|(last, first)| last / first),
        unit: "×",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::result::Machine;
    use crate::control_plane_bench::result::{Disturbed, Entry};
    use crate::control_plane_bench::stats::summary;

    fn run(entries: &[(u32, Figure, Option<Load>, &[f64])]) -> Run {
        let results = entries.iter().map(|(nodes, figure, load, samples)| Entry {
            nodes: *nodes,
            node_bytes: 2_000,
            node_kind: Kind::Bare,
            figure: *figure,
            load: *load,
            summary: summary(samples).unwrap(),
        });
        Run {
            machine: Machine::default(),
            api_server: String::new(),
            setup: Vec::new(),
            quick: false,
            disturbed: Disturbed::default(),
            results: results.collect(),
            problems: Vec::new(),
        }
    }

    fn verdict(run: &Run, subject: &str) -> (f64, Option<bool>) {
        let checks = checks(run);
        let found: Vec<_> = checks
            .iter()
            .filter(|check| check.subject.contains(subject))
            .collect();
        assert_eq!(found.len(), 1, "{subject}: {checks:?}");
        (found[0].limit, found[0].met())
    }

    #[test]
    fn floors_are_those_of_the_issue() {
        let run = run(&[
            (1_000, Figure::StartS, None, &[0.4, 0.3, 0.5]),
            (5_000, Figure::StartS, None, &[1.51]),
            (15_000, Figure::AddMs, Some(Load::Quiet), &[0.1, 0.2, 6.0]),
            (15_000, Figure::RssMib, None, &[50.0, 61.0]),
        ]);
        assert_eq!(verdict(&run, "bare, 1000 nodes: start"), (0.4, Some(true)));
        assert_eq!(verdict(&run, "bare, 5000 nodes: start"), (1.5, Some(false)));
        assert_eq!(verdict(&run, "bare, 15000 nodes: start"), (5.0, None));
        assert_eq!(
            verdict(&run, "bare, 15000 nodes, quiet: new peer, median"),
            (0.8, Some(true))
        );
        assert_eq!(
            verdict(&run, "bare, 15000 nodes, quiet: new peer, 99 %"),
            (5.0, Some(false))
        );
        assert_eq!(verdict(&run, "bare, 15000 nodes: memory"), (60.0, Some(false)));
        assert_eq!(verdict(&run, "bare, 1000 nodes: memory"), (25.0, None));
    }

    #[test]
    fn growth_is_of_the_largest_by_the_smallest() {
        let cost = |large: f64| {
            run(&[
                (1_000, Figure::EventCpuUs, Some(Load::Quiet), &[100.0]),
                (5_000, Figure::EventCpuUs, Some(Load::Quiet), &[900.0]),
                (15_000, Figure::EventCpuUs, Some(Load::Quiet), &[large]),
            ])
        };
        assert_eq!(verdict(&cost(110.0), "bare, quiet: CPU"), (GROWTH, Some(true)));
        assert_eq!(verdict(&cost(1_500.0), "bare, quiet: CPU"), (GROWTH, Some(false)));
        // One size shows no growth.
        assert!(
            !checks(&run(&[(1_000, Figure::StartS, None, &[1.0])]))
                .iter()
                .any(|check| check.unit == "×")
        );
    }
}
