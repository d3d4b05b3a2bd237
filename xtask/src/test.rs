//! `cargo xtask test`: the suites, and a table of what they found.

mod outcome;
mod suite;

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;

pub(crate) use self::outcome::Tally;
use self::{
    outcome::{Outcome, table},
    suite::Suite,
};
use crate::{
    build::{self, Profile},
    demo::AGENT_VARIABLE,
    host,
    setup::{self, Need},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The suites to run [default: all]
    suites: Vec<Suite>,
    /// Arguments for the tests themselves, such as a part of their names or --nocapture
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Runs the suites that `args` names, all of them without a name.
///
/// # Errors
/// When the user is not root and a suite needs it, the machine lacks a tool, or a suite is not good.
pub(crate) fn run(args: &Args) -> Result<()> {
    let suites = if args.suites.is_empty() {
        Suite::value_variants()
    } else {
        args.suites.as_slice()
    };
    let tally = run_suites(suites, &args.rest)?;
    if tally.failed > 0 {
        bail!("{} passed, {} failed", tally.passed, tally.failed);
    }
    Ok(())
}

/// Runs every suite and counts the tests.
///
/// # Errors
/// When the user is not root or the machine lacks a tool; failing tests are in the tally.
pub(crate) fn check() -> Result<Tally> {
    run_suites(Suite::value_variants(), &[])
}

fn run_suites(suites: &[Suite], rest: &[String]) -> Result<Tally> {
    let privileged: Vec<&str> = suites
        .iter()
        .filter(|suite| suite.needs_root())
        .map(|suite| suite.name())
        .collect();
    if privileged.is_empty() {
        setup::ensure(&[Need::Build])?;
    } else {
        host::require_root(&format!("the suites {}", privileged.join(", ")), &verb(suites))?;
        setup::ensure(&[Need::Build, Need::Run])?;
    }
    let assets = if suites.iter().any(|suite| suite.needs_api_server()) {
        setup::ensure(&[Need::Api])?;
        Some(setup::api_server()?)
    } else {
        None
    };
    let agent = if privileged.is_empty() {
        None
    } else {
        Some(build::agent(Profile::Dev)?)
    };
    let outcomes: Vec<Outcome> = suites
        .iter()
        .map(|suite| run_suite(*suite, agent.as_deref(), assets.as_deref(), rest))
        .collect();
    print!("\n{}", table(&outcomes));
    Ok(outcomes.iter().map(Outcome::tally).sum())
}

/// What to call for these suites.
fn verb(suites: &[Suite]) -> String {
    let named = if suites == Suite::value_variants() {
        &[]
    } else {
        suites
    };
    named.iter().fold("test".to_owned(), |line, suite| {
        format!("{line} {}", suite.name())
    })
}

fn run_suite(suite: Suite, agent: Option<&Path>, assets: Option<&Path>, rest: &[String]) -> Outcome {
    println!("\n=== {}: {}", suite.name(), suite.about());
    let started = Instant::now();
    let mut outcome = Outcome::new(suite.name());
    for run in suite.runs() {
        let mut tests = host::cargo(["test", "--no-fail-fast"]);
        tests
            .args(*run)
            .args((!run.contains(&"--")).then_some("--"))
            .args(rest);
        if let Some(agent) = agent {
            tests.env(AGENT_VARIABLE, agent);
        }
        if let Some(assets) = assets {
            tests.env(setup::ASSETS_VARIABLE, assets);
        }
        if let Err(error) = follow(&mut tests, &mut outcome) {
            eprintln!("{}: {error:#}", suite.name());
            outcome.problem = Some(format!("{error:#}"));
        }
    }
    outcome.seconds = started.elapsed().as_secs_f64();
    outcome
}

/// Runs the tests, shows their output as it comes, and reads the results out of it.
fn follow(tests: &mut Command, outcome: &mut Outcome) -> Result<()> {
    let line = host::shown(tests);
    let mut child = tests
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let stdout = child.stdout.take().context("the tests have no output")?;
    for text in BufReader::new(stdout).split(b'\n') {
        let text = text.context("the tests' output cannot be read")?;
        let text = String::from_utf8_lossy(&text);
        println!("{text}");
        outcome.read(&text);
    }
    let status = child
        .wait()
        .with_context(|| format!("`{line}` cannot be waited for"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_for_root_is_the_one_that_was_typed() {
        assert_eq!(verb(Suite::value_variants()), "test");
        assert_eq!(verb(&[Suite::Packet, Suite::Datapath]), "test packet datapath");
    }
}
