//! Leases from Kubernetes: the agent against a real kube-apiserver with etcd.
//!
//! `cargo xtask test api` builds what they need; else `KUBEBUILDER_ASSETS` names the directory with kube-apiserver
//! and etcd, and a test without it fails. Starting a server takes some seconds, so tests take turns with one, each with
//! machines and Nodes of its own; those that harm it have their own.

#![forbid(unsafe_code)]
// `cfg(test)` tells clippy that helpers are tests too.

#[cfg(test)]
mod agent;
#[cfg(test)]
mod bed;
#[cfg(test)]
mod conflicts;
#[cfg(test)]
mod flags;
#[cfg(test)]
mod health;
#[cfg(test)]
mod membership;
#[cfg(test)]
mod node_credentials;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod publish;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod server;
