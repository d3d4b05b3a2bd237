//! Measuring one case: the modes take turns, a slice each, until every one has had all its rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::bed::Bed;
use super::counters::Counters;
use super::load::{self, Cpus, Sample, Session};
use super::plan::{Case, LONGEST_WARM_UP, Plan};
use super::result::{Entry, Mode, Wire};
use super::stats;
use super::steal::Stolen;

/// How often a slice is measured until the hypervisor has left it alone.
pub(super) const ATTEMPTS: u32 = 4;
/// The part of a slice that may be stolen: one in so many.
pub(super) const TOLERATED: u32 = 50;

/// What each mode reached in `case`. What goes wrong in a mode is added to `problems`, and the mode is left out from then
/// on.
pub(super) fn case(
    case: Case,
    plan: &Plan,
    beds: &BTreeMap<Mode, Bed>,
    cpus: Cpus,
    problems: &mut Vec<String>,
) -> Result<Vec<Entry>> {
    if case.wire == Wire::Segments {
        beds.values().try_for_each(|bed| bed.set_wire(Wire::Segments))?;
    }
    let mut measuring = Measuring {
        case,
        plan,
        cpus,
        rates: BTreeMap::new(),
        problems,
    };
    let mut beds_left: BTreeMap<Mode, &Bed> = beds
        .iter()
        .filter(|(mode, _)| case.concerns(**mode))
        .map(|(mode, bed)| (*mode, bed))
        .collect();
    let rounds: Vec<_> = (0..plan.rounds(case)).collect();
    for rounds in rounds.chunks(case.rounds_of_a_connection()) {
        let failed = measuring.with_new_connections(&beds_left, rounds);
        beds_left.retain(|mode, _| !failed.contains(mode));
    }
    let entries = entries(case, &plan.modes, &measuring.rates);
    if case.wire == Wire::Segments {
        beds.values().try_for_each(|bed| bed.set_wire(Wire::Tso))?;
    }
    beds.values().try_for_each(Bed::forget_connections)?;
    Ok(entries)
}

/// What is known so far.
struct Measuring<'a> {
    case: Case,
    plan: &'a Plan,
    cpus: Cpus,
    rates: BTreeMap<Mode, Vec<f64>>,
    problems: &'a mut Vec<String>,
}

impl Measuring<'_> {
    /// Lets the modes take turns in these rounds. Answers with those that failed.
    fn with_new_connections(&mut self, beds: &BTreeMap<Mode, &Bed>, rounds: &[u32]) -> BTreeSet<Mode> {
        let (case, mut failed, mut turns) = (self.case, BTreeSet::new(), BTreeMap::new());
        for (mode, bed) in beds {
            match Turns::start(case, *mode, bed, self.cpus) {
                Ok(started) => drop(turns.insert(*mode, started)),
                Err(error) => {
                    self.report(*mode, &error);
                    failed.insert(*mode);
                }
            }
        }
        for round in rounds {
            let begins = round.is_multiple_of(case.stretch());
            let ends = Some(round) == rounds.last() || (round + 1).is_multiple_of(case.stretch());
            for mode in self.plan.order(case, *round) {
                let Some(mut turn) = turns.remove(&mode) else {
                    continue;
                };
                match turn.take(self.plan.slice, begins) {
                    Ok(sample) => {
                        let rate = sample.rate(case.workload);
                        self.rates.entry(mode).or_default().push(rate);
                        let way = if ends { turn.check() } else { Ok(()) };
                        if let Err(error) = way {
                            self.report(mode, &error);
                        }
                        turns.insert(mode, turn);
                    }
                    Err(error) => {
                        // Its connection may be gone.
                        self.report(mode, &error);
                        failed.insert(mode);
                        // Why it cannot end properly either is known already.
                        turn.session.stop().ok();
                    }
                }
            }
        }
        for (mode, stopped) in stop(turns) {
            if let Err(error) = stopped {
                self.report(mode, &error);
            }
        }
        failed
    }

    fn report(&mut self, mode: Mode, error: &anyhow::Error) {
        let problem = format!("{}, mode {mode}: {error:#}", self.case.name());
        println!("✗ {problem}");
        self.problems.push(problem);
    }
}

