//! The pure control plane: what a lease source says and what the kernel holds go in, an ordered list of actions comes
//! out. No I/O, no clock, no randomness; the same inputs give the same plan.
//!
//! ```text
//! LeaseEvent ──▶ view ─▶ desired(view, facts, settings) ─┐
//!                                        Observed ───────┴▶ diff ─▶ order ─▶ Vec<Step>
//! ```

#![forbid(unsafe_code)]

pub mod action;
pub mod desired;
pub mod diff;
pub mod focus;
pub mod kube;
pub mod lease_file;
pub mod model;
#[cfg(any(test, feature = "model-kernel"))]
pub mod model_kernel;
pub mod net_conf;
pub mod observed;
pub mod order;
pub mod ownership;
pub mod pods;
#[cfg(test)]
mod properties;
pub mod subnet_env;
pub mod view;
