//! The agent's pinned maps, as far as peers are in them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError};
use overlay_common::addr::{Addr, V4_MAPPED_BITS};
use overlay_common::maps::{PEERS, Peer as PeerEntry, SUBNETS, SubnetEntry};

use super::peers::Peer;
use crate::agent::AgentOptions;
use crate::space::Space;

/// Length of a peer's subnet as the map has it.
const PREFIX: u32 = V4_MAPPED_BITS + 24;

/// The two maps that make a peer known to the programs.
#[derive(Debug)]
pub(super) struct PeerMaps {
    subnets: LpmTrie<MapData, Addr, SubnetEntry>,
    peers: HashMap<MapData, Addr, PeerEntry>,
}

impl PeerMaps {
    /// Those that the agent on the node of `space` has pinned.
    pub(super) fn open(space: &Space) -> Result<Self> {
        let open = |name: &str| -> Result<Map> {
            let path = space.path_from_outside(&Path::new(AgentOptions::PIN_DIRECTORY).join(name));
            MapData::from_pin(&path)
                .and_then(Map::from_map_data)
                .with_context(|| format!("cannot open the map pinned at {}", path.display()))
        };
        Ok(Self {
            subnets: open(SUBNETS)?.try_into().context("SUBNETS has another layout")?,
            peers: open(PEERS)?.try_into().context("PEERS has another layout")?,
        })
    }

    /// Whether the peer's entries are both there (or, with `false`, both not).
    pub(super) fn has(&self, peer: Peer, there: bool) -> Result<bool> {
        let subnet = found(self.subnets.get(&subnet_key(peer), 0))?;
        Ok(subnet == there && found(self.peers.get(&vtep_key(peer), 0))? == there)
    }

    /// VTEPs of `PEERS` and subnets of `SUBNETS` (without their lengths).
    pub(super) fn list(&self) -> Result<(BTreeSet<Addr>, BTreeSet<Addr>)> {
        let peers = self
            .peers
            .keys()
            .collect::<Result<_, _>>()
            .context("cannot read PEERS")?;
        let subnets = self
            .subnets
            .keys()
            .map(|key| key.map(|key| key.data()))
            .collect::<Result<_, _>>()
            .context("cannot read SUBNETS")?;
        Ok((peers, subnets))
    }
}

fn found<T>(entry: Result<T, MapError>) -> Result<bool> {
    match entry {
        Ok(_) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(error) => Err(error).context("cannot look a peer up"),
    }
}

/// The peer's VTEP as `PEERS` has it.
pub(super) fn vtep_key(peer: Peer) -> Addr {
    mapped(peer.public_ip())
}

/// The peer's subnet as `SUBNETS` has it.
pub(super) fn subnet_key(peer: Peer) -> Key<Addr> {
    Key::new(PREFIX, mapped(peer.subnet()))
}

pub(super) fn mapped(address: Ipv4Addr) -> Addr {
    Addr::from_v4(address.octets())
}
