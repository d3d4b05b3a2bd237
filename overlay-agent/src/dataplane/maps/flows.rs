//! The fast path's memory, as far as the agent looks after it.

use anyhow::{Context, Result};
use aya::Pod;
use aya::maps::{Array, HashMap, MapData};
use overlay_common::config::Config;
use overlay_common::flow::{EgressFlow, Endpoint, FlowKey, IngressFlow};
use overlay_common::maps::{EGRESS_FLOWS, ENDPOINTS, INGRESS_FLOWS};

use super::typed;
use crate::dataplane::pins::Pins;

/// How many entries the fast path has, those of earlier epochs included: they stay until their place is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowCounts {
    /// The epoch: how often all flows have been forgotten. Wraps around.
    pub epoch: u32,
    /// Flows from pods into the overlay.
    pub egress: usize,
    /// Flows from the overlay to pods.
    pub ingress: usize,
    /// Devices that lead to pods.
    pub endpoints: usize,
}

/// Raises the epoch, so that no flow entry is used any more. Without a configuration there is none.
pub(super) fn forget(map: &mut Array<MapData, Config>) -> Result<()> {
    let config = map.get(&0, 0).context("cannot read the CONFIG entry")?;
    if config.abi == 0 {
        return Ok(());
    }
    let next = Config {
        epoch: config.epoch.wrapping_add(1),
        ..config
    };
    map.set(0, next, 0).context("cannot write the CONFIG entry")
}

pub(in crate::dataplane) fn count(pins: &Pins) -> Result<FlowCounts> {
    Ok(FlowCounts {
        epoch: super::raw_config(pins)?.epoch,
        egress: entries::<FlowKey, EgressFlow>(pins, EGRESS_FLOWS)?,
        ingress: entries::<FlowKey, IngressFlow>(pins, INGRESS_FLOWS)?,
        endpoints: entries::<u32, Endpoint>(pins, ENDPOINTS)?,
    })
}

/// How many entries a hash map has. One that is evicted meanwhile lets the walk begin anew, so this stops at the
/// capacity.
fn entries<K: Pod, V: Pod>(pins: &Pins, name: &'static str) -> Result<usize> {
    let map: HashMap<MapData, K, V> = typed(pins, name)?;
    let capacity = aya::maps::MapInfo::from_pin(pins.map(name))
        .with_context(|| format!("cannot examine {name}"))?
        .max_entries();
    let mut count = 0;
    for key in map.keys().take(usize::try_from(capacity).unwrap_or(usize::MAX)) {
        key.with_context(|| format!("cannot read {name}"))?;
        count += 1;
    }
    Ok(count)
}
