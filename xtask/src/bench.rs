//! `cargo xtask bench`: the overlay compared with bare nodes, routing, and the kernel's vxlan device.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    build::{self, Profile},
    demo::AGENT_VARIABLE,
    host,
    setup::{self, Need},
};

/// Where the results go unless told otherwise, below the checkout.
const RESULTS: &str = "target/bench/bench.json";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Short slices, few rounds, two numbers of flows: a look in less than three minutes
    #[arg(long)]
    quick: bool,
    /// Write the results to FILE, and a report with plots beside it, with the ending .html [default: target/bench/bench.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure only these workloads, as in tcp_rr,udp_64 [default: all]
    #[arg(long, value_name = "NAMES")]
    workloads: Option<String>,
    /// Measure only these modes of bare,hostgw,kernel,slow,fast [default: all]
    #[arg(long, value_name = "NAMES")]
    modes: Option<String>,
    /// How many rounds [default: 5, with --quick 3]
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// End with exit code 1 also when a floor was missed
    #[arg(long)]
    check: bool,
}

/// Builds the agent as it is released and becomes the benchmark.
///
/// # Errors
/// When the user is not root, the machine lacks a tool, or a build fails; the benchmark's own result is its exit code.
pub(crate) fn run(args: &Args) -> Result<()> {
    host::require_root("the benchmark's nodes", "bench")?;
    setup::ensure(&[Need::Build, Need::Run])?;
    let json = match &args.json {
        Some(path) => {
            std::path::absolute(path).with_context(|| format!("{} is no usable path", path.display()))?
        }
        None => host::workspace_root().join(RESULTS),
    };
    if let Some(folder) = json.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut bench = command(args, &json);
    bench.env(AGENT_VARIABLE, build::agent(Profile::Release)?);
    // In its place and not below it, so that Ctrl-C reaches the benchmark; its nodes end with it.
    let error = bench.exec();
    Err(error).context("cannot start the benchmark")
}

fn command(args: &Args, json: &Path) -> Command {
    let mut bench = host::cargo([
        "run",
        "--quiet",
        "--release",
        "--package",
        "overlay-testbed",
        "--bin",
        "bench",
        "--",
        "--json",
    ]);
    bench.arg(json);
    bench.arg("--report").arg(json.with_extension("html"));
    for (flag, given) in [("--quick", args.quick), ("--check", args.check)] {
        if given {
            bench.arg(flag);
        }
    }
    for (option, value) in [("--workloads", &args.workloads), ("--modes", &args.modes)] {
        if let Some(value) = value {
            bench.arg(option).arg(value);
        }
    }
    if let Some(rounds) = args.rounds {
        bench.arg("--rounds").arg(rounds.to_string());
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
            workloads: Some("tcp_rr,udp_64".to_owned()),
            modes: None,
            rounds: Some(9),
            check: true,
        };
        let line = host::shown(&command(&args, Path::new("/r/b.json")));
        assert_eq!(
            line.split_once(" -- ").map(|(_, rest)| rest),
            Some("--json /r/b.json --report /r/b.html --quick --check --workloads tcp_rr,udp_64 --rounds 9")
        );
    }
}
