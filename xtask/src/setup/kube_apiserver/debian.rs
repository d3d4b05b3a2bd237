//! What Debian has: the server's source, a Go that compiles it, two newer libraries, and etcd.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::store::{once, remove};
use crate::{
    host,
    setup::debian_mirror::{Content, PrivateApt},
};

/// The suite whose source package is whole: with everything that the server is built from.
pub(super) const SUITE: &str = "bookworm";

pub(super) const SOURCE: &str = "kubernetes";

pub(super) const PACKAGES: [&str; 5] = [
    "etcd-server",
    "golang-1.19-go",
    "golang-1.19-src",
    // The source's own copies of these two panic when a Go from 1.18 compiled them.
    "golang-github-json-iterator-go-dev",
    "golang-github-modern-go-reflect2-dev",
];

/// Where a Go package lies in the source's `vendor` and in Debian's packages.
const REPLACED: [&str; 2] = ["github.com/json-iterator/go", "github.com/modern-go/reflect2"];

/// Downloads everything into `work`.
pub(super) fn fetch(work: &Path) -> Result<()> {
    once(&downloads(work), |folder| {
        let apt = PrivateApt::in_folder(folder.to_owned())?;
        apt.try_mirrors(SUITE, Content::PackagesAndSources, |apt| {
            apt.download(&PACKAGES)?;
            apt.download_source(SOURCE)
        })
    })
}

/// Unpacks the packages, and the source to where a Go of its time looks for it.
pub(super) fn unpack(work: &Path) -> Result<()> {
    let downloads = downloads(work);
    once(&packages(work), |folder| {
        for package in PACKAGES {
            let archive = find(&downloads, &format!("{package}_"), ".deb")?;
            host::output(
                Command::new("dpkg-deb")
                    .arg("-x")
                    .args([archive.as_path(), folder]),
            )?;
        }
        Ok(())
    })?;
    once(&gopath(work), |folder| {
        let tree = folder.join("src/k8s.io/kubernetes");
        fs::create_dir_all(&tree).with_context(|| format!("{} cannot be created", tree.display()))?;
        let archive = find(&downloads, &format!("{SOURCE}_"), ".orig.tar.gz")?;
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(archive);
        host::output(tar.args(["--strip-components=1", "-C"]).arg(&tree))?;
        REPLACED.iter().try_for_each(|name| {
            let (old, new) = (
                tree.join("vendor").join(name),
                packages(work).join("usr/share/gocode/src").join(name),
            );
            remove(&old)?;
            host::output(Command::new("cp").arg("-r").args([&new, &old])).map(drop)
        })
    })
}

/// etcd among the unpacked packages.
pub(super) fn etcd(work: &Path) -> PathBuf {
    packages(work).join("usr/bin/etcd")
}

/// Go among the unpacked packages.
pub(super) fn goroot(work: &Path) -> PathBuf {
    packages(work).join("usr/lib/go-1.19")
}

/// The root of the unpacked source.
pub(super) fn gopath(work: &Path) -> PathBuf {
    work.join("gopath")
}

fn downloads(work: &Path) -> PathBuf {
    work.join("downloads")
}

fn packages(work: &Path) -> PathBuf {
    work.join("packages")
}

/// The file in `folder` whose name begins and ends so.
pub(super) fn find(folder: &Path, start: &str, end: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let found = paths.find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(start) && name.ends_with(end)
    });
    found.with_context(|| format!("{} has no file {start}…{end}", folder.display()))
}
