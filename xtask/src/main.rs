//! The project's commands: `cargo xtask <verb>`. One file per verb.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod build_ebpf;
mod ci;
mod demo;
mod host;
mod lint;
mod setup;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, tests and shows the overlay.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Installs whatever this machine lacks to build, test and show the overlay (every other verb does so by itself)
    Setup,
    /// Builds the eBPF object and lists its programs and maps
    BuildEbpf,
    /// Builds the agent, with the eBPF object inside
    Build(build::Args),
    /// Starts a small overlay in network namespaces, proves that it carries traffic, and cleans up (needs root)
    Demo(demo::Args),
    /// Compares the overlay with bare nodes, plain routing and the kernel's vxlan device, in namespaces; with
    /// `control-plane`: follows thousands of nodes of a real API server (needs root)
    Bench(bench::Args),
    /// Runs the test suites: all of them, or those that are named (most need root)
    Test(test::Args),
    /// Checks formatting and clippy, warnings being errors, for the host crates and the eBPF programs
    Lint,
    /// Runs everything that must hold before a change goes in: setup, lint, build-ebpf, test, demo
    Ci,
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup => setup::run()?,
        Verb::BuildEbpf => build_ebpf::run()?,
        Verb::Build(args) => build::run(&args)?,
        Verb::Demo(args) => demo::run(&args)?,
        Verb::Bench(args) => bench::run(&args)?,
        Verb::Test(args) => test::run(&args)?,
        Verb::Lint => lint::run()?,
        Verb::Ci => return Ok(ci::run()),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
