//! The command line.

mod args;
mod cleanup;
mod duration;
mod parse;
mod plan;
mod run;
mod settings;
mod status;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};

pub use self::args::{
    Attach, Cli, Command, DataplaneArg, EbpfLog, FlannelArgs, NodeArgs, Optional, PodName, Source, Switch,
};
use self::parse::{Environment, Parsed};
use crate::logging;

/// Exit status of `plan --detailed-exitcode` when something would change.
pub const CHANGES: u8 = 2;

/// Parses the command line and does what it asks for.
///
/// Exit status 0: done; 1: failed, one line says why; 2: the command line is wrong (or see [`CHANGES`]).
#[must_use]
pub fn main() -> ExitCode {
    let parsed = match parse::parse(std::env::args_os().collect(), &Environment::of_process()) {
        Ok(parsed) => parsed,
        Err(error) => error.exit(),
    };
    match start(parsed) {
        Ok(code) => code,
        Err(error) => {
            // Nothing can be done when standard error is gone as well.
            let _gone = writeln!(io::stderr(), "overlay-agent: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(parsed: Parsed) -> Result<ExitCode> {
    let Parsed { cli, level, notes } = parsed;
    logging::start(level)?;
    for note in notes {
        log::log!(note.level, "{}", note.text);
    }
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
