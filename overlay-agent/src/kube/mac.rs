//! Which MAC address this node's VTEP has.

use std::fmt;
use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};
use overlay_core::model::MacAddr;

/// The system's randomness; ready long before any agent starts.
const RANDOMNESS: &str = "/dev/urandom";

/// Where a MAC address comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The device has it, and peers send to it.
    Device,
    /// The Node's annotation names it, and peers send to it.
    Annotation,
    /// Nobody knows it yet.
    Random,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "the device has it",
            Self::Annotation => "from the Node's annotation",
            Self::Random => "new",
        })
    }
}

/// The MAC address of the existing device; else the one that the Node's annotation stores; else `random`. Peers keep sending
/// to the first two for a while, whatever is published.
#[must_use]
pub fn choose(device: Option<MacAddr>, stored: Option<MacAddr>, random: MacAddr) -> (MacAddr, Origin) {
    let usable = |mac: &MacAddr| mac.is_unicast();
    match (device.filter(usable), stored.filter(usable)) {
        (Some(mac), _) => (mac, Origin::Device),
        (None, Some(mac)) => (mac, Origin::Annotation),
        (None, None) => (random, Origin::Random),
    }
}

/// A random one.
///
/// # Errors
///
/// When the system has no randomness to give.
pub fn random() -> Result<MacAddr> {
    let mut octets = [0; 6];
    File::open(RANDOMNESS)
        .and_then(|mut source| source.read_exact(&mut octets))
        .with_context(|| format!("cannot make a MAC address: {RANDOMNESS}"))?;
    Ok(local_unicast(octets))
}

/// Locally administered, and the address of one device (IEEE 802, 8.2), as flannel makes them.
const fn local_unicast(octets: [u8; 6]) -> MacAddr {
    let [first, b, c, d, e, f] = octets;
    MacAddr::new([(first & 0xfe) | 0x02, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: MacAddr = local_unicast([1, 2, 3, 4, 5, 6]);

    fn mac(last: u8) -> MacAddr {
        MacAddr::new([0x12, 0xc6, 0x65, 0x89, 0xb4, last])
    }

    #[test]
    fn what_peers_know_stays() {
        assert_eq!(
            choose(Some(mac(1)), Some(mac(2)), RANDOM),
            (mac(1), Origin::Device)
        );
        assert_eq!(choose(None, Some(mac(2)), RANDOM), (mac(2), Origin::Annotation));
        assert_eq!(choose(None, None, RANDOM), (RANDOM, Origin::Random));
    }

    #[test]
    fn what_no_device_can_have_is_not_taken() {
        let group = MacAddr::new([0x01, 0, 0x5e, 0, 0, 1]);
        let zero = MacAddr::new([0; 6]);
        assert_eq!(
            choose(Some(zero), Some(mac(2)), RANDOM),
            (mac(2), Origin::Annotation)
        );
        assert_eq!(choose(Some(zero), Some(group), RANDOM), (RANDOM, Origin::Random));
    }

    #[test]
    fn random_ones_are_of_one_device_and_differ() {
        let (a, b) = (random().unwrap(), random().unwrap());
        assert_ne!(a, b);
        for mac in [a, b, local_unicast([0xff; 6]), local_unicast([0; 6])] {
            assert!(mac.is_unicast() && mac.octets()[0] & 2 == 2, "{mac}");
        }
    }
}
