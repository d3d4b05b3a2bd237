//! What the fast path must reach, and what this run reached.

use crate::bench::result::{Entry, Mode, Run, Target, Wire, Workload};

use super::number::plausible;

/// A result by another one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Ratio {
    /// Of the medians.
    pub(crate) median: f64,
    /// Smallest round by the largest of the other: the worst case.
    pub(crate) low: f64,
    /// Largest round by the smallest of the other: the best case.
    pub(crate) high: f64,
}

/// `of` by `to`; `None` where one of them is no number or there is nothing to divide by.
pub(crate) fn ratio(of: &Entry, to: &Entry) -> Option<Ratio> {
    let divided = |a: f64, b: f64| {
        let ratio = a / b;
        (plausible(a) && plausible(b) && ratio.is_finite()).then_some(ratio)
    };
    let median = divided(of.median, to.median)?;
    Some(Ratio {
        median,
        low: divided(of.min, to.max).map_or(median, |low| low.min(median)),
        high: divided(of.max, to.min).map_or(median, |high| high.max(median)),
    })
}

/// What was sent, to which address, in how many flows, over which wire: entries that differ in nothing but the mode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Subject {
    pub(crate) workload: Workload,
    pub(crate) target: Target,
    pub(crate) wire: Wire,
    pub(crate) flows: u32,
}

impl Subject {
    /// Every one of which the run has an entry, sorted.
    pub(crate) fn all(run: &Run) -> Vec<Self> {
        let mut all: Vec<Self> = run
            .results
            .iter()
            .map(|entry| Self {
                workload: entry.workload,
                target: entry.target,
                wire: entry.wire,
                flows: entry.flows,
            })
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The entry of this subject in `mode`.
    pub(crate) fn entry(self, run: &Run, mode: Mode) -> Option<&Entry> {
        run.find(self.workload, self.target, mode, self.flows, self.wire)
    }

    /// `mode` by `against`.
    pub(crate) fn ratio(self, run: &Run, mode: Mode, against: Mode) -> Option<Ratio> {
        ratio(self.entry(run, mode)?, self.entry(run, against)?)
    }

    /// The least that `mode` must reach by the kernel's vxlan device, where something was promised.
    pub(crate) fn floor(self, mode: Mode) -> Option<f64> {
        match mode {
            Mode::Bare | Mode::Hostgw | Mode::Kernel => None,
            Mode::Slow => Some(0.98),
            Mode::Fast => Some(match self.workload {
                Workload::TcpCrr | Workload::OutsideRr => 0.97,
                Workload::TcpBulk => 1.0,
                _ if self.flows >= MANY_FLOWS => 1.5,
                Workload::TcpRr | Workload::UdpRr => 1.8,
                Workload::Udp64 => 1.5,
                Workload::Udp1400 => 1.7,
            }),
        }
    }
}

/// So many flows are each used a few times per second only.
const MANY_FLOWS: u32 = 10_000;

/// The least share of the bare host's result that request/response on the fast path must reach.
const BARE_FLOOR: f64 = 0.90;

/// One promise and what became of it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Check {
    pub(crate) subject: Subject,
    pub(crate) mode: Mode,
    pub(crate) against: Mode,
    pub(crate) floor: f64,
    /// `None`: one of the two was not measured, or gave no number.
    pub(crate) found: Option<Ratio>,
}

impl Check {
    /// Whether the median reached the floor; `None` if there is none.
    pub(crate) fn met(&self) -> Option<bool> {
        self.found.map(|ratio| ratio.median >= self.floor)
    }
}

/// Every promise about the subjects of `run`.
pub(crate) fn checks(run: &Run) -> Vec<Check> {
    let mut checks = Vec::new();
    for subject in Subject::all(run) {
        for mode in [Mode::Fast, Mode::Slow] {
            if let Some(floor) = subject.floor(mode) {
                checks.push(Check {
                    subject,
                    mode,
                    against: Mode::Kernel,
                    floor,
                    found: subject.ratio(run, mode, Mode::Kernel),
                });
            }
        }
        // Thousands of flows have a floor of their own: each is used so rarely that its probes count.
        if matches!(subject.workload, Workload::TcpRr | Workload::UdpRr) && subject.flows < MANY_FLOWS {
            checks.push(Check {
                subject,
                mode: Mode::Fast,
                against: Mode::Bare,
                floor: BARE_FLOOR,
                found: subject.ratio(run, Mode::Fast, Mode::Bare),
            });
        }
    }
    checks
}
