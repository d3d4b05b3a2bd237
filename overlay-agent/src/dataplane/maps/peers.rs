//! Known VTEPs and the traffic with each: `PEERS`, and `PEER_STATS` by the index that a peer's entry names.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result};
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, MapData, PerCpuArray};
use ipnet::IpNet;
use overlay_common::addr::Addr;
use overlay_common::maps::{PEER_STATS, PEERS, Peer, PeerStats};

use super::entries::identity;
use super::seen::Seen;
use super::{prefix_of, sum, typed};
use crate::dataplane::pins::Pins;

pub(super) type Peers = HashMap<MapData, Addr, Peer>;
pub(super) type Stats = PerCpuArray<MapData, PeerStats>;

fn subnet_of(peer: &Peer) -> Result<IpNet> {
    prefix_of(&Key::new(peer.subnet.bits(), peer.subnet.address()))
}

/// The known VTEPs and their subnets. Tells `seen` of the indices that they have.
pub(in crate::dataplane) fn peers(pins: &Pins, seen: &Seen) -> Result<BTreeMap<IpAddr, IpNet>> {
    let pin = identity(pins, PEERS)?;
    let map: Peers = typed(pins, PEERS)?;
    let mut peers = BTreeMap::new();
    let mut taken = Vec::new();
    for entry in map.iter() {
        let (vtep, peer) = entry.context("cannot read PEERS")?;
        peers.insert(IpAddr::from(vtep), subnet_of(&peer)?);
        taken.push(peer.stats);
    }
    // Replaced while it was read: nobody knows which one it was.
    if let Some(pin) = pin.filter(|pin| identity(pins, PEERS).is_ok_and(|now| now == Some(*pin))) {
        seen.found(pin, taken);
    }
    Ok(peers)
}

pub(in crate::dataplane) fn peer_stats(pins: &Pins) -> Result<BTreeMap<IpAddr, PeerStats>> {
    let map: Peers = typed(pins, PEERS)?;
    let stats: Stats = typed(pins, PEER_STATS)?;
    map.iter()
        .map(|entry| {
            let (vtep, peer) = entry.context("cannot read PEERS")?;
            let values = stats.get(&peer.stats, 0).with_context(|| {
                format!(
                    "cannot read the PEER_STATS entry {} of {}",
                    peer.stats,
                    IpAddr::from(vtep)
                )
            })?;
            Ok((IpAddr::from(vtep), sum(&values, PeerStats::plus)))
        })
        .collect()
}
