//! One agent per device, and one per pin directory: advisory locks (`flock`) that the kernel releases when their holder
//! dies.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Where the lock files are. Below `/run`, so that each node of a test, with a `/run` of its own, has its own.
pub const DIRECTORY: &str = "/run/overlay-agent";

/// The right to look after a device and a pin directory.
#[derive(Debug)]
pub struct Locks {
    device: Lock,
    pin_dir: Lock,
}

impl Locks {
    /// Takes the locks for `device` and for `pin_dir`, which need not exist.
    ///
    /// # Errors
    ///
    /// When another process holds one of them (the message names it), or a file cannot be made.
    pub fn acquire(directory: &Path, device: &str, pin_dir: &Path) -> Result<Self> {
        let device = Lock::acquire(directory, device)?;
        match Lock::acquire_pin_dir(directory, pin_dir) {
            Ok(pin_dir) => Ok(Self { device, pin_dir }),
            Err(error) => {
                if let Err(error) = device.remove() {
                    log::debug!("{error:#}");
                }
                Err(error)
            }
        }
    }

    /// Removes the files, and the directory if it is empty, as the last thing that is done under the locks.
    ///
    /// # Errors
    ///
    /// When a file cannot be removed.
    pub fn remove(self) -> Result<()> {
        let Self { device, pin_dir } = self;
        pin_dir.remove()?;
        device.remove()
    }
}

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
        Self::take(directory, &format!("{device}.lock"), |holder, path| {
            format!(
                "{device} is already looked after by {holder} (lock {path}): stop it first; \
                 only one agent may run for a device"
            )
        })
    }

    /// Takes the lock for the pin directory `pin_dir`, creating `directory` if it is not there. However `pin_dir` is
    /// written, it is the same lock.
    ///
    /// # Errors
    ///
    /// When another process holds it (the message names it), or the file cannot be made.
    pub fn acquire_pin_dir(directory: &Path, pin_dir: &Path) -> Result<Self> {
        let pin_dir = resolve(pin_dir)
            .with_context(|| format!("cannot tell which directory {} is (--pin-dir)", pin_dir.display()))?;
        Self::take(directory, &file_name(&pin_dir), |holder, path| {
            format!(
                "the pin directory {} is already used by {holder} (lock {path}): stop that agent first, \
                 or choose another directory with --pin-dir; only one agent may use a pin directory",
                pin_dir.display()
            )
        })
    }

    fn take(directory: &Path, name: &str, taken: impl Fn(&str, &str) -> String) -> Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {} for the lock file", directory.display()))?;
        let path = directory.join(name);
        loop {
            let file = Self::open(&path, &taken)?;
            // `remove` of another process may have unlinked what was just opened.
            if is_same(&file, &path)? {
                return Self::announce(file, path);
            }
        }
    }

    /// Opens the file and locks it.
    fn open(path: &Path, taken: impl Fn(&str, &str) -> String) -> Result<File> {
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
                bail!(taken(&holder, &path.display().to_string()));
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

/// The directory itself, whichever of its names it was called by. It need not exist.
fn resolve(directory: &Path) -> std::io::Result<PathBuf> {
    let directory = std::path::absolute(directory)?;
    let existing = directory.ancestors().find(|path| path.exists());
    let Some(existing) = existing else {
        return Ok(directory);
    };
    let missing = directory.strip_prefix(existing).unwrap_or(Path::new(""));
    // `components` drops the separator that joining nothing leaves at the end.
    Ok(existing.canonicalize()?.join(missing).components().collect())
}

/// Name of the lock file of a pin directory: its path, percent-encoded as in a URL.
fn file_name(pin_dir: &Path) -> String {
    let mut name = String::new();
    for byte in pin_dir.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => name.push(char::from(*byte)),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name.push_str(".lock");
    name
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
    fn a_pin_directory_has_one_lock_by_whatever_name() {
        let directory = tempfile::tempdir().unwrap();
        let locks = directory.path().join("locks");
        let pins = directory.path().join("pins");
        fs::create_dir(&pins).unwrap();
        std::os::unix::fs::symlink(&pins, directory.path().join("link")).unwrap();
        let first = Locks::acquire(&locks, "flannel.1", &pins.join("overlay")).unwrap();
        for name in ["pins/overlay", "pins/overlay/", "pins/./overlay", "link/overlay"] {
            let error = Locks::acquire(&locks, "flannel.2", &directory.path().join(name))
                .unwrap_err()
                .to_string();
            for part in ["pins/overlay is already used", "process ", "--pin-dir"] {
                assert!(error.contains(part), "{name}: {error}");
            }
            assert!(!locks.join("flannel.2.lock").exists(), "{name}: nothing is left");
        }
        let second = Locks::acquire(&locks, "flannel.2", &pins.join("other")).unwrap();
        first.remove().unwrap();
        Locks::acquire(&locks, "flannel.3", &pins.join("overlay"))
            .unwrap()
            .remove()
            .unwrap();
        second.remove().unwrap();
        assert!(!locks.exists());
    }

    #[test]
    fn the_lock_of_a_pin_directory_names_it() {
        assert_eq!(
            file_name(Path::new("/sys/fs/bpf/overlay")),
            "%2Fsys%2Ffs%2Fbpf%2Foverlay.lock"
        );
        assert_ne!(file_name(Path::new("/a%2Fb")), file_name(Path::new("/a/b")));
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
