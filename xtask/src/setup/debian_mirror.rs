//! Debian's packages of other suites than the machine's, from the mirrors that its apt already uses.
//!
//! It works with an apt setup of its own (lists, cache and sources), so the system's stays as it is, and nothing is
//! installed: packages are unpacked where they are wanted.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::host;

/// The suite that carries current compilers for stable Debian.
pub(super) const SUITE: &str = "trixie-backports";

/// Debian's own keys; distributions derived from Debian do not have them.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
];

// Files in our apt's folder.
const SOURCE_LIST: &str = "sources.list";
const SYSTEMS_SOURCES: &str = "systems-sources.conf";
const OWN_SOURCES: &str = "own-sources.conf";

/// What a mirror is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Packages,
    PackagesAndSources,
}

/// Puts `library/` of the compiler `version` into `staging`.
///
/// # Errors
/// When no mirror has the package of exactly this version, with a line per mirror.
pub(super) fn fetch_library(version: &str, staging: &Path) -> Result<()> {
    let apt = PrivateApt::in_folder(staging.join("apt"))?;
    apt.try_mirrors(SUITE, Content::Packages, |apt| apt.fetch(version, staging))?;
    apt.remove()
}

/// An apt with state of its own, in one folder.
pub(super) struct PrivateApt {
    folder: PathBuf,
}

impl PrivateApt {
    /// Packages are downloaded into `folder`, too.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(super) fn in_folder(folder: PathBuf) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial", "unpacked"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("{} cannot be created", part.display()))?;
        }
        let apt = Self { folder };
        // apt's own user could not write into our folder.
        let common = format!(
            "Dir::State::Lists \"{0}/lists\";\nDir::Cache \"{0}/cache\";\n\
             APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n",
            apt.folder.display()
        );
        let own = format!(
            "{common}Dir::Etc::SourceList \"{}\";\nDir::Etc::SourceParts \"/dev/null\";\n\
             APT::Update::Error-Mode \"any\";\n",
            apt.folder.join(SOURCE_LIST).display()
        );
        apt.write(SYSTEMS_SOURCES, &common)?;
        apt.write(OWN_SOURCES, &own)?;
        Ok(apt)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
    }

    /// An apt command with the options of one of our files. The system's configuration (proxies, preferences) still
    /// applies where ours says nothing.
    fn command(&self, program: &str, options: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.folder)
            .arg("-c")
            .arg(self.folder.join(options));
        command
    }

    /// The mirrors of the system's own sources; asking touches no network.
    fn mirrors(&self) -> Result<Vec<String>> {
        let printed = host::output(
            self.command("apt-get", SYSTEMS_SOURCES)
                .args(["update", "--print-uris"]),
        )?;
        Ok(mirror_addresses(&printed))
    }

    /// Does `work` with the lists of `suite` from the first mirror with which it succeeds.
    ///
    /// # Errors
    /// When no mirror will do, with a line per mirror.
    pub(super) fn try_mirrors(
        &self,
        suite: &str,
        content: Content,
        work: impl Fn(&Self) -> Result<()>,
    ) -> Result<()> {
        let mirrors = self.mirrors()?;
        if mirrors.is_empty() {
            bail!("apt has no package mirror configured");
        }
        let mut failures = Vec::new();
        for mirror in &mirrors {
            match self.update(mirror, suite, content).and_then(|()| work(self)) {
                Ok(()) => return Ok(()),
                Err(error) => failures.push(format!("{mirror}: {error:#}")),
            }
        }
        bail!("no mirror of this machine has it: {}", failures.join("; "))
    }

    fn update(&self, mirror: &str, suite: &str, content: Content) -> Result<()> {
        let keyring = KEYRINGS.into_iter().find(|keyring| Path::new(keyring).is_file());
        self.write(SOURCE_LIST, &source_lines(mirror, suite, content, keyring))?;
        host::output(self.command("apt-get", OWN_SOURCES).arg("update")).map(drop)
    }

    /// Downloads packages, each a name or `name=version`.
    ///
    /// # Errors
    /// When one is not known or cannot be fetched.
    pub(super) fn download(&self, packages: &[&str]) -> Result<()> {
        let mut download = self.command("apt-get", OWN_SOURCES);
        host::output(download.arg("download").args(packages)).map(drop)
    }

    /// Downloads the files of a source package, `name=version`, and unpacks nothing.
    ///
    /// # Errors
    /// When it is not known or cannot be fetched.
    pub(super) fn download_source(&self, package: &str) -> Result<()> {
        let mut download = self.command("apt-get", OWN_SOURCES);
        host::output(download.args(["source", "--download-only", package])).map(drop)
    }

    fn fetch(&self, version: &str, staging: &Path) -> Result<()> {
        let offered = host::output(
            self.command("apt-cache", OWN_SOURCES)
                .args(["madison", "rust-src"]),
        )?;
        let Some(package) = matching_package(&offered, version) else {
            bail!("{SUITE} has no rust-src {version}");
        };
        let wanted = format!("rust-src={package}");
        self.download(&[&wanted])?;
        let archive = self.downloaded()?;
        let unpacked = self.folder.join("unpacked");
        host::output(Command::new("dpkg-deb").arg("-x").args([&archive, &unpacked]))?;
        let library = unpacked.join(format!("usr/src/rustc-{version}/library"));
        fs::rename(&library, staging.join("library"))
            .with_context(|| format!("rust-src {package} has no {}", library.display()))
    }

    fn downloaded(&self) -> Result<PathBuf> {
        let entries = fs::read_dir(&self.folder)
            .with_context(|| format!("{} cannot be read", self.folder.display()))?;
        entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get download reported success, but left no package")
    }

    /// Removes the folder and everything in it.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(super) fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("{} cannot be removed", self.folder.display()))
    }
}

