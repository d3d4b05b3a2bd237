//! `cargo xtask lint`: formatting and clippy, warnings being errors.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{
    host,
    setup::{self, Need},
};

/// Checks everything and names what is not clean.
///
/// # Errors
/// When the machine lacks a tool or a check is not clean.
pub(crate) fn run() -> Result<()> {
    setup::ensure(&[Need::Build, Need::Lint])?;
    let results = results();
    let unclean: Vec<&str> = results
        .iter()
        .filter(|(_, clean)| !clean)
        .map(|(name, _)| *name)
        .collect();
    if !unclean.is_empty() {
        bail!("not clean: {}", unclean.join(", "));
    }
    println!("lint: {} checks clean", results.len());
    Ok(())
}

/// Runs every check, each whatever became of the others: its name and whether it was clean.
pub(crate) fn results() -> Vec<(&'static str, bool)> {
    checks()
        .into_iter()
        .map(|(name, mut check)| {
            println!("lint: {name}");
            let result = host::run(&mut check);
            if let Err(error) = &result {
                eprintln!("lint: {name}: {error:#}");
            }
            (name, result.is_ok())
        })
        .collect()
}

fn checks() -> [(&'static str, Command); 3] {
    let format = host::cargo(["fmt", "--all", "--check"]);
    let host_crates = host::cargo([
        "clippy",
        "--quiet",
        "--workspace",
        "--exclude=overlay-ebpf",
        "--all-targets",
        "--",
        "--deny=warnings",
    ]);
    let mut programs = host::cargo([
        "clippy",
        "--quiet",
        "--package=overlay-ebpf",
        "--target=bpfel-unknown-none",
        "-Zbuild-std=core",
    ]);
    // Unstable flags would make every host crate stale if they shared its folder.
    let folder = ebpf_build::default_target_dir(&host::workspace_root()).with_file_name("lint-ebpf");
    programs
        .arg("--target-dir")
        .arg(folder)
        .args(["--", "--deny=warnings"]);
    // core must be compiled for a target that ships none, which is an unstable feature of a stable compiler.
    programs.env("RUSTC_BOOTSTRAP", "1");
    [
        ("formatting", format),
        ("clippy, host crates", host_crates),
        ("clippy, eBPF programs", programs),
    ]
}
