//! Builds the eBPF object of `overlay-ebpf`.
//!
//! `cargo xtask build-ebpf` and overlay-agent's build script both come here, with the same flags and the same target
//! directory, so the object is compiled once. The directory is not the one of the outer cargo, which holds its lock
//! while a build script runs.

#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Package and binary of the eBPF programs.
pub const PACKAGE: &str = "overlay-ebpf";

/// Cargo profile of the object, in the workspace's Cargo.toml.
const PROFILE: &str = "ebpf";

/// The linker that turns LLVM bitcode into a BPF object.
const LINKER: &str = "bpf-linker";

/// Where eBPF builds of the workspace at `workspace_root` go: `ebpf` in cargo's target directory
/// (`CARGO_TARGET_DIR`, or `target`).
#[must_use]
pub fn default_target_dir(workspace_root: &Path) -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    workspace_root.join(target).join("ebpf")
}

/// Builds the object for this machine's architecture and returns its path below `target_dir`.
///
/// # Errors
///
/// When bpf-linker or the library sources are missing (the message says how to get them), or the build fails.
pub fn build(workspace_root: &Path, target_dir: &Path) -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let path = search_path();
    require_linker(path.as_deref())?;
    require_library_sources(workspace_root)?;

    let target = if cfg!(target_endian = "big") {
        "bpfeb-unknown-none"
    } else {
        "bpfel-unknown-none"
    };
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace_root)
        .args([
            "build",
            "--package",
            PACKAGE,
            "--bin",
            PACKAGE,
            "--profile",
            PROFILE,
            "--target",
            target,
        ])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(target_dir)
        // BPF targets have no prebuilt `core`; building it needs `-Z build-std`, for this one command only.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags());
    if let Some(path) = path {
        command.env("PATH", path);
    }
    // What cargo, clippy and coverage tools set for the host build must not reach this one.
    for variable in [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_RUSTFLAGS",
        "CLIPPY_ARGS",
        "CARGO_MAKEFLAGS",
        "MAKEFLAGS",
    ] {
        command.env_remove(variable);
    }
    // The manifest variables of the package whose build script runs, too: `-Z build-std` recompiles `core` when it
    // sees other ones.
    for (name, _) in env::vars_os() {
        let is_package_variable = name.to_str().is_some_and(|name| {
            [
                "CARGO_PKG_",
                "CARGO_CFG_",
                "CARGO_FEATURE_",
                "CARGO_MANIFEST_",
                "DEP_",
            ]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        });
        if is_package_variable {
            command.env_remove(name);
        }
    }
    let status = command
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("building the eBPF programs failed ({status}); the compiler's messages are above");
    }
    let object = target_dir.join(target).join(PROFILE).join(PACKAGE);
    if !object.is_file() {
        bail!(
            "the eBPF build succeeded, but left no object at {}",
            object.display()
        );
    }
    Ok(object)
}

/// Debug information becomes BTF; the host's architecture selects aya's bindings of `pt_regs` and the like.
fn rustflags() -> String {
    let arch = match env::consts::ARCH {
        riscv if riscv.starts_with("riscv64") => "riscv64",
        arch => arch,
    };
    [
        &format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
    ]
    .join("\x1f")
}

/// `PATH`, with cargo's own directory of binaries added: there `cargo install` puts bpf-linker.
fn search_path() -> Option<OsString> {
    let path = env::var_os("PATH")?;
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let directories = env::split_paths(&path).chain(cargo_home.map(|home| home.join("bin")));
    env::join_paths(directories).ok().or(Some(path))
}

fn require_linker(path: Option<&std::ffi::OsStr>) -> Result<()> {
    let found =
        path.is_some_and(|path| env::split_paths(path).any(|directory| directory.join(LINKER).is_file()));
    if !found {
        bail!(
            "{LINKER} is not installed: it links the eBPF programs. \
             `cargo xtask setup` installs it (cargo install bpf-linker --version 0.10.3 --locked)"
        );
    }
    Ok(())
}

fn require_library_sources(workspace_root: &Path) -> Result<()> {
    // Not `$RUSTC`: clippy and others set it to a wrapper. In the workspace, so that rustup picks its toolchain.
    let output = Command::new("rustc")
        .current_dir(workspace_root)
        .args(["--print", "sysroot"])
        .output()
        .context("cannot run rustc --print sysroot")?;
    let sysroot = String::from_utf8(output.stdout).context("rustc's sysroot is not UTF-8")?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    if !core.is_dir() {
        bail!(
            "the Rust library sources are not installed ({} is missing): the eBPF build compiles `core` from them. \
             `cargo xtask setup` installs them (rustup component add rust-src)",
            core.display()
        );
    }
    Ok(())
}
