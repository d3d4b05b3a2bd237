//! One agent per device: an advisory lock (`flock`) that the kernel releases when its holder dies.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Where the lock files are. Below `/run`, so that each node of a test, with a `/run` of its own, has its own.
pub const DIRECTORY: &str = "/run/overlay-agent";

/// Held for as long as the value lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock for `device`, creating `directory` if it is not there.
    ///
    /// # Errors
    ///
    /// When another process holds it (the message names it), or the file cannot be made.
    pub fn acquire(directory: &Path, device: &str) -> Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {} for the lock file", directory.display()))?;
        let path = directory.join(format!("{device}.lock"));
        loop {
            let file = Self::open(&path, device)?;
            // `remove` of another process may have unlinked what was just opened.
            if is_same(&file, &path)? {
                return Self::announce(file, path);
            }
        }
    }

    /// Opens the file and locks it.
    fn open(path: &Path, device: &str) -> Result<File> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("cannot open the lock file {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // The holder writes its id right after locking; a reader in between sees an empty file.
                let holder = match file.read_to_string(&mut holder) {
                    Ok(_) if !holder.trim().is_empty() => format!("process {}", holder.trim()),
                    Ok(_) | Err(_) => "another process".to_owned(),
                };
                bail!(
                    "{device} is already looked after by {holder} (lock {}): stop it first; \
                     only one agent may run for a device",
                    path.display()
                );
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Writes down who holds the lock.
    fn announce(mut file: File, path: PathBuf) -> Result<Self> {
        let mut write = || -> std::io::Result<()> {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            writeln!(file, "{}", std::process::id())
        };
        write().with_context(|| format!("cannot write to the lock file {}", path.display()))?;
        Ok(Self { file, path })
    }

    /// Removes the file, and the directory if it is empty, as the last thing that is done under the lock.
    ///
    /// # Errors
    ///
    /// When the file cannot be removed.
    pub fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))?;
        if let Some(Err(error)) = self.path.parent().map(fs::remove_dir) {
            log::debug!("the directory of the lock file stays: {error}");
        }
        Ok(())
    }
}

/// Whether `path` still names `file`.
fn is_same(file: &File, path: &Path) -> Result<bool> {
    let file = file
        .metadata()
        .with_context(|| format!("cannot examine {}", path.display()))?;
    match fs::metadata(path) {
        Ok(named) => Ok(named.ino() == file.ino() && named.dev() == file.dev()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot examine {}", path.display())),
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            log::debug!("unlocking: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = Lock::acquire(directory.path(), "flannel.1").unwrap();
        let error = Lock::acquire(directory.path(), "flannel.1")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        assert!(error.contains("flannel.1.lock"), "{error}");
        Lock::acquire(directory.path(), "flannel.2").unwrap();
        drop(first);
        Lock::acquire(directory.path(), "flannel.1").unwrap();
    }

    #[test]
    fn cleanup_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("overlay-agent");
        Lock::acquire(&directory, "flannel.1").unwrap().remove().unwrap();
        assert!(!directory.exists());
        Lock::acquire(&directory, "flannel.1").unwrap();
    }
}
