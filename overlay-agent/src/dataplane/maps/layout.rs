//! What the pinned maps must be like to be kept.

use anyhow::{Context, Result};
use aya::maps::lpm_trie::Key;
use aya::maps::{MapInfo, MapType};
use overlay_common::addr::Addr;
use overlay_common::config::{ABI_VERSION, Config};
use overlay_common::flow::{
    DEVICE_EPOCH_SLOTS, EgressFlow, Endpoint, FlowKey, IngressFlow, MAX_ENDPOINTS, PENDING_SLOTS, Pending,
    RETRY_SLOTS, Retry,
};
use overlay_common::maps::{
    CONFIG, COUNTERS, CURSORS, Counter, DEVICE_EPOCHS, EGRESS_FLOWS, ENDPOINTS, INGRESS_FLOWS, PEER_STATS,
    PEERS, PENDING, Peer, PeerStats, RETRIES, SHORTCUTS, SUBNETS, SubnetEntry,
};
use overlay_common::reason::Reason;
use overlay_core::action::Program;

use super::raw_config;
use crate::dataplane::Capacity;
use crate::dataplane::pins::{LOGS, Pins, map_names};

/// What is pinned, as a whole.
pub(in crate::dataplane) enum State {
    /// Nothing of ours.
    Absent,
    /// Every map, with the layout and capacity of this agent.
    Compatible,
    /// Something that must be replaced, and why.
    Incompatible(String),
}

/// What a pinned map must be like to be kept.
struct Layout {
    name: &'static str,
    map_type: MapType,
    /// Key size, value size and capacity; `None` where any will do.
    sizes: Option<[u32; 3]>,
}

fn layouts(capacity: Capacity) -> Result<[Layout; 14]> {
    let size = |bytes: usize| u32::try_from(bytes);
    let flow = size(size_of::<FlowKey>())?;
    Ok([
        Layout {
            name: CONFIG,
            map_type: MapType::Array,
            sizes: Some([4, size(size_of::<Config>())?, 1]),
        },
        Layout {
            name: SUBNETS,
            map_type: MapType::LpmTrie,
            sizes: Some([
                size(size_of::<Key<Addr>>())?,
                size(size_of::<SubnetEntry>())?,
                capacity.peers,
            ]),
        },
        Layout {
            name: PEERS,
            map_type: MapType::Hash,
            sizes: Some([size(size_of::<Addr>())?, size(size_of::<Peer>())?, capacity.peers]),
        },
        Layout {
            name: PEER_STATS,
            map_type: MapType::PerCpuArray,
            sizes: Some([4, size(size_of::<PeerStats>())?, capacity.peers]),
        },
        Layout {
            name: COUNTERS,
            map_type: MapType::PerCpuArray,
            sizes: Some([4, size(size_of::<Counter>())?, size(Reason::COUNT)?]),
        },
        Layout {
            name: EGRESS_FLOWS,
            map_type: MapType::LruHash,
            sizes: Some([flow, size(size_of::<EgressFlow>())?, capacity.flows]),
        },
        Layout {
            name: INGRESS_FLOWS,
            map_type: MapType::LruHash,
            sizes: Some([flow, size(size_of::<IngressFlow>())?, capacity.flows]),
        },
        Layout {
            name: PENDING,
            map_type: MapType::Array,
            sizes: Some([4, size(size_of::<Pending>())?, PENDING_SLOTS]),
        },
        Layout {
            name: CURSORS,
            map_type: MapType::PerCpuArray,
            sizes: Some([4, 4, 1]),
        },
        Layout {
            name: RETRIES,
            map_type: MapType::Array,
            sizes: Some([4, size(size_of::<Retry>())?, RETRY_SLOTS]),
        },
        Layout {
            name: ENDPOINTS,
            map_type: MapType::Hash,
            sizes: Some([4, size(size_of::<Endpoint>())?, MAX_ENDPOINTS]),
        },
        Layout {
            name: DEVICE_EPOCHS,
            map_type: MapType::Array,
            sizes: Some([4, 4, DEVICE_EPOCH_SLOTS]),
        },
        Layout {
            name: SHORTCUTS,
            map_type: MapType::Array,
            sizes: Some([4, 4, 1]),
        },
        Layout {
            name: LOGS,
            map_type: MapType::RingBuf,
            sizes: None,
        },
    ])
}

/// Compares what is pinned with what this agent would pin.
pub(in crate::dataplane) fn state(pins: &Pins, capacity: Capacity) -> Result<State> {
    let (present, missing): (Vec<_>, Vec<_>) = map_names().partition(|name| pins.map(name).exists());
    if present.is_empty() && !pins.has_other_than_maps()? {
        return Ok(State::Absent);
    }
    if !missing.is_empty() {
        return Ok(State::Incompatible(format!(
            "the set of maps is not complete: {} missing",
            missing.join(", ")
        )));
    }
    for layout in layouts(capacity)? {
        if let Some(why) = mismatch(pins, &layout)? {
            return Ok(State::Incompatible(why));
        }
    }
    let abi = raw_config(pins)?.abi;
    let why = match abi {
        ABI_VERSION => return Ok(State::Compatible),
        // Not configured: nobody says which version laid out the other maps but the program that came with them.
        0 => {
            let mut loaded = true;
            for program in Program::ALL {
                loaded &= pins.current_program(program)?.is_some();
            }
            if loaded {
                return Ok(State::Compatible);
            }
            "it was never configured, and not every program of this agent is there".to_owned()
        }
        other => format!("its maps have ABI version {other}, this agent has {ABI_VERSION}"),
    };
    Ok(State::Incompatible(why))
}

fn mismatch(pins: &Pins, layout: &Layout) -> Result<Option<String>> {
    let Layout {
        name,
        map_type,
        sizes,
    } = layout;
    let path = pins.map(name);
    let info = MapInfo::from_pin(&path)
        .with_context(|| format!("cannot examine the map pinned at {}", path.display()))?;
    match info.map_type() {
        Ok(found) if found == *map_type => {}
        Ok(found) => return Ok(Some(format!("map {name} is of type {found:?}, not {map_type:?}"))),
        Err(error) => return Ok(Some(format!("map {name} is of an unknown type: {error}"))),
    }
    let found = [info.key_size(), info.value_size(), info.max_entries()];
    Ok(sizes
        .filter(|wanted| *wanted != found)
        .map(|[key, value, entries]| {
            let [found_key, found_value, found_entries] = found;
            format!(
                "map {name} has key size {found_key}, value size {found_value}, capacity {found_entries}; \
             wanted {key}, {value}, {entries}"
            )
        }))
}
