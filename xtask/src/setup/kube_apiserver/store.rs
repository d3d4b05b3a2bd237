//! Our own folder for the finished programs, and beside it the one in which they are made.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::host;

/// Both programs, as whoever starts them looks for them.
const PROGRAMS: [&str; 2] = ["kube-apiserver", "etcd"];

pub(super) struct Store {
    root: PathBuf,
}

impl Store {
    pub(super) fn of(version: &str) -> Result<Self> {
        let root = host::cargo_home()?.join("overlay-kube-apiserver").join(version);
        Ok(Self { root })
    }

    #[cfg(test)]
    pub(super) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder with both programs.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder in which they are made; it is removed once they are.
    pub(super) fn work(&self) -> PathBuf {
        self.beside("build")
    }

    pub(super) fn is_filled(&self) -> bool {
        check(&self.root).is_ok()
    }

    /// Waits until no other process fills the store; the lock ends with the file, thus also with this process.
    pub(super) fn lock(&self) -> Result<File> {
        let path = self.beside("lock");
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("{} cannot be created", folder.display()))?;
        }
        let file = File::create(&path).with_context(|| format!("{} cannot be created", path.display()))?;
        file.lock()
            .with_context(|| format!("{} cannot be locked", path.display()))?;
        Ok(file)
    }

    /// Tries the programs, makes them the store, and removes what they were made from.
    pub(super) fn adopt(&self, server: &Path, etcd: &Path) -> Result<()> {
        let new = self.beside("new");
        remove(&new)?;
        fs::create_dir_all(&new).with_context(|| format!("{} cannot be created", new.display()))?;
        for (name, from) in PROGRAMS.into_iter().zip([server, etcd]) {
            let to = new.join(name);
            // By another process: one that is started meanwhile would inherit our handle, and the copy could not run.
            host::output(Command::new("cp").args([from, to.as_path()]))?;
            host::output(Command::new(&to).arg("--version"))
                .with_context(|| format!("{name} was made but does not run"))?;
        }
        remove(&self.root)?;
        fs::rename(&new, &self.root)
            .with_context(|| format!("{} cannot be moved to {}", new.display(), self.root.display()))?;
        remove(&self.work())
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.root.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{ending}"));
        self.root.with_file_name(name)
    }
}

/// Whether `folder` has both programs; the error names the first that is missing.
pub(super) fn check(folder: &Path) -> Result<()> {
    for name in PROGRAMS {
        if !folder.join(name).is_file() {
            bail!("there is no file {}", folder.join(name).display());
        }
    }
    Ok(())
}

/// Makes `folder`, unless an earlier run has: `work` fills another one, which then becomes it.
pub(super) fn once(folder: &Path, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let mut partial = folder.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    remove(&partial)?;
    fs::create_dir_all(&partial).with_context(|| format!("{} cannot be created", partial.display()))?;
    work(&partial)?;
    fs::rename(&partial, folder)
        .with_context(|| format!("{} cannot be moved to {}", partial.display(), folder.display()))
}

/// Removes a folder, if it is there.
pub(super) fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    fs::remove_dir_all(folder).with_context(|| format!("{} cannot be removed", folder.display()))
}
