//! The Kubernetes API: the client, what is read of a Node, and what this node publishes.

pub mod api_state;
pub mod ask;
pub mod client;
pub mod condition;
pub mod corrections;
pub mod events;
#[cfg(test)]
pub(crate) mod fake_api;
pub mod identity;
pub mod list_watch;
pub mod mac;
pub mod node_name;
pub mod own_node;
pub mod publication;
pub mod publish;
pub mod record;
pub mod retry;
pub mod timestamp;
pub mod upkeep;
mod wire;
