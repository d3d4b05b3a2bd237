//! The maps that change with every peer: opened once, and kept for as long as their pins are the same.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, anyhow};
use aya::maps::{Array, Map, MapData, MapError, PerCpuValues};
use ipnet::IpNet;
use overlay_common::addr::{Addr, MaskedPrefix};
use overlay_common::config::Config;
use overlay_common::maps::{CONFIG, PEER_STATS, PEERS, Peer, PeerStats, SUBNETS, SubnetEntry};

use super::peers::{Peers, Stats};
use super::seen::{Pin, Seen};
use super::slots::{Slot, Slots};
use super::{Subnets, absent_is_removed, explain_full, flows, key_of, typed};
use crate::dataplane::pins::Pins;

/// Writes the entries of peers.
#[derive(Default)]
pub(in crate::dataplane) struct Entries {
    config: Kept<Array<MapData, Config>>,
    peers: Kept<Peers>,
    subnets: Kept<Subnets>,
    places: Places,
}

/// `PEER_STATS`, and which of its entries belong to nobody.
#[derive(Default)]
struct Places {
    stats: Kept<Stats>,
    /// `None` until they are needed.
    slots: Option<Slots>,
    seen: Seen,
}

/// An open map, and which pin it was opened by: device and inode, since another map has another pin.
struct Kept<M>(Option<(Pin, M)>);

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries")
            .field("slots", &self.places.slots)
            .finish_non_exhaustive()
    }
}

impl<M> Default for Kept<M> {
    fn default() -> Self {
        Self(None)
    }
}

impl<M: TryFrom<Map, Error = MapError>> Kept<M> {
    /// The map that is pinned now, and whether it is another than last time.
    fn open(&mut self, pins: &Pins, name: &'static str) -> Result<(&mut M, bool)> {
        // Looked at before it is opened: a pin that is replaced in between is seen next time.
        let pin = identity(pins, name)?;
        let kept = self.0.take().filter(|(known, _)| pin == Some(*known));
        let new = kept.is_none();
        let open = match kept {
            Some(open) => open,
            None => (pin.unwrap_or_default(), typed(pins, name)?),
        };
        let (_, map) = self.0.insert(open);
        Ok((map, new))
    }
}

