//! The benchmark: bare nodes, routing without overlay, the kernel's vxlan device, and the agent without and with its
//! fast path, side by side in one run.
//!
//! Only ratios within a run mean something: the machine may be shared, slow, or virtual. So the modes take turns in
//! short slices, in an order that changes from round to round, on pinned CPUs, and the median of the rounds counts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use self::bed::Bed;
use self::counters::Counters;
use self::ending::Outcome;
use self::load::{Cpus, Sample, Session};
use self::plan::{Case, LONGEST_WARM_UP, Plan, TOUCH};
use self::priority::Priority;
use self::result::{Entry, Mode, Run, Wire, Workload};
use self::steal::Stolen;
use crate::test_run_cost::{self, ProgramCost};
use crate::{agent, bench_report, requirements};

mod bed;
mod counters;
pub mod ending;
mod load;
pub(crate) mod machine;
mod plan;
pub(crate) mod priority;
pub mod result;
mod rules;
mod setup;
mod stats;
mod steal;
mod table;

/// How often a slice is measured until the hypervisor has left it alone.
const ATTEMPTS: u32 = 4;
/// The part of a slice that may be stolen: one in so many.
const TOLERATED: u32 = 50;

/// What the benchmark shall do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Short slices, few rounds, and not every number of flows.
    pub quick: bool,
    /// Only these workloads; all when empty.
    pub workloads: Vec<Workload>,
    /// Only these modes; all when empty.
    pub modes: Vec<Mode>,
    /// Rounds, when not the usual number.
    pub rounds: Option<u32>,
    /// Where the results are written as JSON.
    pub json: Option<PathBuf>,
    /// Where the report is written as HTML.
    pub report: Option<PathBuf>,
}

/// Runs the benchmark and prints what it found.
///
/// # Errors
///
/// When it cannot be run at all; what goes wrong in a single case is among the run's problems.
pub fn run(options: &Options) -> Result<Outcome> {
    requirements::check()?;
    let plan = Plan::new(options.quick, &options.workloads, &options.modes, options.rounds);
    ensure!(
        !plan.cases.is_empty() && !plan.modes.is_empty(),
        "nothing to measure"
    );
    let with_agent = plan
        .modes
        .iter()
        .any(|mode| matches!(mode, Mode::Slow | Mode::Fast));
    if with_agent {
        agent::binary()?;
    }
    let _priority = Priority::raise()?;
    machine::allow_sockets()?;
    let cpus = Cpus::choose()?;
    let start = Instant::now();
    let mut run = Run {
        machine: machine::describe(with_agent)?,
        setup: setup::describe(&plan, cpus),
        quick: options.quick,
        results: Vec::new(),
        programs: Vec::new(),
        problems: Vec::new(),
    };
    if with_agent && options.workloads.is_empty() {
        match program_costs(cpus) {
            Ok(costs) => run.programs = costs,
            Err(error) => run.problems.push(format!("cost of the programs: {error:#}")),
        }
    }
    println!(
        "{} cases, {} modes, slices of {} ms: about {} s, and half as long again where the hypervisor disturbs them",
        plan.cases.len(),
        plan.modes.len(),
        plan.slice.as_millis(),
        plan.estimate().as_secs()
    );
    let beds = plan
        .modes
        .iter()
        .map(|mode| Ok((*mode, Bed::build(*mode)?)))
        .collect::<Result<BTreeMap<_, _>>>()?;
    for case in &plan.cases {
        let measured = measure_case(*case, &plan, &beds, cpus, &mut run.problems)
            .with_context(|| format!("while measuring {}", case.name()))?;
        table::print_case(*case, &measured);
        run.results.extend(measured);
    }
    drop(beds);
    run.machine.seconds = start.elapsed().as_secs();
    finish(&run, options)
}

/// What each program costs, on the CPU that receives.
fn program_costs(cpus: Cpus) -> Result<Vec<ProgramCost>> {
    test_run_cost::measure(&test_run_cost::Options::new(
        test_run_cost::object()?,
        cpus.receiver,
    ))
}

fn finish(run: &Run, options: &Options) -> Result<Outcome> {
    let outcome = table::print(run);
    if let Some(path) = &options.json {
        ending::write_json(run, path)?;
    }
    if let Some(path) = &options.report {
        bench_report::write(run, path)?;
        println!("report:  {}", path.display());
    }
    Ok(outcome)
}

/// The modes of one case, and what each round found.
struct Measuring<'a> {
    case: Case,
    plan: &'a Plan,
    beds: &'a BTreeMap<Mode, Bed>,
    sessions: BTreeMap<Mode, Box<dyn Session>>,
    rates: BTreeMap<Mode, Vec<f64>>,
}

