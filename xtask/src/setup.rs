//! `cargo xtask setup`: brings an empty machine to the state in which everything here builds and runs.
//!
//! Idempotent, and fast where nothing is missing, because every other verb calls it first for what it needs.

mod bpf_linker;
mod components;
mod debian_mirror;
mod kube_apiserver;
mod packages;
mod rust_src;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::host;

/// What a verb needs from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// To compile the eBPF programs and the agent.
    Build,
    /// To check formatting and lints.
    Lint,
    /// To run the demo and the suites that send packets.
    Run,
    /// To run what talks to a Kubernetes API server: kube-apiserver and etcd, see [`api_server`].
    Api,
}

pub(crate) use kube_apiserver::ASSETS_VARIABLE;

/// Whether pieces that are already there are mentioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Report {
    All,
    ChangesOnly,
}

impl Report {
    fn present(self, what: &str) {
        if self == Self::All {
            say(&format!("{what}: present"));
        }
    }
}

/// Provides everything and says so.
///
/// # Errors
/// When a piece is missing and cannot be installed; all such pieces are named at once.
pub(crate) fn run() -> Result<()> {
    provide(&[Need::Build, Need::Lint, Need::Run, Need::Api], Report::All)?;
    say("everything is in place");
    Ok(())
}

/// Provides what `needs` names; silent where nothing is missing.
///
/// # Errors
/// When a piece is missing and cannot be installed; all such pieces are named at once.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    provide(needs, Report::ChangesOnly)
}

/// The folder with kube-apiserver and etcd that [`Need::Api`] provides: the value of [`ASSETS_VARIABLE`] for whoever
/// starts them.
///
/// # Errors
/// When they are not there.
pub(crate) fn api_server() -> Result<PathBuf> {
    kube_apiserver::folder()
}

fn provide(needs: &[Need], report: Report) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let mut problems = Vec::new();
    if needs.contains(&Need::Build) {
        problems.extend(rust_src::ensure(&toolchain, report).err());
        problems.extend(bpf_linker::ensure(report).err());
    }
    if needs.contains(&Need::Lint) {
        problems.extend(components::ensure(&toolchain, report).err());
    }
    if needs.contains(&Need::Run) {
        problems.extend(packages::ensure(report).err());
    }
    if needs.contains(&Need::Api) {
        problems.extend(kube_apiserver::ensure(report).err());
    }
    if problems.is_empty() {
        return Ok(());
    }
    let listed: Vec<String> = problems
        .iter()
        .map(|problem| format!("\n- {problem:#}"))
        .collect();
    bail!(
        "this machine lacks what is needed, and it could not be installed:{}",
        listed.concat()
    );
}

/// The Rust toolchain that builds this checkout.
struct Toolchain {
    /// The folder with the compiler's libraries.
    sysroot: PathBuf,
}

impl Toolchain {
    fn find() -> Result<Self> {
        let printed = host::output(Self::rustc().args(["--print", "sysroot"])).context(
            "the Rust compiler does not answer; install the toolchain that rust-toolchain.toml names",
        )?;
        Ok(Self {
            sysroot: PathBuf::from(printed.trim()),
        })
    }

    /// The compiler's version, such as `1.95.0`.
    fn version() -> Result<String> {
        let printed = host::output(Self::rustc().arg("--version"))?;
        printed
            .split_whitespace()
            .nth(1)
            .map(ToOwned::to_owned)
            .with_context(|| format!("`rustc --version` printed no version but {:?}", printed.trim()))
    }

    fn rustc() -> std::process::Command {
        let mut rustc = std::process::Command::new("rustc");
        // rustup chooses the toolchain by the folder.
        rustc.current_dir(host::workspace_root());
        rustc
    }
}

fn say(line: &str) {
    eprintln!("setup: {line}");
}
