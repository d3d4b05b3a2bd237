//! Notices changes of a path, however they are made: written in place, renamed over, a symbolic link on the way
//! swapped, a directory replaced, something created that was missing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{self, Receiver};

use super::read::is_lease_file;

/// Watches one path. Its links are resolved when it starts: start a new one after each change.
#[derive(Debug)]
pub(super) struct Watch {
    changes: Receiver<()>,
    /// Watches for as long as it lives.
    _watcher: Option<RecommendedWatcher>,
}

/// Which names of a directory matter.
#[derive(Debug, Default, PartialEq, Eq)]
struct Interest {
    all: bool,
    names: BTreeSet<OsString>,
}

type Interests = BTreeMap<PathBuf, Interest>;

impl Watch {
    /// Starts watching, or says why it cannot: then no change is ever reported.
    pub(super) fn start(path: &Path) -> (Self, Option<anyhow::Error>) {
        // One pending change is as good as many.
        let (sender, changes) = mpsc::channel(1);
        let start = || -> Result<RecommendedWatcher> {
            let path = std::path::absolute(path).context("cannot tell the working directory")?;
            let interests = interests(&path);
            let directories: Vec<PathBuf> = interests.keys().cloned().collect();
            let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                let matters = event.map_or(true, |event| matters(&event, &interests));
                if matters && sender.try_send(()).is_err() {
                    log::trace!("a change is pending already");
                }
            })?;
            for directory in directories {
                watcher
                    .watch(&directory, RecursiveMode::NonRecursive)
                    .with_context(|| format!("directory {}", directory.display()))?;
            }
            Ok(watcher)
        };
        match start() {
            Ok(watcher) => (
                Self {
                    changes,
                    _watcher: Some(watcher),
                },
                None,
            ),
            Err(error) => (
                Self {
                    changes,
                    _watcher: None,
                },
                Some(error),
            ),
        }
    }

    /// Waits for a change; for ever if nothing could be watched.
    pub(super) async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

fn matters(event: &notify::Event, interests: &Interests) -> bool {
    if event.need_rescan() {
        return true;
    }
    match event.kind {
        // Reading is reported too, our own included.
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => {}
    }
    event.paths.iter().any(|path| {
        let inside = |interest: &Interest| {
            interest.all || path.file_name().is_some_and(|name| interest.names.contains(name))
        };
        interests.contains_key(path) || path.parent().and_then(|p| interests.get(p)).is_some_and(inside)
    })
}

/// What to watch so that no change of `path` (absolute) or of what it leads to goes unnoticed.
fn interests(path: &Path) -> Interests {
    let mut interests = Interests::new();
    follow(path, &mut interests);
    if path.is_dir() {
        interests.entry(path.to_owned()).or_default().all = true;
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        for entry in entries
            .map(|entry| entry.path())
            .filter(|path| is_lease_file(path))
        {
            follow(&entry, &mut interests);
        }
    }
    interests
}

/// Adds the name of `path` in its directory and, when it is a link, the names that the link consists of.
fn follow(path: &Path, interests: &mut Interests) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return;
    };
    if !parent.is_dir() {
        // It can only appear after its directory has.
        follow(parent, interests);
        return;
    }
    if !interests
        .entry(parent.to_owned())
        .or_default()
        .names
        .insert(name.to_owned())
    {
        return;
    }
    let Ok(target) = std::fs::read_link(path) else {
        return;
    };
    if target.is_absolute() {
        follow(&target, interests);
        return;
    }
    let mut step = parent.to_owned();
    for component in target.components() {
        step.push(component);
        if matches!(component, Component::Normal(_)) {
            follow(&step, interests);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_link_on_the_way_is_watched() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        std::fs::create_dir(dir.join("..2026")).unwrap();
        std::fs::write(dir.join("..2026/leases.yaml"), "").unwrap();
        symlink("..2026", dir.join("..data")).unwrap();
        symlink("..data/leases.yaml", dir.join("leases.yaml")).unwrap();
        let interests = interests(&dir.join("leases.yaml"));
        let names: Vec<_> = interests[dir].names.iter().map(|n| n.to_str().unwrap()).collect();
        assert_eq!(names, ["..2026", "..data", "leases.yaml"]);
        assert!(
            interests[&dir.join("..data")]
                .names
                .contains(&OsString::from("leases.yaml"))
        );
    }

    #[test]
    fn a_link_to_itself_ends() {
        let temp = tempfile::tempdir().unwrap();
        symlink("loop", temp.path().join("loop")).unwrap();
        assert_eq!(interests(&temp.path().join("loop")).len(), 1);
    }

    #[test]
    fn a_missing_directory_is_awaited_where_it_will_appear() {
        let temp = tempfile::tempdir().unwrap();
        let interests = interests(&temp.path().join("a/b/leases.yaml"));
        assert!(interests[temp.path()].names.contains(&OsString::from("a")));
    }
}
