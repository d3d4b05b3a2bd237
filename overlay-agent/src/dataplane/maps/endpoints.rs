//! What the agent tells the programs about devices that lead to pods.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, MapData};
use overlay_common::flow::{DEVICE_EPOCH_SLOTS, ENDPOINT_FAST, ENDPOINT_SHORTCUT, Endpoint, MAX_ENDPOINTS};
use overlay_common::maps::{DEVICE_EPOCHS, ENDPOINTS, SHORTCUTS};
use overlay_core::pods::EndpointMode;

use super::{Pins, absent_is_removed, typed};

type Endpoints = HashMap<MapData, u32, Endpoint>;
type Epochs = Array<MapData, u32>;

/// Every entry of `ENDPOINTS`; `None` for a mode that this version does not know.
pub(in crate::dataplane) fn endpoints(pins: &Pins) -> Result<BTreeMap<u32, Option<EndpointMode>>> {
    let map: Endpoints = typed(pins, ENDPOINTS)?;
    map.iter()
        .map(|entry| {
            let (ifindex, endpoint) = entry.context("cannot read ENDPOINTS")?;
            let mode = match endpoint.mode {
                ENDPOINT_FAST => Some(EndpointMode::Fast),
                ENDPOINT_SHORTCUT => Some(EndpointMode::Shortcut),
                _ => None,
            };
            Ok((ifindex, mode))
        })
        .collect()
}

/// Writes entries; each map is opened when it is first needed, and then kept.
pub(in crate::dataplane) struct Writer<'a> {
    pins: &'a Pins,
    endpoints: Option<Endpoints>,
    epochs: Option<Epochs>,
}

impl<'a> Writer<'a> {
    pub(in crate::dataplane) const fn new(pins: &'a Pins) -> Self {
        Self {
            pins,
            endpoints: None,
            epochs: None,
        }
    }

    pub(in crate::dataplane) fn set_endpoint(&mut self, ifindex: u32, mode: EndpointMode) -> Result<()> {
        let mode = match mode {
            EndpointMode::Fast => ENDPOINT_FAST,
            EndpointMode::Shortcut => ENDPOINT_SHORTCUT,
        };
        let written = self.endpoints()?.insert(ifindex, Endpoint { mode }, 0);
        written.with_context(|| {
            format!("cannot write the ENDPOINTS entry {ifindex} (it has room for {MAX_ENDPOINTS} devices)")
        })
    }

    pub(in crate::dataplane) fn remove_endpoint(&mut self, ifindex: u32) -> Result<()> {
        absent_is_removed(self.endpoints()?.remove(&ifindex))
            .with_context(|| format!("cannot remove the ENDPOINTS entry {ifindex}"))
    }

    /// Raises the epoch of a device (and of those that share its slot): the flows that were learned on it are dead.
    pub(in crate::dataplane) fn forget_device(&mut self, ifindex: u32) -> Result<()> {
        let slot = ifindex % DEVICE_EPOCH_SLOTS;
        let map = match &mut self.epochs {
            Some(map) => map,
            none => none.insert(typed(self.pins, DEVICE_EPOCHS)?),
        };
        let epoch = map.get(&slot, 0).context("cannot read DEVICE_EPOCHS")?;
        map.set(slot, epoch.wrapping_add(1), 0)
            .context("cannot write DEVICE_EPOCHS")
    }

    fn endpoints(&mut self) -> Result<&mut Endpoints> {
        Ok(match &mut self.endpoints {
            Some(map) => map,
            none => none.insert(typed(self.pins, ENDPOINTS)?),
        })
    }
}

pub(in crate::dataplane) fn shortcuts(pins: &Pins) -> Result<u32> {
    let map: Array<MapData, u32> = typed(pins, SHORTCUTS)?;
    map.get(&0, 0).context("cannot read SHORTCUTS")
}

pub(in crate::dataplane) fn set_shortcuts(pins: &Pins, count: u32) -> Result<()> {
    let mut map: Array<MapData, u32> = typed(pins, SHORTCUTS)?;
    map.set(0, count, 0).context("cannot write SHORTCUTS")
}
