//! From the command line and the environment to flags: the command line counts more, then flannel's `FLANNELD_*`
//! variables, then the defaults.

mod environment;
mod notes;
mod shown;
mod single_dash;
#[cfg(test)]
mod tests;

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{CommandFactory, Error, FromArgMatches};
use log::LevelFilter;

pub(super) use self::environment::Environment;
pub(super) use self::notes::Note;
use super::args::{Cli, Command, NodeArgs, PodName};

/// The flags, and what is to be said about them once there is a log.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) cli: Cli,
    /// How much to log.
    pub(super) level: LevelFilter,
    pub(super) notes: Vec<Note>,
}

/// Reads `arguments`, of which the first is the program's name.
///
/// # Errors
///
/// When they are wrong (exit status 2), or ask for help or the version: it prints itself.
pub(super) fn parse(arguments: Vec<OsString>, environment: &Environment) -> Result<Parsed, Error> {
    let mut command = Cli::command();
    command.build();
    single_dash::check(&arguments, &mut command)?;
    let first = command
        .try_get_matches_from_mut(&arguments)
        .map_err(explain_positional)?;
    let matches = match first.subcommand() {
        Some((name @ ("run" | "plan"), flags)) => {
            let added = environment.flags(&mut command, name, flags, &arguments)?;
            command.try_get_matches_from_mut(arguments.into_iter().chain(added))?
        }
        _ => first,
    };
    let mut cli = Cli::from_arg_matches(&matches)?;
    let mut level = cli.log;
    let mut notes = Vec::new();
    if let (Some((name, flags)), Command::Run(args) | Command::Plan { node: args, .. }) =
        (matches.subcommand(), &mut cli.command)
    {
        args.pod = PodName {
            name: environment.text("POD_NAME"),
            namespace: environment.text("POD_NAMESPACE"),
        };
        check(args, name, &mut command)?;
        if matches.value_source("log") == Some(ValueSource::DefaultValue) {
            level = args.flannel.log_level();
        }
        if name == "run" {
            notes.push(Note::info(format!(
                "CLI flags config: {}",
                shown::flags(&mut command, name, flags)
            )));
        }
        notes.extend(notes::of(args, flags, environment));
    }
    Ok(Parsed { cli, level, notes })
}

/// What is wrong with flags that are right one by one.
fn check(args: &NodeArgs, name: &str, command: &mut clap::Command) -> Result<(), Error> {
    args.source()
        .map_err(|text| error(command, name, ErrorKind::MissingRequiredArgument, &text))?;
    if args.leases.is_some() && args.node.is_none() {
        let text = "--node is missing: the name by which this node's lease is found in --leases (or set NODE_NAME in the \
                    environment)";
        return Err(error(command, name, ErrorKind::MissingRequiredArgument, text));
    }
    Ok(())
}

/// An error of a subcommand, with its usage.
fn error(command: &mut clap::Command, name: &str, kind: ErrorKind, text: &str) -> Error {
    match command.find_subcommand_mut(name) {
        Some(subcommand) => subcommand.error(kind, text),
        None => command.error(kind, text),
    }
}

/// Says why something that is no flag may stand there: flannel ends reading at it, and silently drops the rest.
fn explain_positional(mut error: Error) -> Error {
    let stray = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) if !text.starts_with('-') => text.clone(),
        _ => return error,
    };
    if error.kind() == ErrorKind::UnknownArgument {
        let tip = format!(
            "nothing but flags is read here. If '{stray}' is the value of a flag that is on or off, write it with `=`, as in \
             --ip-masq={stray}"
        );
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}
