//! The pin directory: names, and what lies there.
//!
//! ```text
//! <pin dir>/<map>                                        maps, by their names
//! <pin dir>/programs/<program>-<object hash>             programs
//! <pin dir>/links/<program>                              TCX links (<program>-new while one is replaced)
//! <pin dir>/links/<program>-<interface index>            TCX links of devices that lead to pods
//! <pin dir>/qdiscs/<interface index>                     empty directories: clsact qdiscs that we made
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use aya::programs::ProgramInfo;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use overlay_common::maps;
use overlay_core::action::{Hook, Program};
use overlay_core::pods::POD_PROGRAMS;

use super::OBJECT_HASH;

/// Ring buffer of aya-log.
pub(super) const LOGS: &str = "AYA_LOGS";

const PROGRAMS: &str = "programs";
const LINKS: &str = "links";
const QDISCS: &str = "qdiscs";

/// Names of every pinned map.
pub(super) fn map_names() -> impl Iterator<Item = &'static str> {
    maps::PINNED.into_iter().chain([LOGS])
}

/// Held while programs and attachments change: the control loop and the loop for pods run on different threads.
static CHANGES: Mutex<()> = Mutex::new(());

/// Waits until nobody else in this process changes programs or attachments, and keeps others waiting.
pub(super) fn exclusive() -> MutexGuard<'static, ()> {
    CHANGES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pin directory.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    directory: PathBuf,
}

/// A program pinned by us.
#[derive(Debug)]
pub(super) struct PinnedProgram {
    pub(super) path: PathBuf,
    /// The kernel's id of the program.
    pub(super) id: u32,
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.directory.display().fmt(f)
    }
}

impl Pins {
    pub(super) const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where the program of the embedded object is pinned.
    pub(super) fn program(&self, program: impl Into<Program>) -> PathBuf {
        self.directory
            .join(PROGRAMS)
            .join(format!("{}-{OBJECT_HASH}", program.into().name()))
    }

    pub(super) fn link(&self, hook: Hook) -> PathBuf {
        self.directory.join(LINKS).join(hook.program().name())
    }

    /// Where a link is pinned before it takes the place of an older one. No dot: BPF file systems refuse them.
    pub(super) fn new_link(&self, hook: Hook) -> PathBuf {
        self.directory
            .join(LINKS)
            .join(format!("{}-new", hook.program().name()))
    }

    /// Where the link of a device that leads to a pod is pinned.
    pub(super) fn pod_link(&self, program: Program, ifindex: u32) -> PathBuf {
        self.directory
            .join(LINKS)
            .join(format!("{}-{ifindex}", program.name()))
    }

    /// The links of devices that lead to pods, by interface index.
    pub(super) fn pod_links(&self, program: Program) -> Result<BTreeMap<u32, PathBuf>> {
        let paths = entries(&self.directory.join(LINKS))?;
        Ok(paths
            .into_iter()
            .filter_map(|path| Some((pod_link_index(&path, program)?, path)))
            .collect())
    }

    /// Whether there is anything at all.
    pub(super) fn exist(&self) -> bool {
        self.directory.exists()
    }

    /// The pin directory, or the nearest directory above it that exists, must be on a BPF file system.
    pub(super) fn require_bpffs(&self) -> Result<()> {
        let existing = self
            .directory
            .ancestors()
            .find(|path| path.exists())
            .unwrap_or(Path::new("/"));
        let found = statfs(existing).with_context(|| format!("cannot examine {}", existing.display()))?;
        if found.filesystem_type() != BPF_FS_MAGIC {
            let mount_point = self.directory.parent().unwrap_or(&self.directory);
            bail!(
                "{} is not on a BPF file system, so maps and programs cannot be pinned there. Mount one: \
                 mount -t bpf bpf {} (in a container: mount the host's /sys/fs/bpf)",
                self.directory.display(),
                mount_point.display()
            );
        }
        self.require_own_directory()
    }

    /// The pin directory must not be the root of a BPF file system: others pin there, too, maybe under our names.
    pub(super) fn require_own_directory(&self) -> Result<()> {
        let look = || -> io::Result<bool> {
            let directory = match self.directory.canonicalize() {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                result => result?,
            };
            let Some(parent) = directory.parent() else {
                return Ok(true);
            };
            let mounted = fs::metadata(&directory)?.dev() != fs::metadata(parent)?.dev();
            Ok(mounted && statfs(&directory)?.filesystem_type() == BPF_FS_MAGIC)
        };
        if look().with_context(|| format!("cannot examine {self} (--pin-dir)"))? {
            bail!(
                "{self} is where a BPF file system is mounted, so what is pinned there may be somebody else's: \
                 choose a directory below it with --pin-dir, for instance {}",
                self.directory.join("overlay").display()
            );
        }
        Ok(())
    }

