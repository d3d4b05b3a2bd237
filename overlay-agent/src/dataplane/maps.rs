//! The pinned maps: whether they fit this agent, and their entries.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, anyhow};
use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{
    Array, LpmTrie, Map, MapData, MapError, MapInfo, MapType, PerCpuArray, PerCpuHashMap, PerCpuValues,
};
use ipnet::IpNet;
use nix::errno::Errno;
use overlay_common::addr::{Addr, MaskedPrefix, V4_MAPPED_BITS};
use overlay_common::config::{ABI_VERSION, Config};
use overlay_common::maps::{CONFIG, COUNTERS, Counter, PEERS, Peer, PeerStats, SUBNETS, SubnetEntry};
use overlay_common::reason::Reason;

use super::HOOKS;
use super::pins::{LOGS, Pins, map_names};

/// What is pinned, as a whole.
pub(super) enum State {
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

fn layouts(max_peers: u32) -> Result<[Layout; 5]> {
    let size = |bytes: usize| u32::try_from(bytes);
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
                max_peers,
            ]),
        },
        Layout {
            name: PEERS,
            map_type: MapType::PerCpuHash,
            sizes: Some([size(size_of::<Addr>())?, size(size_of::<Peer>())?, max_peers]),
        },
        Layout {
            name: COUNTERS,
            map_type: MapType::PerCpuArray,
            sizes: Some([4, size(size_of::<Counter>())?, size(Reason::COUNT)?]),
        },
        Layout {
            name: LOGS,
            map_type: MapType::RingBuf,
            sizes: None,
        },
    ])
}

