//! `cargo xtask build`: the agent, with the eBPF object inside.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    host,
    setup::{self, Need},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Build without optimisation, as the demo and the tests do
    #[arg(long)]
    debug: bool,
}

/// Builds the agent and says where it is.
///
/// # Errors
/// When the machine lacks a tool or the build fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Need::Build])?;
    let agent = agent(if args.debug {
        Profile::Dev
    } else {
        Profile::Release
    })?;
    let size = fs::metadata(&agent)
        .with_context(|| format!("{} cannot be read", agent.display()))?
        .len();
    println!("{} ({} KiB)", agent.display(), size.div_ceil(1024));
    Ok(())
}

/// How the agent is compiled.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// Builds the agent and returns the path of its binary.
///
/// # Errors
/// When the build fails.
pub(crate) fn agent(profile: Profile) -> Result<PathBuf> {
    let mut build = host::cargo(["build", "--package", "overlay-agent", "--bin", "overlay-agent"]);
    build.arg("--message-format=json-render-diagnostics");
    if matches!(profile, Profile::Release) {
        build.arg("--release");
    }
    executable(&messages(&mut build)?)
        .context("cargo built the agent, but did not say where it is: is overlay-agent's bin target there?")
}

/// Runs cargo with its diagnostics on our stderr, and returns the messages that it writes to stdout.
fn messages(build: &mut Command) -> Result<String> {
    let line = host::shown(build);
    let done = build
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !done.status.success() {
        bail!("`{line}` failed ({})", done.status);
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The last `executable` that cargo's JSON messages name. Reading one field needs no JSON library.
fn executable(messages: &str) -> Option<PathBuf> {
    const FIELD: &str = "\"executable\":\"";
    let start = messages.rfind(FIELD)? + FIELD.len();
    let path = messages.get(start..)?.split('"').next()?;
    // JSON escapes do not occur in the paths of sane checkouts; a wrong path would be worse than none.
    (!path.contains('\\')).then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_read_from_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"x"},"executable":null}
{"reason":"compiler-artifact","executable":"/t/debug/overlay-agent","fresh":true}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(
            executable(messages),
            Some(PathBuf::from("/t/debug/overlay-agent"))
        );
        assert_eq!(executable(r#"{"executable":null}"#), None);
        assert_eq!(executable(r#"{"executable":"/a\"b"}"#), None);
    }
}
