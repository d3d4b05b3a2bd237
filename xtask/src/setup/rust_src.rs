//! The library sources of the pinned compiler, from which cargo builds `core` for the BPF target.
//!
//! Three ways lead there, tried in this order: rustup, Debian's package of exactly this version, and the archive
//! that `OVERLAY_RUST_SRC` names. The last two land in a folder of ours that outlives `cargo clean` and toolchain
//! updates, and are linked to where cargo looks.

mod place;
mod release;

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use self::{
    place::{Place, Store},
    release::verify,
};
use super::{Report, Toolchain, debian_mirror, say};
use crate::host;

/// Names an archive with the `library/` folder of the compiler's sources.
const ARCHIVE_VARIABLE: &str = "OVERLAY_RUST_SRC";

#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// Sources that an earlier setup unpacked, perhaps for a toolchain that was reinstalled since.
    Kept,
    Rustup,
    Debian,
    Archive(PathBuf),
}

/// What this machine offers.
#[derive(Debug, Default)]
struct Offer {
    kept: bool,
    rustup: bool,
    /// apt-get, apt-cache and dpkg-deb.
    apt: bool,
    archive: Option<PathBuf>,
}

pub(super) fn ensure(toolchain: &Toolchain, report: Report) -> Result<()> {
    let place = Place::of(&toolchain.sysroot);
    if place.is_filled() {
        report.present("rust-src");
        return Ok(());
    }
    let version = Toolchain::version()?;
    let store = Store::of(&version)?;
    say(&format!(
        "rust-src {version}: missing (cargo builds core for the BPF target from it)"
    ));
    place.clear_leftovers()?;

    let (ways, impossible) = ways(&Offer {
        kept: store.is_filled(),
        rustup: host::find_program("rustup").is_some(),
        apt: ["apt-get", "apt-cache", "dpkg-deb"]
            .iter()
            .all(|tool| host::find_program(tool).is_some()),
        archive: env::var_os(ARCHIVE_VARIABLE)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from),
    });
    for reason in &impossible {
        say(&format!("  not possible: {reason}"));
    }
    for way in ways {
        say(&format!("  {}", describe(&way)));
        match provide(&way, &store, &place, &version) {
            Ok(()) => {
                say(&format!("rust-src {version}: in {}", place.link.display()));
                return Ok(());
            }
            Err(error) => {
                say(&format!("  failed: {error:#}"));
                place.clear_leftovers()?;
            }
        }
    }
    bail!(
        "rust-src {version} is missing in {} (why each way failed is said above); any of these provides it: \
         `rustup component add rust-src` with access to the toolchain server, Debian's package rust-src {version} \
         from a reachable mirror, or `{ARCHIVE_VARIABLE}=<archive of the library folder> cargo xtask setup`",
        place.link.display()
    )
}

/// The ways that this machine allows, in order, and why the others are out.
fn ways(offer: &Offer) -> (Vec<Way>, Vec<String>) {
    let mut ways = Vec::new();
    let mut out = Vec::new();
    if offer.kept {
        ways.push(Way::Kept);
    }
    if offer.rustup {
        ways.push(Way::Rustup);
    } else {
        out.push("rustup is not installed".to_owned());
    }
    if offer.apt {
        ways.push(Way::Debian);
    } else {
        out.push("this is no Debian system with apt-get, apt-cache and dpkg-deb".to_owned());
    }
    if let Some(archive) = &offer.archive {
        ways.push(Way::Archive(archive.clone()));
    } else {
        out.push(format!("{ARCHIVE_VARIABLE} names no archive"));
    }
    (ways, out)
}

fn describe(way: &Way) -> String {
    match way {
        Way::Kept => "linking the copy that an earlier setup unpacked".to_owned(),
        Way::Rustup => "rustup component add rust-src".to_owned(),
        Way::Debian => format!("Debian's package rust-src from {}", debian_mirror::SUITE),
        Way::Archive(path) => format!("the archive {} ({ARCHIVE_VARIABLE})", path.display()),
    }
}

fn provide(way: &Way, store: &Store, place: &Place, version: &str) -> Result<()> {
    match way {
        Way::Kept => place.point_to(&store.root)?,
        Way::Rustup => {
            let mut rustup = host::program("rustup");
            rustup
                .current_dir(host::workspace_root())
                .args(["component", "add", "rust-src"]);
            host::output(&mut rustup)?;
        }
        Way::Debian => {
            store.fill(version, |staging| debian_mirror::fetch_library(version, staging))?;
            place.point_to(&store.root)?;
        }
        Way::Archive(archive) => {
            store.fill(version, |staging| unpack(archive, staging))?;
            place.point_to(&store.root)?;
        }
    }
    verify(&place.link, version)
}

/// Unpacks the `library` folder of an archive, whatever tar can decompress.
fn unpack(archive: &Path, staging: &Path) -> Result<()> {
    // tar runs in the staging folder's parent; the name must not depend on where we are.
    let archive = archive
        .canonicalize()
        .with_context(|| format!("{} cannot be read", archive.display()))?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(&archive).arg("-C").arg(staging).arg("library");
    host::output(&mut tar)?;
    Ok(())
}

#[cfg(test)]
mod tests;
