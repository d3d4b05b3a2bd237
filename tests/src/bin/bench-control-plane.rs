//! `cargo xtask bench control-plane`: one agent with a real API server and thousands of nodes.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use overlay_testbed::bench::ending::exit_code;
use overlay_testbed::control_plane_bench::{self, Options};

/// Measures how fast an agent follows a cluster of thousands of nodes, and what that costs.
///
/// Ends with exit code 0 unless a measurement went wrong. Needs root, and a kube-apiserver and etcd in the directory that
/// KUBEBUILDER_ASSETS names.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench control-plane --")]
struct Arguments {
    /// Few samples, 1,000 and 5,000 nodes: a look in less than three minutes
    #[arg(long)]
    quick: bool,
    /// Write the results to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a report with plots to FILE
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Sizes of the cluster [default: 1000,5000,15000, with --quick 1000,5000]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    nodes: Vec<u32>,
    /// End with exit code 1 also when a floor was missed
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        quick: arguments.quick,
        nodes: arguments.nodes,
        json: arguments.json,
        report: arguments.report,
    };
    exit_code(control_plane_bench::run(&options), arguments.check)
}