fn measure_case(
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
        beds,
        sessions: BTreeMap::new(),
        rates: BTreeMap::new(),
    };
    let mut report = |mode: Mode, error: &anyhow::Error| {
        let problem = format!("{}, mode {mode}: {error:#}", case.name());
        println!("✗ {problem}");
        problems.push(problem);
    };
    for (mode, bed) in beds.iter().filter(|(mode, _)| case.concerns(**mode)) {
        match bed.ends(case).and_then(|ends| load::start(case, &ends, cpus)) {
            Ok(session) => drop(measuring.sessions.insert(*mode, session)),
            Err(error) => report(*mode, &error),
        }
    }
    for round in 0..plan.rounds(case) {
        for mode in plan.order(case, round) {
            // A mode that failed once is left out from then on: its connection may be gone.
            let Some(session) = measuring.sessions.get_mut(&mode) else {
                continue;
            };
            let bed = beds.get(&mode).context("no nodes for this mode")?;
            match slice(case, mode, bed, session.as_mut(), plan.slice, cpus) {
                Ok((sample, way)) => {
                    let rate = sample.rate(case.workload);
                    measuring.rates.entry(mode).or_default().push(rate);
                    if let Err(error) = way {
                        report(mode, &error);
                    }
                }
                Err(error) => {
                    report(mode, &error);
                    // Why it cannot end properly either is known already.
                    if let Some(session) = measuring.sessions.remove(&mode) {
                        session.stop().ok();
                    }
                }
            }
        }
    }
    for (mode, stopped) in stop(std::mem::take(&mut measuring.sessions)) {
        if let Err(error) = stopped {
            report(mode, &error);
        }
    }
    if case.wire == Wire::Segments {
        beds.values().try_for_each(|bed| bed.set_wire(Wire::Tso))?;
    }
    beds.values().try_for_each(Bed::forget_connections)?;
    Ok(measuring.entries())
}

/// Ends all sessions at the same time: each takes a moment to notice.
fn stop(sessions: BTreeMap<Mode, Box<dyn Session>>) -> Vec<(Mode, Result<()>)> {
    thread::scope(|scope| {
        let stopping: Vec<_> = sessions
            .into_iter()
            .map(|(mode, session)| (mode, scope.spawn(move || session.stop())))
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

/// One slice, and whether its packets went the right way.
fn slice(
    case: Case,
    mode: Mode,
    bed: &Bed,
    session: &mut dyn Session,
    duration: Duration,
    cpus: Cpus,
) -> Result<(Sample, Result<()>)> {
    let (start, mut warm) = (Instant::now(), 0);
    loop {
        warm += session.measure(case.warm_up())?.amount;
        if warm >= case.warm_up_transactions(mode) || start.elapsed() >= LONGEST_WARM_UP {
            break;
        }
    }
    let before = Counters::read(mode, bed)?;
    // Reading them was work for the CPUs, in some modes only.
    let mut all = session.measure(TOUCH)?;
    let sample = undisturbed(session, case.slice(duration), cpus, &mut all)?;
    let after = Counters::read(mode, bed)?;
    let mut way = match (before, after) {
        (Some(before), Some(after)) => after.check(&before, mode, case, all.amount),
        _ => Ok(()),
    };
    if all.lost > 0 {
        way = way.and_then(|()| Err(anyhow!("{} datagrams were lost", all.lost)));
    }
    Ok((sample, way))
}

/// A slice in which the hypervisor hardly took the CPUs away: it is measured again where it did, [`ATTEMPTS`] times at most,
/// and the least disturbed one counts. `all` gets what was counted in any of them.
fn undisturbed(
    session: &mut dyn Session,
    duration: Duration,
    cpus: Cpus,
    all: &mut Sample,
) -> Result<Sample> {
    let mut best: Option<(Duration, Sample)> = None;
    for _ in 0..ATTEMPTS {
        let before = Stolen::read(cpus)?;
        let sample = session.measure(duration)?;
        let stolen = Stolen::read(cpus)?.since(before);
        all.amount += sample.amount;
        all.lost += sample.lost;
        if best.is_none_or(|(least, _)| stolen < least) {
            best = Some((stolen, sample));
        }
        if stolen < duration / TOLERATED {
            break;
        }
    }
    best.map(|(_, sample)| sample).context("a slice was not measured")
}

impl Measuring<'_> {
    /// In the order of the modes.
    fn entries(&self) -> Vec<Entry> {
        let Case {
            workload,
            target,
            flows,
            wire,
        } = self.case;
        let modes = self.plan.modes.iter().filter(|mode| self.beds.contains_key(mode));
        let entries = modes.filter_map(|mode| {
            let rates = self.rates.get(mode)?;
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
}