    pub(super) fn create_directories(&self) -> Result<()> {
        for name in [PROGRAMS, LINKS, QDISCS] {
            let path = self.directory.join(name);
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        Ok(())
    }

    /// Whether anything of ours but maps is there: a directory that is empty, or that holds more than what others put
    /// there.
    pub(super) fn has_other_than_maps(&self) -> Result<bool> {
        for name in [PROGRAMS, LINKS, QDISCS] {
            let directory = self.directory.join(name);
            let entries = entries(&directory)?;
            if directory.exists() && (entries.is_empty() || entries.iter().any(|path| self.is_ours(path))) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_ours(&self, path: &Path) -> bool {
        path.parent() == Some(&self.directory.join(QDISCS))
            || Program::ALL
                .into_iter()
                .any(|program| is_program_pin(path, program))
            || Hook::ALL
                .into_iter()
                .any(|hook| *path == self.link(hook) || *path == self.new_link(hook))
            || POD_PROGRAMS
                .into_iter()
                .any(|program| pod_link_index(path, program).is_some())
    }

    /// The program of the embedded object, if it is pinned.
    pub(super) fn current_program(&self, program: impl Into<Program>) -> Result<Option<PinnedProgram>> {
        let path = self.program(program);
        if !path.exists() {
            return Ok(None);
        }
        read_program(path).map(Some)
    }

    /// Every build of a program that some version of the agent pinned.
    pub(super) fn programs(&self, program: impl Into<Program>) -> Result<Vec<PinnedProgram>> {
        self.program_paths(program.into())?
            .into_iter()
            .map(read_program)
            .collect()
    }

    fn program_paths(&self, program: Program) -> Result<Vec<PathBuf>> {
        let mut paths = entries(&self.directory.join(PROGRAMS))?;
        paths.retain(|path| is_program_pin(path, program));
        Ok(paths)
    }

    /// Removes the pins of programs that are not from the embedded object.
    pub(super) fn unpin_old_programs(&self, program: impl Into<Program>) -> Result<()> {
        let program = program.into();
        let current = self.program(program);
        self.program_paths(program)?
            .iter()
            .filter(|path| **path != current)
            .try_for_each(|path| unpin(path))
    }

    pub(super) fn unpin_programs(&self) -> Result<()> {
        for program in Program::ALL {
            for path in self.program_paths(program)? {
                unpin(&path)?;
            }
        }
        Ok(())
    }

    pub(super) fn unpin_maps(&self) -> Result<()> {
        map_names().try_for_each(|name| unpin(&self.map(name)))
    }

    /// Remembers that we made the clsact qdisc of a device. A directory, because a BPF file system holds no files.
    pub(super) fn mark_qdisc(&self, ifindex: u32) -> Result<()> {
        let path = self.directory.join(QDISCS).join(ifindex.to_string());
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))
    }

    /// Interface indices of the devices whose clsact qdisc we made.
    pub(super) fn marked_qdiscs(&self) -> Result<Vec<u32>> {
        let names = entries(&self.directory.join(QDISCS))?;
        Ok(names
            .iter()
            .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
            .collect())
    }

    /// Whether we made the clsact qdisc of this device.
    pub(super) fn is_marked(&self, ifindex: u32) -> bool {
        self.directory.join(QDISCS).join(ifindex.to_string()).exists()
    }

    pub(super) fn unmark_qdisc(&self, ifindex: u32) -> Result<()> {
        remove_directory(&self.directory.join(QDISCS).join(ifindex.to_string()))
    }

    /// Removes the directories that are empty, and names what is left in the others.
    pub(super) fn remove_directories(&self) -> Result<()> {
        for name in [PROGRAMS, LINKS, QDISCS] {
            let path = self.directory.join(name);
            warn_about_leftovers(&path)?;
            remove_directory(&path)?;
        }
        warn_about_leftovers(&self.directory)?;
        remove_directory(&self.directory)
    }
}

fn read_program(path: PathBuf) -> Result<PinnedProgram> {
    let info = ProgramInfo::from_pin(&path)
        .with_context(|| format!("cannot read the program pinned at {}", path.display()))?;
    Ok(PinnedProgram { path, id: info.id() })
}

/// `<program>-<16 hexadecimal digits>`.
fn is_program_pin(path: &Path, program: Program) -> bool {
    path.file_name()
        .and_then(|name| name.to_str()?.strip_prefix(program.name())?.strip_prefix('-'))
        .is_some_and(|hash| {
            hash.len() == OBJECT_HASH.len() && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
}

/// The index in `<program>-<interface index>`.
fn pod_link_index(path: &Path, program: Program) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    let index = name.strip_prefix(program.name())?.strip_prefix('-')?;
    // No sign, no leading zeros: what we would call it.
    let number: u32 = index.parse().ok()?;
    (number.to_string() == index).then_some(number)
}

/// What a directory contains, sorted; nothing when it does not exist.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    match read() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        result => result.with_context(|| format!("cannot list {}", directory.display())),
    }
}

/// Removes a pin; it is no error when there is none.
pub(super) fn unpin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.with_context(|| format!("cannot remove the pin {}", path.display())),
    }
}

fn warn_about_leftovers(directory: &Path) -> Result<()> {
    for path in entries(directory)? {
        // A directory of ours that is not empty has been reported by its contents.
        if !path.is_dir() || !is_own_directory(&path) {
            log::warn!("leaving {}: it was not made by this agent", path.display());
        }
    }
    Ok(())
}

fn is_own_directory(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| [PROGRAMS, LINKS, QDISCS].iter().any(|own| name == *own))
}

/// Removes a directory if it exists and is empty.
fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => Ok(()),
        result => result.with_context(|| format!("cannot remove the directory {}", path.display())),
    }
}
