//! Where leases come from.

pub mod file;
pub mod kube;

use std::future::Future;

use anyhow::Result;
use overlay_core::model::LeaseEvent;
use tokio::sync::mpsc::Sender;

/// Reports which node carries which subnet, for as long as someone listens.
///
/// A source may be late, and may say the same thing again. Nothing is removed from the kernel before it has delivered
/// its first complete list ([`LeaseEvent::Replace`]).
pub trait LeaseSource {
    /// Runs until the receiver of `events` is gone.
    ///
    /// # Errors
    ///
    /// When the source cannot go on at all. What may heal (a missing file, a broken one) is not an error: the source
    /// says so in the log and waits.
    fn run(self, events: Sender<LeaseEvent>) -> impl Future<Output = Result<()>> + Send;
}
