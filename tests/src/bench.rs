//! The benchmark: bare nodes, routing without overlay, the kernel's vxlan device, and the agent without and with its
//! fast path, side by side in one run.
//!
//! Only ratios within a run mean something: the machine may be shared, slow, or virtual. So the modes take turns in
//! short slices, in an order that changes from round to round, on pinned CPUs, and the median of the rounds counts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use self::bed::Bed;
use self::ending::Outcome;
use self::load::Cpus;
use self::plan::Plan;
use self::priority::Priority;
use self::result::{Mode, Run, Workload};
use crate::test_run_cost::{self, ProgramCost};
use crate::{agent, bench_report, requirements};

mod bed;
mod counters;
pub mod ending;
mod load;
pub(crate) mod machine;
mod measure;
mod plan;
pub(crate) mod priority;
pub mod result;
mod rules;
mod setup;
mod stats;
mod steal;
mod table;

/// What the benchmark shall do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Short slices, few rounds, and not every number of flows.
    pub quick: bool,
    /// Only these workloads; all when empty.
    pub workloads: Vec<Workload>,
    /// Only these numbers of flows; all when empty.
    pub flows: Vec<u32>,
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
    let plan = Plan::new(options);
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
    if with_agent && options.workloads.is_empty() && options.flows.is_empty() {
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
        let measured = measure::case(*case, &plan, &beds, cpus, &mut run.problems)
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
