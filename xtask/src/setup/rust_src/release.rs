//! Whether sources are complete, and of the compiler's release.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

/// Checks that `root` holds the complete library sources of `version`.
pub(super) fn verify(root: &Path, version: &str) -> Result<()> {
    let library = root.join("library");
    for file in [
        "Cargo.toml",
        "Cargo.lock",
        "core/Cargo.toml",
        "core/src/lib.rs",
        "alloc/src/lib.rs",
    ] {
        if !library.join(file).is_file() {
            bail!(
                "{} is not there: the sources are incomplete",
                library.join(file).display()
            );
        }
    }
    let mut marks = Marks::default();
    marks.read_folder(&library.join("core/src"), &Releases::around(version)?)?;
    marks
        .judge(version)
        .with_context(|| format!("{} is unusable", library.display()))
}

/// The stability marks that tell one release's sources from another's.
struct Releases {
    this: String,
    next: String,
}

impl Releases {
    /// The marks of `version` (`1.95.0`) and of the release after it.
    fn around(version: &str) -> Result<Self> {
        let mut parts = version.split('.');
        let (Some("1"), Some(minor)) = (parts.next(), parts.next()) else {
            bail!("{version:?} is no Rust version");
        };
        let minor: u32 = minor
            .parse()
            .with_context(|| format!("{version:?} is no Rust version"))?;
        Ok(Self {
            this: format!("since = \"1.{minor}.0\""),
            next: format!("since = \"1.{}.0\"", minor + 1),
        })
    }
}

/// What the sources say about their release: every release stabilises something in core.
#[derive(Debug, Default)]
struct Marks {
    this: bool,
    next: bool,
}

impl Marks {
    fn read_folder(&mut self, folder: &Path, releases: &Releases) -> Result<()> {
        let entries = fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
        for entry in entries {
            let path = entry
                .with_context(|| format!("{} cannot be read", folder.display()))?
                .path();
            if path.is_dir() {
                self.read_folder(&path, releases)?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("{} cannot be read", path.display()))?;
                self.this |= text.contains(&releases.this);
                self.next |= text.contains(&releases.next);
            }
        }
        Ok(())
    }

    fn judge(&self, version: &str) -> Result<()> {
        match (self.this, self.next) {
            (true, false) => Ok(()),
            (_, true) => bail!("its sources are newer than Rust {version}"),
            (false, false) => bail!("its sources are older than Rust {version}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_versions_are_refused() {
        for version in ["", "2.0.0", "1", "1.x.0"] {
            assert!(Releases::around(version).is_err(), "{version}");
        }
    }
}