/// What tells the pin of a map from that of another: device and inode.
pub(super) fn identity(pins: &Pins, name: &str) -> Result<Option<Pin>> {
    let path = pins.map(name);
    match fs::metadata(&path) {
        Ok(found) => Ok(Some((found.dev(), found.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot examine {}", path.display())),
    }
}

impl Entries {
    /// For maps that were created just now: no statistics of theirs were ever written.
    pub(in crate::dataplane) fn of_new_maps(pins: &Pins) -> Result<Self> {
        let mut entries = Self::default();
        entries.peers.open(pins, PEERS)?;
        let (stats, _) = entries.places.stats.open(pins, PEER_STATS)?;
        entries.places.slots = Some(Slots::unused(stats.len()));
        entries.places.seen.not_needed();
        Ok(entries)
    }

    /// Where a look at everything leaves which places peers have.
    pub(in crate::dataplane) const fn seen(&self) -> &Seen {
        &self.places.seen
    }

    pub(in crate::dataplane) fn forget_flows(&mut self, pins: &Pins) -> Result<()> {
        let (config, _) = self.config.open(pins, CONFIG)?;
        flows::forget(config)
    }

    pub(in crate::dataplane) fn set_subnet(
        &mut self,
        pins: &Pins,
        subnet: IpNet,
        entry: SubnetEntry,
    ) -> Result<()> {
        let (map, _) = self.subnets.open(pins, SUBNETS)?;
        map.insert(&key_of(subnet), entry, 0)
            .map_err(explain_full)
            .with_context(|| format!("cannot write the SUBNETS entry {subnet}"))
    }

    pub(in crate::dataplane) fn remove_subnet(&mut self, pins: &Pins, subnet: IpNet) -> Result<()> {
        let (map, _) = self.subnets.open(pins, SUBNETS)?;
        absent_is_removed(map.remove(&key_of(subnet)))
            .with_context(|| format!("cannot remove the SUBNETS entry {subnet}"))
    }

    /// Makes a VTEP known, or gives a known one another subnet; it keeps its statistics then.
    pub(in crate::dataplane) fn set_peer(&mut self, pins: &Pins, vtep: IpAddr, subnet: IpNet) -> Result<()> {
        let (peers, places) = self.peers(pins)?;
        let address = Addr::from(vtep);
        let (stats, is_new) = match peers.get(&address, 0) {
            Ok(peer) => (peer.stats, false),
            Err(MapError::KeyNotFound) => (places.take(pins, peers)?, true),
            Err(error) => return Err(error).with_context(|| format!("cannot read the PEERS entry {vtep}")),
        };
        let key = key_of(subnet);
        let peer = Peer::new(MaskedPrefix::new(key.data(), key.prefix_len()), stats);
        let written = peers
            .insert(address, peer, 0)
            .map_err(explain_full)
            .with_context(|| format!("cannot write the PEERS entry {vtep}"));
        if written.is_err() && is_new {
            places.give_back(stats);
        }
        written
    }

    pub(in crate::dataplane) fn remove_peer(&mut self, pins: &Pins, vtep: IpAddr) -> Result<()> {
        let (peers, places) = self.peers(pins)?;
        let address = Addr::from(vtep);
        let slot = match peers.get(&address, 0) {
            Ok(peer) => peer.stats,
            Err(MapError::KeyNotFound) => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("cannot read the PEERS entry {vtep}")),
        };
        absent_is_removed(peers.remove(&address))
            .with_context(|| format!("cannot remove the PEERS entry {vtep}"))?;
        places.give_back(slot);
        Ok(())
    }

    /// `PEERS` as it is pinned now, and the places for statistics that go with it.
    fn peers(&mut self, pins: &Pins) -> Result<(&mut Peers, &mut Places)> {
        let (_, new) = self.peers.open(pins, PEERS)?;
        if new {
            self.places.slots = None;
        }
        let (pin, peers) = self.peers.0.as_mut().context("PEERS is not open")?;
        let places = &mut self.places;
        if places.slots.is_none()
            && let Some(taken) = places.seen.take(*pin)
        {
            let (stats, _) = places.stats.open(pins, PEER_STATS)?;
            places.slots = Some(Slots::except(stats.len(), taken.into_iter().map(Ok))?);
        }
        Ok((peers, places))
    }
}

impl Places {
    /// A free index, whose statistics are zero: whoever had it before is forgotten.
    fn take(&mut self, pins: &Pins, peers: &Peers) -> Result<u32> {
        let (stats, new) = self.stats.open(pins, PEER_STATS)?;
        let slots = match &mut self.slots {
            Some(slots) if !new => slots,
            slots => {
                let taken = peers.iter().map(|entry| {
                    let (_, peer) = entry.context("cannot read PEERS")?;
                    Ok(peer.stats)
                });
                slots.insert(Slots::except(stats.len(), taken)?)
            }
        };
        let slot = slots
            .take()
            .ok_or_else(|| anyhow!("PEER_STATS has no free slot: raise --max-peers"))?;
        match slot {
            Slot::Unused(index) => Ok(index),
            Slot::Used(index) => {
                zero(stats, index).inspect_err(|_| slots.give_back(index))?;
                Ok(index)
            }
        }
    }

    fn give_back(&mut self, slot: u32) {
        match &mut self.slots {
            Some(slots) => slots.give_back(slot),
            // A look that is under way may have found it in use.
            None => self.seen.not_needed(),
        }
    }
}

fn zero(stats: &mut Stats, slot: u32) -> Result<()> {
    let cpus = aya::util::nr_cpus().map_err(|(path, error)| anyhow!("cannot read {path}: {error}"))?;
    let zero =
        PerCpuValues::try_from(vec![PeerStats::ZERO; cpus]).context("cannot make a PEER_STATS entry")?;
    stats
        .set(slot, zero, 0)
        .with_context(|| format!("cannot write the PEER_STATS entry {slot}"))
}
