//! The datapath on a wire: nodes with real agents, the kernel's own VXLAN as the other end, and every claim checked by
//! bytes and counters. Each test has its own testbed.
//!
//! Needs root; it says so otherwise.
#![forbid(unsafe_code)]
// `cfg(test)` tells clippy that helpers are tests too.

#[cfg(test)]
mod bed;
#[cfg(test)]
mod bulk;
#[cfg(test)]
mod format;
#[cfg(test)]
mod next_hop;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod same_as_kernel;
#[cfg(test)]
mod service;
#[cfg(test)]
mod shared_port;
#[cfg(test)]
mod too_big;
