//! The pinned maps: whether they fit this agent, and their entries.

pub(super) mod endpoints;
mod entries;
mod flows;
mod layout;
mod peers;
mod seen;
mod slots;

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, anyhow};
use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use ipnet::IpNet;
use nix::errno::Errno;
use overlay_common::addr::{Addr, V4_MAPPED_BITS};
use overlay_common::config::Config;
use overlay_common::maps::{CONFIG, COUNTERS, Counter, SUBNETS, SubnetEntry};
use overlay_common::reason::Reason;

pub(super) use self::entries::Entries;
pub use self::flows::FlowCounts;
pub(super) use self::flows::count as flow_counts;
pub(super) use self::layout::{State, state};
pub(super) use self::peers::{peer_stats, peers};
pub(super) use self::seen::Seen;
use super::pins::Pins;

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

/// Writes the configuration, with the epoch after the current one: flows were learned by the old configuration.
pub(super) fn set_config(pins: &Pins, config: &Config) -> Result<()> {
    let mut map: Array<MapData, Config> = typed(pins, CONFIG)?;
    let current = map.get(&0, 0).context("cannot read the CONFIG entry")?;
    let config = Config {
        epoch: current.epoch.wrapping_add(1),
        ..*config
    };
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
