//! The file itself: there is always a whole one.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use overlay_core::subnet_env::SubnetEnv;

const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;
const TEMPORARY: &str = ".overlay-agent-";

/// Makes `path` say `env`, all at once, for everybody to read (0644); its directory is made (0755) where it is missing.
/// Whether anything had to be written. May wait for the disk.
///
/// # Errors
///
/// When it cannot be written: the path and why. What was there before is still there.
pub fn write(path: &Path, env: &SubnetEnv) -> Result<bool> {
    let text = env.to_string();
    let directory = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    };
    let name = path
        .file_name()
        .ok_or_else(|| anyhow!("cannot write the subnet file {}: that is no file", path.display()))?;
    // What cannot be read is written anew.
    if fs::read(path).is_ok_and(|now| now == text.as_bytes()) {
        return Ok(false);
    }
    replace(directory, name, text.as_bytes())
        .with_context(|| format!("cannot write the subnet file {}", path.display()))?;
    Ok(true)
}

fn replace(directory: &Path, name: &OsStr, content: &[u8]) -> Result<()> {
    create_directory(directory).with_context(|| format!("creating the directory {}", directory.display()))?;
    let prefix = temporary_prefix(name);
    remove_stale(directory, &prefix);
    let mut temporary = prefix;
    temporary.push(std::process::id().to_string());
    let temporary = directory.join(temporary);
    let result = fill(&temporary, content)
        .with_context(|| format!("writing {}", temporary.display()))
        .and_then(|()| fs::rename(&temporary, directory.join(name)).context("renaming the new file"));
    if result.is_err() {
        // The next attempt tries again to remove it.
        fs::remove_file(&temporary).ok();
    }
    result?;
    // So that it is still there after a power failure.
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .context("synchronizing the directory")
}

fn fill(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)?;
    // Whatever the umask.
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    file.write_all(content)?;
    file.sync_all()
}

/// Creates what is missing of the directory, whatever the umask.
fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_directory(parent)?;
    }
    match fs::create_dir(directory) {
        Ok(()) => fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE)),
        // Somebody else was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// `.subnet.env.overlay-agent-`, before the number of a process.
fn temporary_prefix(name: &OsStr) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(TEMPORARY);
    prefix
}

/// Removes what an agent left that was killed while it wrote.
fn remove_stale(directory: &Path, prefix: &OsStr) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for name in entries.filter_map(|entry| Some(entry.ok()?.file_name())) {
        let number = name.as_bytes().strip_prefix(prefix.as_bytes());
        if number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit)) {
            match fs::remove_file(directory.join(&name)) {
                Ok(()) => log::debug!("removed {} of an earlier run", directory.join(&name).display()),
                Err(error) => log::warn!("cannot remove {}: {error}", directory.join(&name).display()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn env(mtu: u32) -> SubnetEnv {
        let (network, subnet) = ("10.244.0.0/16".parse().unwrap(), "10.244.1.0/24".parse().unwrap());
        SubnetEnv::new(network, subnet, mtu, true)
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn is_written_whole_for_all_to_read_and_only_when_it_differs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/flannel/subnet.env");
        assert!(write(&path, &env(1450)).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), env(1450).to_string());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&path), 0o644);
        assert_eq!(mode(path.parent().unwrap()), 0o755);
        assert_eq!(mode(&directory.path().join("run")), 0o755);

        let inode = || fs::metadata(&path).unwrap().ino();
        let before = inode();
        assert!(!write(&path, &env(1450)).unwrap());
        assert_eq!(inode(), before, "not even touched");
        assert!(write(&path, &env(1400)).unwrap());
        assert_ne!(inode(), before, "another file, not the same one rewritten");
        assert_eq!(names(path.parent().unwrap()), ["subnet.env"]);
    }

    #[test]
    fn what_a_crash_left_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("subnet.env");
        let others = [
            ".other.env.overlay-agent-1",
            ".subnet.env.overlay-agent-",
            ".subnet.env.overlay-agent-1x",
            ".subnet.env123",
            "subnet.env.overlay-agent-1",
        ];
        for name in others.iter().chain([&".subnet.env.overlay-agent-4711"]) {
            fs::write(directory.path().join(name), "half").unwrap();
        }
        // Our own number: a process that was restarted in a container has the same one.
        fs::write(
            directory
                .path()
                .join(format!(".subnet.env.overlay-agent-{}", std::process::id())),
            "",
        )
        .unwrap();
        assert!(write(&path, &env(1450)).unwrap());
        let mut expected = others.map(str::to_owned).to_vec();
        expected.push("subnet.env".into());
        expected.sort();
        assert_eq!(names(directory.path()), expected);
    }

    #[test]
    fn a_failure_names_the_file_and_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let in_the_way = directory.path().join("subnet.env");
        fs::create_dir_all(in_the_way.join("full")).unwrap();
        let error = format!("{:#}", write(&in_the_way, &env(1450)).unwrap_err());
        assert!(error.contains(in_the_way.to_str().unwrap()), "{error}");
        assert_eq!(names(directory.path()), ["subnet.env"], "no temporary file stays");
        let error = format!(
            "{:#}",
            write(Path::new("/dev/null/x/subnet.env"), &env(1450)).unwrap_err()
        );
        assert!(error.contains("/dev/null/x"), "{error}");
        write(Path::new("/"), &env(1450)).unwrap_err();
    }
}
