//! `subnet.env` (flannel v0.28.9, pkg/subnet/subnet.go): what the CNI plugin is told about this node's pods.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use thiserror::Error;

const NETWORK: &str = "FLANNEL_NETWORK";
const SUBNET: &str = "FLANNEL_SUBNET";
const MTU: &str = "FLANNEL_MTU";
const IPMASQ: &str = "FLANNEL_IPMASQ";

/// The content of a `subnet.env`. Its text is flannel's, byte by byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubnetEnv {
    /// `FLANNEL_NETWORK`: the cluster's overlay network.
    pub network: Ipv4Net,
    /// `FLANNEL_SUBNET`: the address of this node's pod bridge, with the prefix length of its pod subnet.
    pub bridge: Ipv4Net,
    /// `FLANNEL_MTU`: MTU in bytes of the overlay device, and of pods.
    pub mtu: u32,
    /// `FLANNEL_IPMASQ`: whether masquerading is somebody else's job than the CNI plugin's.
    pub ip_masq: bool,
}

/// Why a text is no `subnet.env`.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SubnetEnvError {
    /// A key that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A value that cannot be the key's.
    #[error("{key}={found} is not allowed: expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What the text says.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
}

impl SubnetEnv {
    /// For pods of `subnet`: the bridge has its first address but one, as flannel's.
    #[must_use]
    pub fn new(network: Ipv4Net, subnet: Ipv4Net, mtu: u32, ip_masq: bool) -> Self {
        let first = u32::from(subnet.network()).saturating_add(1);
        // The prefix length is that of a network already.
        let bridge = Ipv4Net::new(Ipv4Addr::from(first), subnet.prefix_len()).unwrap_or(subnet);
        Self {
            network: network.trunc(),
            bridge,
            mtu,
            ip_masq,
        }
    }

    /// Reads a text that flannel, this agent or a person wrote: in any order, with comments, blank lines, quotes, `export`
    /// and keys that mean nothing here. Of equal keys the last one counts.
    ///
    /// # Errors
    ///
    /// Names the key, what it says and what is allowed.
    pub fn parse(text: &str) -> Result<Self, SubnetEnvError> {
        Ok(Self {
            network: value(text, NETWORK, "an IPv4 network, like 10.244.0.0/16")?,
            bridge: value(
                text,
                SUBNET,
                "an IPv4 address with a prefix length, like 10.244.1.1/24",
            )?,
            mtu: value(text, MTU, "an MTU in bytes, like 1450")?,
            ip_masq: value(text, IPMASQ, "true or false")?,
        })
    }
}

impl fmt::Display for SubnetEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            network,
            bridge,
            mtu,
            ip_masq,
        } = self;
        write!(
            f,
            "{NETWORK}={network}\n{SUBNET}={bridge}\n{MTU}={mtu}\n{IPMASQ}={ip_masq}\n"
        )
    }
}

fn value<T: std::str::FromStr>(
    text: &str,
    key: &'static str,
    expected: &'static str,
) -> Result<T, SubnetEnvError> {
    let found = text.lines().rev().find_map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim().trim_matches(['"', '\'']))
    });
    let found = found.ok_or(SubnetEnvError::Missing(key))?;
    found.parse().map_err(|_| SubnetEnvError::Value {
        key,
        found: found.to_owned(),
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

    fn env() -> SubnetEnv {
        SubnetEnv::new(
            "10.244.0.0/16".parse().unwrap(),
            "10.244.1.0/24".parse().unwrap(),
            1450,
            true,
        )
    }

    #[test]
    fn the_text_is_flannels() {
        assert_eq!(env().to_string(), TEXT);
        let other = SubnetEnv {
            ip_masq: false,
            ..env()
        };
        assert!(other.to_string().ends_with("\nFLANNEL_IPMASQ=false\n"));
    }

    #[test]
    fn the_bridge_has_the_first_address_but_one() {
        let bridge = |subnet: &str| {
            let subnet = subnet.parse().unwrap();
            SubnetEnv::new(env().network, subnet, 1450, true)
                .bridge
                .to_string()
        };
        assert_eq!(bridge("10.244.255.0/24"), "10.244.255.1/24");
        assert_eq!(bridge("10.244.7.9/24"), "10.244.7.1/24", "host bits do not count");
        assert_eq!(bridge("10.244.1.128/25"), "10.244.1.129/25");
        assert_eq!(bridge("10.244.1.4/32"), "10.244.1.5/32");
        assert_eq!(bridge("255.255.255.255/32"), "255.255.255.255/32");
    }

    #[test]
    fn what_is_written_can_be_read() {
        assert_eq!(SubnetEnv::parse(TEXT), Ok(env()));
        let by_hand = "# pods\n\nexport FLANNEL_IPMASQ = \"true\"\r\nFLANNEL_MTU='1450'\n FLANNEL_SUBNET=10.244.1.1/24\n\
                       FLANNEL_IPV6_NETWORK=fd00::/56\nFLANNEL_NETWORK=10.0.0.0/8\nFLANNEL_NETWORK=10.244.0.0/16";
        assert_eq!(SubnetEnv::parse(by_hand), Ok(env()));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (from, to, message) in [
            ("FLANNEL_MTU=1450\n", "", "FLANNEL_MTU is missing"),
            (
                "=1450",
                "=big",
                "FLANNEL_MTU=big is not allowed: expected an MTU in bytes",
            ),
            ("=1450", "=-1", "FLANNEL_MTU=-1 is not allowed"),
            (
                "=true",
                "=yes",
                "FLANNEL_IPMASQ=yes is not allowed: expected true or false",
            ),
            (
                "10.244.1.1/24",
                "10.244.1.1",
                "FLANNEL_SUBNET=10.244.1.1 is not allowed",
            ),
            ("10.244.0.0/16", "a/16", "FLANNEL_NETWORK=a/16 is not allowed"),
            (
                "FLANNEL_NETWORK",
                "FLANNEL_NETWORKS",
                "FLANNEL_NETWORK is missing",
            ),
        ] {
            let error = SubnetEnv::parse(&TEXT.replace(from, to)).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        assert_eq!(SubnetEnv::parse(""), Err(SubnetEnvError::Missing(NETWORK)));
    }
}
