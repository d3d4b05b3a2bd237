//! `cargo xtask bench`: the overlay compared with bare nodes, routing, and the kernel's vxlan device; and
//! `cargo xtask bench control-plane`.

mod control_plane;

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
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    packets: PacketArgs,
}

/// Benchmarks of something else than packets.
#[derive(Debug, clap::Subcommand)]
enum Other {
    /// Measures how fast one agent follows a real API server with thousands of nodes, and what that costs (needs root)
    ControlPlane(control_plane::Args),
}

#[derive(Debug, clap::Args)]
struct PacketArgs {
    /// Short slices, few rounds, two numbers of flows: a look in about four minutes
    #[arg(long)]
    quick: bool,
    /// Write the results to FILE, and a report with plots beside it, with the ending .html [default: target/bench/bench.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure only these workloads, as in tcp_rr,udp_64 [default: all]
    #[arg(long, value_name = "NAMES")]
    workloads: Option<String>,
    /// Measure only with so many flows, as in 1,1000 [default: all]
    #[arg(long, value_name = "NUMBERS")]
    flows: Option<String>,
    /// Measure only these modes of bare,hostgw,kernel,slow,fast [default: all]
    #[arg(long, value_name = "NAMES")]
    modes: Option<String>,
    /// How many rounds [default: 120, one way 60, of many flows 20 and 7; with --quick 30, 15 and 3]
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
    if let Some(Other::ControlPlane(args)) = &args.other {
        return control_plane::run(args);
    }
    let args = &args.packets;
    host::require_root("the benchmark's nodes", "bench")?;
    setup::ensure(&[Need::Build, Need::Run])?;
    become_benchmark(command(args, &results(args.json.as_deref(), RESULTS)?))
}

/// Where the results go: an absolute path in a folder that exists; `otherwise`, below the checkout, unless told.
fn results(told: Option<&Path>, otherwise: &str) -> Result<PathBuf> {
    let json = match told {
        Some(path) => {
            std::path::absolute(path).with_context(|| format!("{} is no usable path", path.display()))?
        }
        None => host::workspace_root().join(otherwise),
    };
    if let Some(folder) = json.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    Ok(json)
}

/// Runs `bench` with the agent as it is released.
fn become_benchmark(mut bench: Command) -> Result<()> {
    bench.env(AGENT_VARIABLE, build::agent(Profile::Release)?);
    // In its place and not below it, so that Ctrl-C reaches the benchmark; its nodes end with it.
    let error = bench.exec();
    Err(error).context("cannot start the benchmark")
}

/// The benchmark `binary`, writing its results to `json` and its report beside them.
fn benchmark(binary: &str, json: &Path) -> Command {
    let mut bench = host::cargo([
        "run",
        "--quiet",
        "--release",
        "--package",
        "overlay-testbed",
        "--bin",
        binary,
        "--",
        "--json",
    ]);
    bench.arg(json);
    bench.arg("--report").arg(json.with_extension("html"));
    bench
}

fn command(args: &PacketArgs, json: &Path) -> Command {
    let mut bench = benchmark("bench", json);
    for (flag, given) in [("--quick", args.quick), ("--check", args.check)] {
        if given {
            bench.arg(flag);
        }
    }
    let parts = [
        ("--workloads", &args.workloads),
        ("--flows", &args.flows),
        ("--modes", &args.modes),
    ];
    for (option, value) in parts {
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
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn what_is_measured_is_told_by_a_word() {
        let parse = |line: &str| Line::try_parse_from(line.split(' ')).map(|line| line.args);
        let packets = parse("bench --quick --rounds 2").unwrap();
        assert!(packets.other.is_none() && packets.packets.quick && packets.packets.rounds == Some(2));
        let other = parse("bench control-plane --quick --nodes 100,200")
            .unwrap()
            .other;
        assert!(matches!(other, Some(Other::ControlPlane(_))));
        // Options of the one are none of the other.
        assert!(parse("bench --quick control-plane").is_err());
        assert!(parse("bench control-plane --rounds 2").is_err());
    }

    #[test]
    fn the_benchmark_gets_its_arguments() {
        let args = PacketArgs {
            quick: true,
            json: None,
            workloads: Some("tcp_rr,udp_64".to_owned()),
            flows: Some("1,32".to_owned()),
            modes: None,
            rounds: Some(9),
            check: true,
        };
        let line = host::shown(&command(&args, Path::new("/r/b.json")));
        assert_eq!(
            line.split_once(" -- ").map(|(_, rest)| rest),
            Some(
                "--json /r/b.json --report /r/b.html --quick --check --workloads tcp_rr,udp_64 --flows 1,32 --rounds 9"
            )
        );
    }
}
