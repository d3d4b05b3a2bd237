//! Known VTEPs and the traffic with each: `PEERS`, and `PEER_STATS` by the index that a peer's entry names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result, anyhow};
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuValues};
use ipnet::IpNet;
use overlay_common::addr::{Addr, MaskedPrefix};
use overlay_common::maps::{PEER_STATS, PEERS, Peer, PeerStats};

use super::{absent_is_removed, explain_full, key_of, prefix_of, sum, typed};
use crate::dataplane::pins::Pins;

type Peers = HashMap<MapData, Addr, Peer>;
type Stats = PerCpuArray<MapData, PeerStats>;

/// The `PEER_STATS` indices that no peer has, lowest first.
#[derive(Debug, Clone)]
pub(in crate::dataplane) struct StatsSlots(BTreeSet<u32>);

impl StatsSlots {
    /// Reads them: costs two system calls for each peer.
    fn read(map: &Peers, slots: u32) -> Result<Self> {
        let mut free: BTreeSet<u32> = (0..slots).collect();
        for entry in map.iter() {
            let (_, peer) = entry.context("cannot read PEERS")?;
            free.remove(&peer.stats);
        }
        Ok(Self(free))
    }
}

fn subnet_of(peer: &Peer) -> Result<IpNet> {
    prefix_of(&Key::new(peer.subnet.bits(), peer.subnet.address()))
}

pub(in crate::dataplane) fn peers(pins: &Pins) -> Result<BTreeMap<IpAddr, IpNet>> {
    let map: Peers = typed(pins, PEERS)?;
    map.iter()
        .map(|entry| {
            let (vtep, peer) = entry.context("cannot read PEERS")?;
            Ok((IpAddr::from(vtep), subnet_of(&peer)?))
        })
        .collect()
}

/// Makes a VTEP known, or gives a known one another subnet; it keeps its statistics then. `free` saves reading the map
/// for each of many new peers; `None` is filled.
pub(in crate::dataplane) fn set_peer(
    pins: &Pins,
    free: &mut Option<StatsSlots>,
    vtep: IpAddr,
    subnet: IpNet,
) -> Result<()> {
    let mut map: Peers = typed(pins, PEERS)?;
    let address = Addr::from(vtep);
    let stats = match map.get(&address, 0) {
        Ok(peer) => peer.stats,
        Err(MapError::KeyNotFound) => new_slot(pins, &map, free)?,
        Err(error) => return Err(error).with_context(|| format!("cannot read the PEERS entry {vtep}")),
    };
    let key = key_of(subnet);
    let peer = Peer::new(MaskedPrefix::new(key.data(), key.prefix_len()), stats);
    map.insert(address, peer, 0)
        .map_err(explain_full)
        .with_context(|| format!("cannot write the PEERS entry {vtep}"))
}

/// A free `PEER_STATS` index, set to zero: whoever had it before is forgotten.
fn new_slot(pins: &Pins, peers: &Peers, free: &mut Option<StatsSlots>) -> Result<u32> {
    let mut stats: Stats = typed(pins, PEER_STATS)?;
    let slots = match free {
        Some(slots) => slots,
        none => none.insert(StatsSlots::read(peers, stats.len())?),
    };
    let slot = slots
        .0
        .pop_first()
        .ok_or_else(|| anyhow!("PEER_STATS has no free slot: raise --max-peers"))?;
    let cpus = aya::util::nr_cpus().map_err(|(path, error)| anyhow!("cannot read {path}: {error}"))?;
    let zero =
        PerCpuValues::try_from(vec![PeerStats::ZERO; cpus]).context("cannot make a PEER_STATS entry")?;
    stats
        .set(slot, zero, 0)
        .with_context(|| format!("cannot write the PEER_STATS entry {slot}"))?;
    Ok(slot)
}

pub(in crate::dataplane) fn remove_peer(pins: &Pins, address: IpAddr) -> Result<()> {
    let mut map: Peers = typed(pins, PEERS)?;
    absent_is_removed(map.remove(&Addr::from(address)))
        .with_context(|| format!("cannot remove the PEERS entry {address}"))
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