/// In the order of the modes.
fn entries(case: Case, modes: &[Mode], rates: &BTreeMap<Mode, Vec<f64>>) -> Vec<Entry> {
    let Case {
        workload,
        target,
        flows,
        wire,
    } = case;
    let entries = modes.iter().filter_map(|mode| {
        let rates = rates.get(mode)?;
        let (median, min, max) = stats::spread(rates)?;
        let rounds = u32::try_from(rates.len()).ok()?;
        Some(Entry {
            workload,
            target,
            mode: *mode,
            flows,
            wire,
            unit: workload.unit().to_owned(),
            median,
            min,
            max,
            rounds,
        })
    });
    entries.collect()
}

/// Ends all sessions at the same time: each takes a moment to notice.
fn stop(turns: BTreeMap<Mode, Turns<'_>>) -> Vec<(Mode, Result<()>)> {
    thread::scope(|scope| {
        let stopping: Vec<_> = turns
            .into_iter()
            .map(|(mode, turns)| (mode, scope.spawn(move || turns.session.stop())))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<()>>| {
            thread.join().map_err(|_| anyhow!("a thread panicked"))?
        };
        stopping
            .into_iter()
            .map(|(mode, thread)| (mode, join(thread)))
            .collect()
    })
}

/// One mode's turns.
struct Turns<'a> {
    case: Case,
    mode: Mode,
    bed: &'a Bed,
    cpus: Cpus,
    session: Box<dyn Session>,
    /// The agents' counters when this stretch began; none where there are no agents.
    before: Option<Counters>,
    /// What was counted in this stretch.
    all: Sample,
}

impl<'a> Turns<'a> {
    /// Opens the connections.
    fn start(case: Case, mode: Mode, bed: &'a Bed, cpus: Cpus) -> Result<Self> {
        let ends = bed.ends(case)?;
        Ok(Self {
            case,
            mode,
            bed,
            cpus,
            session: load::start(case, &ends, cpus)?,
            before: None,
            all: Sample::default(),
        })
    }

    /// One slice, the first one of a stretch if it `begins` one.
    fn take(&mut self, of_one_flow: Duration, begins: bool) -> Result<Sample> {
        if begins {
            self.warm_up()?;
            self.before = Counters::read(self.mode, self.bed)?;
            self.all = Sample::default();
        }
        // Another mode has been here, or the counters were read, which was work for the CPUs in some modes only.
        if let Some(touch) = self.case.touch() {
            self.measure(touch)?;
        }
        self.undisturbed(self.case.slice(of_one_flow))
    }

    fn warm_up(&mut self) -> Result<()> {
        let (start, mut transactions) = (Instant::now(), 0);
        loop {
            transactions += self.session.measure(self.case.warm_up())?.amount;
            if transactions >= self.case.warm_up_transactions(self.mode) || start.elapsed() >= LONGEST_WARM_UP
            {
                return Ok(());
            }
        }
    }

    fn measure(&mut self, duration: Duration) -> Result<Sample> {
        let sample = self.session.measure(duration)?;
        self.all.amount += sample.amount;
        self.all.lost += sample.lost;
        Ok(sample)
    }

    /// A slice in which the hypervisor hardly took the CPUs away: it is measured again where it did, [`ATTEMPTS`] times at
    /// most, and the least disturbed one counts.
    fn undisturbed(&mut self, duration: Duration) -> Result<Sample> {
        let mut best: Option<(Duration, Sample)> = None;
        for _ in 0..ATTEMPTS {
            let before = Stolen::read(self.cpus)?;
            let sample = self.measure(duration)?;
            let stolen = Stolen::read(self.cpus)?.since(before);
            if best.is_none_or(|(least, _)| stolen < least) {
                best = Some((stolen, sample));
            }
            if stolen < duration / TOLERATED {
                break;
            }
        }
        best.map(|(_, sample)| sample).context("a slice was not measured")
    }

    /// Whether the packets of this stretch went the right way.
    fn check(&self) -> Result<()> {
        if let Some(before) = &self.before
            && let Some(after) = Counters::read(self.mode, self.bed)?
        {
            after.check(before, self.mode, self.case, self.all.amount)?;
        }
        match self.all.lost {
            0 => Ok(()),
            lost => Err(anyhow!("{lost} datagrams were lost")),
        }
    }
}
