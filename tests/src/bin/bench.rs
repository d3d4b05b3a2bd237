//! `cargo xtask bench`: the overlay compared with bare nodes, routing, and the kernel's vxlan device.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use overlay_testbed::bench::ending::exit_code;
use overlay_testbed::bench::result::{Mode, Workload};
use overlay_testbed::bench::{self, Options};

/// Compares the overlay with bare nodes, plain routing, and the kernel's vxlan device, side by side in one run.
///
/// Ends with exit code 0 unless a measurement went wrong. Needs root, two CPUs and little else to do for the machine.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench --")]
struct Arguments {
    /// Short slices, few rounds, two numbers of flows: a look in about four minutes
    #[arg(long)]
    quick: bool,
    /// Write the results to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a report with plots to FILE
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Measure only these workloads
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = workload())]
    workloads: Vec<Workload>,
    /// Measure only with so many flows
    #[arg(long, value_name = "N", value_delimiter = ',')]
    flows: Vec<u32>,
    /// Measure only these modes
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = mode())]
    modes: Vec<Mode>,
    /// How many rounds [default: 120, one way 60, of many flows 20 and 7; with --quick 30, 15 and 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// End with exit code 1 also when a floor was missed
    #[arg(long)]
    check: bool,
}

fn workload() -> impl clap::builder::TypedValueParser<Value = Workload> {
    PossibleValuesParser::new(Workload::ALL.map(Workload::name)).try_map(|name| {
        let found = Workload::ALL.into_iter().find(|workload| workload.name() == name);
        found.ok_or("no such workload")
    })
}

fn mode() -> impl clap::builder::TypedValueParser<Value = Mode> {
    PossibleValuesParser::new(Mode::ALL.map(Mode::name)).try_map(|name| {
        let found = Mode::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or("no such mode")
    })
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        quick: arguments.quick,
        workloads: arguments.workloads,
        flows: arguments.flows,
        modes: arguments.modes,
        rounds: arguments.rounds,
        json: arguments.json,
        report: arguments.report,
    };
    exit_code(bench::run(&options), arguments.check)
}
