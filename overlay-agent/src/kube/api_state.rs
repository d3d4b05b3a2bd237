//! Whether the leases that are in force are those of the API server.

use tokio::time::Instant;

/// How the connection to the API server is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ApiState {
    /// Whether a complete list of the Nodes has been delivered since the start.
    pub listed: bool,
    /// Since when the API server gives no list and no watch; `None` while it does.
    pub unreachable_since: Option<Instant>,
    /// Why, in words for an operator; `None` while it is reachable.
    pub last_error: Option<String>,
}
