//! rustfmt and clippy, which a minimal toolchain lacks.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::{Report, Toolchain, say};
use crate::host;

/// Each component, and the program that comes with it.
const COMPONENTS: [(&str, &str); 2] = [("rustfmt", "rustfmt"), ("clippy", "cargo-clippy")];

pub(super) fn ensure(toolchain: &Toolchain, report: Report) -> Result<()> {
    let bin = toolchain.sysroot.join("bin");
    let absent = missing(|program| provided(&bin, program));
    if absent.is_empty() {
        report.present("rustfmt and clippy");
        return Ok(());
    }
    let names = absent.join(" ");
    let command = format!("rustup component add {names}");
    if host::find_program("rustup").is_none() {
        bail!("the toolchain lacks {names}, and there is no rustup to add them; with rustup: {command}");
    }
    say(&format!(
        "{names}: adding with rustup (lint checks formatting and clippy)"
    ));
    let mut rustup = host::program("rustup");
    rustup
        .current_dir(host::workspace_root())
        .args(["component", "add"])
        .args(&absent);
    host::output(&mut rustup)
        .with_context(|| format!("the toolchain lacks {names}; this adds them: {command}"))?;
    let still = missing(|program| provided(&bin, program));
    if !still.is_empty() {
        bail!(
            "rustup reports success, yet {} still lacks {}: is rustc rustup's own?",
            bin.display(),
            still.join(" ")
        );
    }
    Ok(())
}

fn provided(bin: &Path, program: &str) -> bool {
    // rustup puts a proxy on PATH for every component, installed or not; only without rustup does PATH tell.
    bin.join(program).is_file()
        || (host::find_program("rustup").is_none() && host::find_program(program).is_some())
}

fn missing(provided: impl Fn(&str) -> bool) -> Vec<&'static str> {
    COMPONENTS
        .iter()
        .filter(|(_, program)| !provided(program))
        .map(|(component, _)| *component)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_added() {
        assert_eq!(missing(|_| true), Vec::<&str>::new());
        assert_eq!(missing(|program| program == "rustfmt"), ["clippy"]);
        assert_eq!(missing(|_| false), ["rustfmt", "clippy"]);
    }
}
