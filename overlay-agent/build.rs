//! Builds the eBPF object and hands it to the agent: the object in `OUT_DIR`, its hash in `OVERLAY_OBJECT_HASH`.

#![forbid(unsafe_code)]

use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Where the build must look for changes, relative to the workspace.
const SOURCES: [&str; 5] = [
    "overlay-ebpf",
    "overlay-common/src",
    "overlay-common/Cargo.toml",
    "Cargo.toml",
    "Cargo.lock",
];

fn main() -> Result<()> {
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR").context("cargo did not set CARGO_MANIFEST_DIR")?;
    let workspace = Path::new(&manifest_dir)
        .parent()
        .context("overlay-agent is not inside its workspace")?;
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");

    let object = ebpf_build::build(workspace, &ebpf_build::default_target_dir(workspace))?;
    let bytes = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    let out_dir = env::var_os("OUT_DIR").context("cargo did not set OUT_DIR")?;
    let copy = Path::new(&out_dir).join(ebpf_build::PACKAGE);
    fs::write(&copy, &bytes).with_context(|| format!("cannot write {}", copy.display()))?;
    println!("cargo::rustc-env=OVERLAY_OBJECT_HASH={:016x}", fnv1a(&bytes));
    Ok(())
}

/// FNV-1a, 64 bits: tells objects apart, nothing more.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
