//! `cargo xtask bench control-plane`: one agent with a real API server and thousands of nodes.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::{become_benchmark, benchmark, results};
use crate::{
    host,
    setup::{self, ASSETS_VARIABLE, Need},
};

/// Where the results go unless told otherwise, below the checkout.
const RESULTS: &str = "target/bench/control-plane.json";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Few samples, 1,000 and 5,000 nodes: a look in less than three minutes
    #[arg(long)]
    quick: bool,
    /// Write the results to FILE, and a report with plots beside it, with the ending .html [default:
    /// target/bench/control-plane.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Sizes of the cluster, from 10 to 16000 [default: 1000,5000,15000, with --quick 1000,5000]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    nodes: Vec<u32>,
    /// End with exit code 1 also when a floor was missed
    #[arg(long)]
    check: bool,
}

/// Builds the agent as it is released, provides the API server, and becomes the benchmark.
///
/// # Errors
/// When the user is not root, the machine lacks a tool, or a build fails; the benchmark's own result is its exit code.
pub(super) fn run(args: &Args) -> Result<()> {
    host::require_root("the benchmark's nodes", "bench control-plane")?;
    setup::ensure(&[Need::Build, Need::Run, Need::Api])?;
    let mut bench = command(args, &results(args.json.as_deref(), RESULTS)?);
    bench.env(ASSETS_VARIABLE, setup::api_server()?);
    become_benchmark(bench)
}

fn command(args: &Args, json: &Path) -> Command {
    let mut bench = benchmark("bench-control-plane", json);
    for (flag, given) in [("--quick", args.quick), ("--check", args.check)] {
        if given {
            bench.arg(flag);
        }
    }
    if !args.nodes.is_empty() {
        let nodes: Vec<_> = args.nodes.iter().map(u32::to_string).collect();
        bench.arg("--nodes").arg(nodes.join(","));
    }
    bench
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_benchmark_gets_its_arguments() {
        let args = Args {
            quick: true,
            json: None,
            nodes: vec![1_000, 15_000],
            check: true,
        };
        let line = host::shown(&command(&args, Path::new("/r/c.json")));
        assert!(line.contains("--bin bench-control-plane"), "{line}");
        assert_eq!(
            line.split_once(" -- ").map(|(_, rest)| rest),
            Some("--json /r/c.json --report /r/c.html --quick --check --nodes 1000,15000")
        );
    }
}
