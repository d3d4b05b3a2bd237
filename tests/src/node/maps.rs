//! The maps of the node's agent, as an operator reads them.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Node;
use crate::agent::AgentOptions;

impl Node {
    /// The entries of the pinned map `name`, as `bpftool -j map dump` prints them: those of arrays and hashes have their
    /// `key` and `value` as the map's types say under `formatted`.
    ///
    /// # Errors
    ///
    /// When there is no such map, or it changes while it is read.
    pub fn map_entries(&self, name: &str) -> Result<Vec<Value>> {
        let text = self.run(&format!(
            "bpftool -j map dump pinned {}/{name}",
            AgentOptions::PIN_DIRECTORY
        ))?;
        serde_json::from_str(&text).with_context(|| format!("not a list of entries: {text}"))
    }

    /// The configuration of the eBPF programs, field by field.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn ebpf_config(&self) -> Result<Value> {
        let entries = self.map_entries("CONFIG")?;
        let config = entries
            .first()
            .and_then(|entry| entry.pointer("/formatted/value"));
        config.cloned().context("CONFIG is empty")
    }
}
