//! `cargo xtask demo`: a small overlay in network namespaces, shown at work.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    build::{self, Profile},
    host,
    setup::{self, Need},
};

/// Tells the testbed which agent to start.
pub(crate) const AGENT_VARIABLE: &str = "OVERLAY_AGENT_BIN";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave the nodes running at the end, and say how to look around
    #[arg(long)]
    keep: bool,
    /// How many nodes to start [default: 3]
    #[arg(long, value_name = "N")]
    nodes: Option<u8>,
    /// End what earlier demos with --keep left running, and do nothing else
    #[arg(long, conflicts_with_all = ["nodes", "keep"])]
    clean: bool,
}

/// Builds the agent and becomes the demo.
///
/// # Errors
/// When the user is not root, the machine lacks a tool, or a build fails; the demo's own result is its exit code.
pub(crate) fn run(args: &Args) -> Result<()> {
    host::require_root("the demo's nodes", "demo")?;
    setup::ensure(&[Need::Build, Need::Run])?;
    let mut demo = command(args);
    if !args.clean {
        demo.env(AGENT_VARIABLE, build::agent(Profile::Dev)?);
    }
    // In its place and not below it, so that Ctrl-C reaches the demo, which then cleans up.
    let error = demo.exec();
    Err(error).context("cannot start the demo")
}

/// Runs the demo with its defaults and waits for it.
///
/// # Errors
/// When a build fails or one of the demo's checks did not hold.
pub(crate) fn check() -> Result<()> {
    let agent = build::agent(Profile::Dev)?;
    host::run(
        command(&Args {
            keep: false,
            nodes: None,
            clean: false,
        })
        .env(AGENT_VARIABLE, agent),
    )
}

fn command(args: &Args) -> Command {
    let mut demo = host::cargo([
        "run",
        "--quiet",
        "--package",
        "overlay-testbed",
        "--bin",
        "demo",
        "--",
    ]);
    if args.keep {
        demo.arg("--keep");
    }
    if let Some(nodes) = args.nodes {
        demo.arg("--nodes").arg(nodes.to_string());
    }
    if args.clean {
        demo.arg("--clean");
    }
    demo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_gets_its_arguments() {
        let last = |args: &Args| {
            host::shown(&command(args))
                .split_once(" -- ")
                .map(|(_, rest)| rest.to_owned())
        };
        assert_eq!(
            last(&Args {
                keep: true,
                nodes: Some(5),
                clean: false
            })
            .as_deref(),
            Some("--keep --nodes 5")
        );
        assert_eq!(
            last(&Args {
                keep: false,
                nodes: None,
                clean: true
            })
            .as_deref(),
            Some("--clean")
        );
    }
}
