//! Flags with one dash, as Go takes them: clap reads `-healthz-port` as `-h`, and prints help.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Command, Error};

/// An error for the first flag that would be one with another dash.
pub(super) fn check(arguments: &[OsString], command: &mut Command) -> Result<(), Error> {
    let flags = arguments.iter().skip(1).take_while(|argument| *argument != "--");
    for flag in flags.filter_map(|argument| argument.to_str()) {
        let Some(rest) = flag.strip_prefix('-').filter(|rest| !rest.starts_with('-')) else {
            continue;
        };
        let name = rest.split_once('=').map_or(rest, |(name, _)| name);
        if is_long_flag(command, name) {
            return Err(command.error(
                ErrorKind::UnknownArgument,
                format!("unexpected argument '-{name}': flags have two dashes here, write '--{rest}'"),
            ));
        }
    }
    Ok(())
}

fn is_long_flag(command: &Command, name: &str) -> bool {
    let of = |command: &Command| command.get_arguments().any(|flag| flag.get_long() == Some(name));
    of(command) || command.get_subcommands().any(of)
}