/// The mirrors in the output of `apt-get update --print-uris`, each once, in its order.
///
/// A line is `'<mirror>/dists/<suite>/…' <file name> <size>`.
fn mirror_addresses(printed: &str) -> Vec<String> {
    let mut mirrors: Vec<String> = Vec::new();
    for line in printed.lines() {
        let Some((address, _)) = line.strip_prefix('\'').and_then(|rest| rest.split_once('\'')) else {
            continue;
        };
        let Some((mirror, _)) = address.split_once("/dists/") else {
            continue;
        };
        if !mirrors.iter().any(|known| known == mirror) {
            mirrors.push(mirror.to_owned());
        }
    }
    mirrors
}

fn source_lines(mirror: &str, suite: &str, content: Content, keyring: Option<&str>) -> String {
    let signed = keyring
        .map(|path| format!("[signed-by={path}] "))
        .unwrap_or_default();
    let kinds: &[&str] = match content {
        Content::Packages => &["deb"],
        Content::PackagesAndSources => &["deb", "deb-src"],
    };
    kinds
        .iter()
        .map(|kind| format!("{kind} {signed}{mirror} {suite} main\n"))
        .collect()
}

/// The package version of the compiler `version` in the output of `apt-cache madison`.
///
/// A line is `rust-src | 1.95.0+dfsg1-2~bpo13+1 | <source>`.
fn matching_package(offered: &str, version: &str) -> Option<String> {
    offered
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .find_map(|package| {
            let rest = package.strip_prefix(version)?;
            rest.starts_with(['+', '-', '~']).then(|| package.to_owned())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_from_the_systems_own_sources() {
        let printed = "\
'http://mirror.example/debian/dists/bookworm/InRelease' mirror.example_debian_dists_bookworm_InRelease 0
'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' mirror.example_Packages 0
'http://mirror.example/debian-security/dists/bookworm-security/InRelease' mirror.example_security 0
Reading package lists...
";
        assert_eq!(
            mirror_addresses(printed),
            [
                "http://mirror.example/debian",
                "http://mirror.example/debian-security"
            ]
        );
        assert!(mirror_addresses("").is_empty());
    }

    #[test]
    fn the_package_must_be_of_exactly_the_compilers_version() {
        let offered = "  rust-src | 1.96.1+dfsg1-2~bpo13+1 | http://mirror.example/debian trixie-backports/main\n\
                       \x20 rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://mirror.example/debian trixie-backports/main\n";
        assert_eq!(
            matching_package(offered, "1.95.0").as_deref(),
            Some("1.95.0+dfsg1-2~bpo13+1")
        );
        assert_eq!(matching_package(offered, "1.94.0"), None);
        assert_eq!(matching_package("rust-src | 1.95.01-1 | x", "1.95.0"), None);
        assert_eq!(matching_package("", "1.95.0"), None);
    }

    #[test]
    fn the_source_is_tied_to_debians_keys_where_they_are() {
        let mirror = "http://mirror.example/debian";
        assert_eq!(
            source_lines(mirror, "trixie-backports", Content::Packages, Some("/keys.gpg")),
            "deb [signed-by=/keys.gpg] http://mirror.example/debian trixie-backports main\n"
        );
        assert_eq!(
            source_lines(mirror, "bookworm", Content::PackagesAndSources, None),
            "deb http://mirror.example/debian bookworm main\ndeb-src http://mirror.example/debian bookworm main\n"
        );
    }
}
