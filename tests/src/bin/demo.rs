//! `cargo xtask demo`: an overlay of a few nodes on this machine, shown at work and checked.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use overlay_testbed::demo::{self, Options};

/// Shows an overlay of a few nodes at work, in network namespaces of this machine, and checks every step.
///
/// Ends with exit code 0 only if every check held. Needs root. Nothing is left behind.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo --")]
struct Arguments {
    /// How many nodes to begin with
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=8))]
    nodes: u8,
    /// Leave the nodes running at the end, and say how to look around
    #[arg(long)]
    keep: bool,
    /// End what earlier demos with --keep left running, and do nothing else
    #[arg(long, conflicts_with_all = ["nodes", "keep"])]
    clean: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = if arguments.clean {
        demo::clean().map(|()| true)
    } else {
        demo::run(Options {
            nodes: arguments.nodes,
            keep: arguments.keep,
        })
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Without the backtrace that `{:?}` would add: the causes say what to do.
            eprintln!("\n✗ The demo ends here: {error:#}");
            ExitCode::FAILURE
        }
    }
}
