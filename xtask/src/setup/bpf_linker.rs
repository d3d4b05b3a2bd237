//! bpf-linker, which turns LLVM bitcode into the eBPF object.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{Report, say};
use crate::host;

/// The last line of releases that loads rustc's own LLVM 22; later ones want a system LLVM.
const VERSION: &str = "0.10.3";

#[derive(Debug, PartialEq, Eq)]
enum Installed {
    Right,
    Other(String),
    Missing,
}

pub(super) fn ensure(report: Report) -> Result<()> {
    let replaces = match installed() {
        Installed::Right => {
            report.present(&format!("bpf-linker {VERSION}"));
            return Ok(());
        }
        Installed::Missing => String::new(),
        Installed::Other(version) => format!(" in place of {version}"),
    };
    let mut install = host::cargo([
        "install",
        "bpf-linker",
        "--version",
        VERSION,
        "--locked",
        "--force",
    ]);
    say(&format!(
        "bpf-linker {VERSION}: installing with cargo{replaces}, takes about a minute (it links the eBPF object; \
         other versions do not fit this compiler's LLVM)"
    ));
    let command = host::shown(&install);
    host::run(&mut install).with_context(|| {
        format!(
            "bpf-linker {VERSION} is missing; with access to the crate registry, this provides it: {command}"
        )
    })?;
    match installed() {
        Installed::Right => Ok(()),
        Installed::Other(version) => bail!(
            "bpf-linker {VERSION} was installed, but PATH leads to {version} in {}; remove that one, or put cargo's \
             bin folder before it",
            location()
        ),
        Installed::Missing => bail!(
            "bpf-linker {VERSION} was installed by `{command}`, but is not to be found or does not start"
        ),
    }
}

fn installed() -> Installed {
    let Some(linker) = host::find_program("bpf-linker") else {
        return Installed::Missing;
    };
    classify(
        host::output(Command::new(linker).arg("--version"))
            .ok()
            .as_deref(),
    )
}

/// Reads the answer of `bpf-linker --version`; `None` when there was none.
fn classify(answer: Option<&str>) -> Installed {
    let Some(answer) = answer else {
        return Installed::Missing;
    };
    match answer.split_whitespace().nth(1) {
        Some(VERSION) => Installed::Right,
        Some(version) => Installed::Other(version.to_owned()),
        None => Installed::Other("an unknown version".to_owned()),
    }
}

fn location() -> String {
    host::find_program("bpf-linker").map_or_else(|| "PATH".to_owned(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_version_is_right() {
        assert_eq!(classify(Some("bpf-linker 0.10.3\n")), Installed::Right);
        assert_eq!(
            classify(Some("bpf-linker 0.10.30\n")),
            Installed::Other("0.10.30".to_owned())
        );
        assert_eq!(
            classify(Some("bpf-linker 0.11.0\n")),
            Installed::Other("0.11.0".to_owned())
        );
        assert_eq!(
            classify(Some("")),
            Installed::Other("an unknown version".to_owned())
        );
        assert_eq!(classify(None), Installed::Missing);
    }
}