/// Compares what is pinned with what this agent would pin.
pub(super) fn state(pins: &Pins, max_peers: u32) -> Result<State> {
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
    for layout in layouts(max_peers)? {
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
            for hook in HOOKS {
                loaded &= pins.current_program(hook)?.is_some();
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

/// Opens a pinned map.
fn open(pins: &Pins, name: &str) -> Result<Map> {
    let path = pins.map(name);
    MapData::from_pin(&path)
        .and_then(Map::from_map_data)
        .with_context(|| format!("cannot open the map pinned at {}", path.display()))
}

fn typed<T: TryFrom<Map, Error = MapError>>(pins: &Pins, name: &'static str) -> Result<T> {
    T::try_from(open(pins, name)?).with_context(|| {
        format!(
            "the map pinned at {} is not of this agent's layout",
            pins.map(name).display()
        )
    })
}

fn raw_config(pins: &Pins) -> Result<Config> {
    let map: Array<MapData, Config> = typed(pins, CONFIG)?;
    map.get(&0, 0).context("cannot read the CONFIG entry")
}

/// The configuration; `None` when there is none yet.
pub(super) fn config(pins: &Pins) -> Result<Option<Config>> {
    Ok(Some(raw_config(pins)?).filter(|config| config.abi != 0))
}

pub(super) fn set_config(pins: &Pins, config: &Config) -> Result<()> {
    let mut map: Array<MapData, Config> = typed(pins, CONFIG)?;
    map.set(0, config, 0).context("cannot write the CONFIG entry")
}

type Subnets = LpmTrie<MapData, Addr, SubnetEntry>;

pub(super) fn subnets(pins: &Pins) -> Result<BTreeMap<IpNet, SubnetEntry>> {
    let map: Subnets = typed(pins, SUBNETS)?;
    map.iter()
        .map(|entry| {
            let (key, value) = entry.context("cannot read SUBNETS")?;
            Ok((prefix_of(&key)?, value))
        })
        .collect()
}

pub(super) fn set_subnet(pins: &Pins, subnet: IpNet, entry: SubnetEntry) -> Result<()> {
    let mut map: Subnets = typed(pins, SUBNETS)?;
    map.insert(&key_of(subnet), entry, 0)
        .map_err(explain_full)
        .with_context(|| format!("cannot write the SUBNETS entry {subnet}"))
}

pub(super) fn remove_subnet(pins: &Pins, subnet: IpNet) -> Result<()> {
    let mut map: Subnets = typed(pins, SUBNETS)?;
    absent_is_removed(map.remove(&key_of(subnet)))
        .with_context(|| format!("cannot remove the SUBNETS entry {subnet}"))
}

/// The key of a subnet: the prefix length counts in the 128-bit form.
fn key_of(subnet: IpNet) -> Key<Addr> {
    let bits = u32::from(subnet.prefix_len());
    let bits = match subnet {
        IpNet::V4(_) => V4_MAPPED_BITS + bits,
        IpNet::V6(_) => bits,
    };
    Key::new(bits, Addr::from(subnet.network()))
}

fn prefix_of(key: &Key<Addr>) -> Result<IpNet> {
    let (address, bits) = (key.data(), key.prefix_len());
    // An IPv4 prefix is one that fixes the bits which make an address IPv4-mapped.
    let (address, bits) = match bits.checked_sub(V4_MAPPED_BITS) {
        Some(bits) if address.is_v4() => (IpAddr::from(address.low_v4()), bits),
        Some(_) | None => (IpAddr::from(address.octets()), bits),
    };
    let prefix = u8::try_from(bits)
        .ok()
        .and_then(|bits| IpNet::new(address, bits).ok());
    prefix.ok_or_else(|| anyhow!("SUBNETS has the impossible key {address}/{bits}"))
}

type Peers = PerCpuHashMap<MapData, Addr, Peer>;

/// The subnet of a peer; `None` for an entry without any CPU's copy, which the kernel does not have.
fn subnet_of(copies: &PerCpuValues<Peer>) -> Result<Option<IpNet>> {
    let subnet = copies
        .first()
        .map(|peer| Key::new(peer.subnet.bits(), peer.subnet.address()));
    subnet.map(|key| prefix_of(&key)).transpose()
}

pub(super) fn peers(pins: &Pins) -> Result<BTreeMap<IpAddr, IpNet>> {
    let map: Peers = typed(pins, PEERS)?;
    let entries = map.iter().map(|entry| {
        let (vtep, copies) = entry.context("cannot read PEERS")?;
        Ok(subnet_of(&copies)?.map(|subnet| (IpAddr::from(vtep), subnet)))
    });
    entries.filter_map(Result::transpose).collect()
}

pub(super) fn set_peer(pins: &Pins, vtep: IpAddr, subnet: IpNet) -> Result<()> {
    let mut map: Peers = typed(pins, PEERS)?;
    let address = Addr::from(vtep);
    // A peer that is there keeps its statistics.
    if let Ok(copies) = map.get(&address, 0)
        && subnet_of(&copies)? == Some(subnet)
    {
        return Ok(());
    }
    let cpus = aya::util::nr_cpus().map_err(|(path, error)| anyhow!("cannot read {path}: {error}"))?;
    let key = key_of(subnet);
    let peer = Peer::new(MaskedPrefix::new(key.data(), key.prefix_len()));
    let copies = PerCpuValues::try_from(vec![peer; cpus]).context("cannot make a PEERS entry")?;
    map.insert(address, copies, 0)
        .map_err(explain_full)
        .with_context(|| format!("cannot write the PEERS entry {vtep}"))
}

pub(super) fn remove_peer(pins: &Pins, address: IpAddr) -> Result<()> {
    let mut map: Peers = typed(pins, PEERS)?;
    absent_is_removed(map.remove(&Addr::from(address)))
        .with_context(|| format!("cannot remove the PEERS entry {address}"))
}

pub(super) fn peer_stats(pins: &Pins) -> Result<BTreeMap<IpAddr, PeerStats>> {
    let map: Peers = typed(pins, PEERS)?;
    map.iter()
        .map(|entry| {
            let (address, values) = entry.context("cannot read PEERS")?;
            let stats = values.iter().map(|peer| peer.stats);
            Ok((
                IpAddr::from(address),
                stats.fold(PeerStats::ZERO, PeerStats::plus),
            ))
        })
        .collect()
}

pub(super) fn counters(pins: &Pins) -> Result<Vec<(Reason, Counter)>> {
    let map: PerCpuArray<MapData, Counter> = typed(pins, COUNTERS)?;
    Reason::ALL
        .into_iter()
        .map(|reason| {
            let values = map
                .get(&(reason as u32), 0)
                .with_context(|| format!("cannot read the counter {}", reason.label()))?;
            Ok((reason, sum(&values, Counter::plus)))
        })
        .collect()
}

fn sum<T: Pod + Default>(values: &PerCpuValues<T>, plus: fn(T, T) -> T) -> T {
    values.iter().copied().fold(T::default(), plus)
}

fn absent_is_removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(error) if is_errno(&error, Errno::ENOENT) => Ok(()),
        result => result,
    }
}

/// A full map is the operator's business: says what to change.
fn explain_full(error: MapError) -> anyhow::Error {
    let full = is_errno(&error, Errno::E2BIG) || is_errno(&error, Errno::ENOSPC);
    let error = anyhow::Error::new(error);
    if full {
        error.context("the map is full: raise --max-peers")
    } else {
        error
    }
}

fn is_errno(error: &MapError, errno: Errno) -> bool {
    let MapError::SyscallError(error) = error else {
        return false;
    };
    error.io_error.raw_os_error() == Some(errno as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_carry_prefixes_of_both_families() {
        for text in [
            "10.244.1.0/24",
            "10.244.0.0/16",
            "0.0.0.0/0",
            "192.168.0.1/32",
            "fd00:1::/64",
            "::/0",
        ] {
            let prefix: IpNet = text.parse().unwrap();
            assert_eq!(prefix_of(&key_of(prefix)).unwrap(), prefix);
        }
        assert_eq!(key_of("10.244.1.0/24".parse().unwrap()).prefix_len(), 120);
    }

    #[test]
    fn a_key_longer_than_an_address_is_an_error() {
        assert!(prefix_of(&Key::new(129, Addr::from_v4([10, 0, 0, 0]))).is_err());
    }
}
