//! The command line.

mod args;
mod cleanup;
mod duration;
mod plan;
mod run;
mod settings;
mod status;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

pub use self::args::{Attach, Cli, Command, DataplaneArg, EbpfLog, NodeArgs, Switch};
use crate::logging;

/// Exit status of `plan --detailed-exitcode` when something would change.
pub const CHANGES: u8 = 2;

/// Parses the command line and does what it asks for.
///
/// Exit status 0: done; 1: failed, one line says why; 2: the command line is wrong (or see [`CHANGES`]).
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(code) => code,
        Err(error) => {
            // Nothing can be done when standard error is gone as well.
            let _gone = writeln!(io::stderr(), "overlay-agent: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> Result<ExitCode> {
    logging::start(cli.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let result = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(args).await.map(|()| ExitCode::SUCCESS),
            Command::Plan {
                node,
                detailed_exitcode,
            } => plan::plan(node, detailed_exitcode).await,
            Command::Cleanup(args) => cleanup::cleanup(&args).await,
            Command::Status(args) => status::status(&args).map(|()| ExitCode::SUCCESS),
        }
    });
    // A file that hangs in the kernel does not keep the agent from ending.
    runtime.shutdown_background();
    result
}
