//! The shell of the overlay: everything of the node agent that does I/O. What to do is decided by `overlay-core`.
//!
//! ```text
//! source ──LeaseEvent──▶ control ◀── netlink events, timer, signals
//!                          │  facts + observe ─▶ overlay_core::{desired, diff} ─▶ execute
//!                          └────▶ netlink (kernel devices, routes, neighbours, FDB), dataplane (eBPF)
//! ```

#![forbid(unsafe_code)]

pub mod cli;
pub mod conntrack;
pub mod control;
pub mod dataplane;
pub mod facts;
pub mod health;
pub mod kube;
pub mod lock;
pub mod logging;
pub mod netlink;
pub mod node;
pub mod pods;
mod rtnl;
pub mod source;
pub mod status;
pub mod subnet_env;
mod text;
