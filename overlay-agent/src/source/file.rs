//! Leases from one YAML file or a directory of them: the source that needs no cluster.
//!
//! * Each delivery is the complete list, and is made only when the whole of it is valid. While any file is broken, the
//!   last good list stays as it is: a syntax error never removes a peer. The same holds while the path is missing, or
//!   a directory has no lease file. `leases: []` is the way to say that there are no leases.
//! * In a directory, files named `*.yaml` and `*.yml` are read in the order of their names; hidden ones are not.
//!   Symbolic links are followed, so that a mounted `ConfigMap` (which swaps its `..data` link) works.
//! * Changes are noticed at once (inotify), and at the latest after the resync interval.

mod read;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use overlay_core::model::{Lease, LeaseEvent};
use tokio::sync::mpsc::Sender;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

pub use self::read::{Listing, read};
use self::watch::Watch;
use super::LeaseSource;
use crate::text::count;

/// A file is read when it has been left alone for this long: editors and copies write in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// …or after this long at the latest.
const LONGEST_BURST: Duration = Duration::from_secs(1);

/// One YAML file, or a directory of them.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    resync: Duration,
    good: Option<Vec<Lease>>,
    last: Option<Listing>,
    watch_error: Option<String>,
}

impl FileSource {
    /// Reads `path`, again when it changes, and again after `resync` in any case.
    #[must_use]
    pub const fn new(path: PathBuf, resync: Duration) -> Self {
        Self {
            path,
            resync,
            good: None,
            last: None,
            watch_error: None,
        }
    }

    /// Says what changed, once; the leases to deliver, if they are new.
    fn take(&mut self, listing: Listing) -> Option<Vec<Lease>> {
        if self.last.as_ref() == Some(&listing) {
            return None;
        }
        let path = self.path.display();
        let kept = match &self.good {
            Some(good) => format!("keeping the last good state ({})", count(good.len(), "lease")),
            None => "nothing is changed on this node until then".to_owned(),
        };
        let leases = match &listing {
            Listing::Missing => {
                log::warn!("{path} does not exist: waiting for it; {kept}");
                None
            }
            Listing::Empty => {
                log::warn!("{path} contains no *.yaml or *.yml file: waiting for one; {kept}");
                None
            }
            Listing::Broken(error) => {
                log::error!("{error}; {kept}");
                None
            }
            Listing::Leases { leases, warnings } => {
                for warning in warnings {
                    log::warn!("{warning}");
                }
                log::info!("{path}: {}", count(leases.len(), "lease"));
                let new = self.good.as_ref() != Some(leases);
                self.good = Some(leases.clone());
                new.then(|| leases.clone())
            }
        };
        self.last = Some(listing);
        leases
    }

    /// Starts watching what decides about the content; a failure is said once.
    fn watch(&mut self) -> Watch {
        let (watch, error) = Watch::start(&self.path);
        let error = error.map(|error| format!("{error:#}"));
        if error != self.watch_error {
            match &error {
                Some(error) => log::warn!(
                    "cannot watch {} for changes: {error}; reading it every {} s instead",
                    self.path.display(),
                    self.resync.as_secs_f32(),
                ),
                None => log::info!("watching {} for changes again", self.path.display()),
            }
            self.watch_error = error;
        }
        watch
    }
}

impl LeaseSource for FileSource {
    async fn run(mut self, events: Sender<LeaseEvent>) -> Result<()> {
        loop {
            // Watching starts before reading: a change during the reading is seen.
            let mut watch = self.watch();
            let path = self.path.clone();
            // Thousands of leases take a while to parse, and a network file system may take any time.
            let listing = spawn_blocking(move || read(&path))
                .await
                .context("reading the leases")?;
            if let Some(leases) = self.take(listing)
                && events.send(LeaseEvent::Replace(leases)).await.is_err()
            {
                return Ok(());
            }
            tokio::select! {
                () = watch.changed() => {}
                () = sleep(self.resync) => continue,
                () = events.closed() => return Ok(()),
            }
            let quiet = async { while timeout(QUIET, watch.changed()).await.is_ok() {} };
            if timeout(LONGEST_BURST, quiet).await.is_err() {
                log::debug!("{} does not come to rest", self.path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests;
