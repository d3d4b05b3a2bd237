//! The two folders of the sources: where cargo looks for them, and where we keep those that we unpacked.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::release::verify;
use crate::host;

/// Where cargo looks for the sources: `<sysroot>/lib/rustlib/src/rust`.
pub(super) struct Place {
    pub(super) link: PathBuf,
}

impl Place {
    pub(super) fn of(sysroot: &Path) -> Self {
        Self {
            link: sysroot.join("lib/rustlib/src/rust"),
        }
    }

    pub(super) fn is_filled(&self) -> bool {
        let library = self.link.join("library");
        library.join("core/src/lib.rs").is_file() && library.join("Cargo.lock").is_file()
    }

    /// Removes a link that leads nowhere and an empty folder: both would stand in the way of every other way.
    pub(super) fn clear_leftovers(&self) -> Result<()> {
        let Ok(meta) = fs::symlink_metadata(&self.link) else {
            return Ok(());
        };
        let removed = if meta.is_symlink() {
            fs::remove_file(&self.link)
        } else {
            fs::remove_dir(&self.link)
        };
        match removed {
            Ok(()) => Ok(()),
            // An incomplete folder that somebody filled: rustup may complete it; we do not delete it.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            Err(error) => Err(error).with_context(|| format!("{} cannot be replaced", self.link.display())),
        }
    }

    pub(super) fn point_to(&self, root: &Path) -> Result<()> {
        let parent = self.link.parent().context("the sysroot has no parent folder")?;
        fs::create_dir_all(parent).with_context(|| format!("{} cannot be created", parent.display()))?;
        self.clear_leftovers()?;
        symlink(root, &self.link).with_context(|| {
            format!(
                "{} cannot be linked to {} (an incomplete folder there must be removed first)",
                self.link.display(),
                root.display()
            )
        })
    }
}

/// Our own folder for sources that did not come from rustup.
pub(super) struct Store {
    pub(super) root: PathBuf,
}

impl Store {
    pub(super) fn of(version: &str) -> Result<Self> {
        Ok(Self {
            root: host::cargo_home()?.join("overlay-rust-src").join(version),
        })
    }

    pub(super) fn is_filled(&self) -> bool {
        self.root.join("library/core/src/lib.rs").is_file()
    }

    /// Lets `fetch` put `library/` into a staging folder, checks it, and only then makes it the store.
    pub(super) fn fill(&self, version: &str, fetch: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let staging = self
            .root
            .with_file_name(format!("{version}.partial-{}", std::process::id()));
        fs::create_dir_all(&staging).with_context(|| format!("{} cannot be created", staging.display()))?;
        let filled = fetch(&staging)
            .and_then(|()| verify(&staging, version))
            .and_then(|()| self.adopt(&staging));
        if filled.is_err() {
            fs::remove_dir_all(&staging)
                .with_context(|| format!("{} cannot be removed", staging.display()))?;
        }
        filled
    }

    fn adopt(&self, staging: &Path) -> Result<()> {
        if self.root.exists() {
            fs::remove_dir_all(&self.root)
                .with_context(|| format!("{} cannot be replaced", self.root.display()))?;
        }
        fs::rename(staging, &self.root)
            .with_context(|| format!("{} cannot be moved to {}", staging.display(), self.root.display()))
    }
}
