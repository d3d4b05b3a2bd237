//! kube-apiserver and etcd, for the suites and the benchmark that talk to a real Kubernetes API server.
//!
//! `KUBEBUILDER_ASSETS`, the ecosystem's variable for "use these binaries", is honoured. Without it they come from
//! Debian: etcd from its package, and kube-apiserver, which no package ships, built from the source package
//! `kubernetes` with that suite's Go, neither of which is installed. The result lies in a folder of ours that
//! outlives `cargo clean`.

mod build;
mod debian;
mod openapi;
mod store;

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result, bail};

use self::store::{Store, check};
use super::{Report, say};
use crate::host;

/// Names the directory with `kube-apiserver` and `etcd`.
pub(crate) const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// The server that Debian's source package makes.
const VERSION: &str = "1.20.2";

pub(super) fn ensure(report: Report) -> Result<()> {
    if let Some(folder) = given() {
        check_given(&folder)?;
        report.present(&format!(
            "kube-apiserver and etcd in {} ({ASSETS_VARIABLE})",
            folder.display()
        ));
        return Ok(());
    }
    let store = Store::of(VERSION)?;
    if store.is_filled() {
        report.present("kube-apiserver and etcd");
        return Ok(());
    }
    if let Some(tool) = missing_tool() {
        bail!("{}", explained(&format!("there is no {tool} here")));
    }
    say(&format!(
        "kube-apiserver {VERSION}: missing; building it from Debian's source package takes about 3 minutes on 2 cores"
    ));
    // Two runs at once would build in the same folder.
    let _lock = store.lock()?;
    if !store.is_filled() {
        fill(&store).map_err(|error| {
            // What was done stays, so that the next run goes on from there.
            let text = format!(
                "{error:#}; what is done so far is kept in {}",
                store.work().display()
            );
            anyhow::anyhow!(explained(&text))
        })?;
    }
    say(&format!(
        "kube-apiserver {VERSION} and etcd: in {}",
        store.root().display()
    ));
    Ok(())
}

/// The folder with both programs.
pub(super) fn folder() -> Result<PathBuf> {
    if let Some(folder) = given() {
        check_given(&folder)?;
        return Ok(folder);
    }
    let store = Store::of(VERSION)?;
    check(store.root()).context("run `cargo xtask setup`")?;
    Ok(store.root().to_owned())
}

/// Each step is skipped when an earlier run has finished it.
fn fill(store: &Store) -> Result<()> {
    let work = store.work();
    say("  fetching Debian's packages (125 MB)");
    debian::fetch(&work)?;
    say("  unpacking");
    debian::unpack(&work)?;
    let build = build::Build::in_folder(&work);
    say("  generating the API's description");
    build.openapi()?;
    say("  compiling kube-apiserver");
    let server = build.kube_apiserver(VERSION)?;
    store.adopt(&server, &debian::etcd(&work))
}

/// What the variable says, as an absolute path: the tests start elsewhere.
fn given() -> Option<PathBuf> {
    env::var_os(ASSETS_VARIABLE)
        .filter(|value| !value.is_empty())
        .map(|value| std::path::absolute(&value).unwrap_or_else(|_| PathBuf::from(value)))
}

fn check_given(folder: &std::path::Path) -> Result<()> {
    check(folder).with_context(|| {
        format!(
            "{ASSETS_VARIABLE} names {}, which must hold kube-apiserver and etcd; unset it, and both are made here",
            folder.display()
        )
    })
}

fn missing_tool() -> Option<&'static str> {
    ["apt-get", "apt-cache", "dpkg-deb", "tar"]
        .into_iter()
        .find(|tool| host::find_program(tool).is_none())
}

fn explained(why: &str) -> String {
    format!(
        "kube-apiserver and etcd are missing: {why}; either of these provides them: a reachable mirror of Debian \
         {suite} in apt's sources (the packages {packages} and the source package {source}), or \
         {ASSETS_VARIABLE}=<directory with kube-apiserver and etcd, of any version>",
        suite = debian::SUITE,
        packages = debian::PACKAGES.join(", "),
        source = debian::SOURCE,
    )
}

#[cfg(test)]
mod tests;
