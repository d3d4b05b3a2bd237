//! Flags from the environment, as flannel's `flagutil.SetFlagsFromEnv` takes them: `FLANNELD_KUBE_API_URL` is
//! `--kube-api-url`. Where flannel logs a bad value and goes on without it, this is an error.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use clap::error::{Error, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::error;

const PREFIX: &str = "FLANNELD_";
/// Flags of ours that the environment may give.
const OTHERS: [(&str, &str); 1] = [("node", "NODE_NAME")];

/// The environment of a process.
#[derive(Debug, Default)]
pub(in crate::cli) struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// This process's.
    pub(in crate::cli) fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// A variable that is there and not empty.
    pub(super) fn get(&self, name: impl AsRef<OsStr>) -> Option<&OsStr> {
        let value = self.0.get(name.as_ref()).map(OsString::as_os_str);
        value.filter(|value| !value.is_empty())
    }

    /// A variable that is there and not empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(|value| value.to_string_lossy().into_owned())
    }

    /// What the environment adds to the command line of a subcommand: `--flag=value` for each flag that is not on it.
    ///
    /// # Errors
    ///
    /// When a value cannot be the flag's: which variable, which value, and what is allowed.
    pub(super) fn flags(
        &self,
        command: &mut Command,
        name: &str,
        given: &ArgMatches,
        arguments: &[OsString],
    ) -> Result<Vec<OsString>, Error> {
        let mut added = Vec::new();
        for (long, id, variable) in variables(command, name) {
            let is_given = given.value_source(&id) == Some(ValueSource::CommandLine);
            let Some(value) = self.get(&variable).filter(|_| !is_given) else {
                continue;
            };
            let mut flag = OsString::from(format!("--{long}="));
            flag.push(value);
            let line = arguments.iter().chain([&flag]);
            if let Err(wrong) = command.try_get_matches_from_mut(line) {
                let text = format!(
                    "{variable}={} in the environment: {}",
                    value.to_string_lossy(),
                    first_paragraph(&wrong)
                );
                return Err(error(command, name, ErrorKind::InvalidValue, &text));
            }
            added.push(flag);
        }
        Ok(added)
    }

    /// Variables that look like flags of flannel and are none.
    pub(super) fn unknown(&self, command: &Command) -> Vec<String> {
        let known: Vec<_> = variables(command, "run")
            .into_iter()
            .map(|(.., variable)| variable)
            .collect();
        self.0
            .keys()
            .filter_map(|name| name.to_str())
            .filter(|name| name.starts_with(PREFIX) && !known.iter().any(|known| known == name))
            .map(str::to_owned)
            .collect()
    }
}

impl<N: Into<OsString>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

/// Flag, its id, and the variable, for each flag that may come from the environment.
fn variables(command: &Command, name: &str) -> Vec<(String, String, String)> {
    let flags = command
        .find_subcommand(name)
        .into_iter()
        .flat_map(Command::get_arguments);
    flags
        .filter_map(|flag| {
            let long = flag.get_long()?;
            let other = OTHERS.iter().find(|(other, _)| *other == long);
            let variable = match other {
                Some((_, variable)) => (*variable).to_owned(),
                None if is_flannels(flag) => variable(long),
                None => return None,
            };
            Some((long.to_owned(), flag.get_id().to_string(), variable))
        })
        .collect()
}

/// Whether it is a flag of flannel's.
pub(super) fn is_flannels(flag: &Arg) -> bool {
    flag.get_help_heading()
        .is_some_and(|heading| heading.starts_with("Flags of flannel"))
}

fn variable(long: &str) -> String {
    format!("{PREFIX}{}", long.to_ascii_uppercase().replace(['-', '.'], "_"))
}

/// The reason of an error without the usage.
fn first_paragraph(error: &Error) -> String {
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    paragraph
        .strip_prefix("error: ")
        .unwrap_or(paragraph)
        .trim_end()
        .to_owned()
}
