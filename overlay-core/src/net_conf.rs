//! flannel's `net-conf.json` (flannel v0.28.9, pkg/subnet/config.go and pkg/backend/vxlan/vxlan.go).
//!
//! Read as Go's `encoding/json` reads it: keys match whatever their case, the last of equal keys wins, `null` leaves the
//! default, unknown keys are ignored. What flannel accepts and cannot work (a VNI of 25 bits, a truncated port) is an
//! error here, and so is what this version does not support.

mod object;
#[cfg(test)]
mod tests;

use ipnet::Ipv4Net;
use thiserror::Error;

use self::object::Object;

/// UDP destination port of the kernel's VXLAN devices when none is asked for; flannel's port.
pub const DEFAULT_PORT: u16 = 8472;

/// Bytes that encapsulation adds over an IPv4 underlay: IPv4 (20), UDP (8), VXLAN (8) and inner Ethernet (14) header.
pub const ENCAP_OVERHEAD: u32 = 50;

/// Smallest MTU that the overlay's device can have: that of IPv4 (RFC 791).
pub const MIN_OVERLAY_MTU: u32 = 68;

const MAX_VNI: u32 = (1 << 24) - 1;
const MIN_MTU: u32 = MIN_OVERLAY_MTU + ENCAP_OVERHEAD;
const MAX_MTU: u32 = 65_535;

/// What flannel's network configuration says to this agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetConf {
    /// `Network`: the cluster's overlay network, host bits clear.
    pub network: Ipv4Net,
    /// `Backend`.
    pub backend: VxlanConf,
}

/// The `Backend` object of type `vxlan`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VxlanConf {
    /// `VNI`: VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// `Port`: UDP destination port; `None` is the kernel's default, [`DEFAULT_PORT`].
    pub port: Option<u16>,
    /// `MTU` in bytes, of the **underlay**: the overlay has [`ENCAP_OVERHEAD`] less. `None` is the underlay device's own.
    pub mtu: Option<u32>,
    /// `GBP`: Group Based Policy.
    pub gbp: bool,
    /// `Learning`: whether the device learns peers from traffic.
    pub learning: bool,
}

impl Default for VxlanConf {
    fn default() -> Self {
        Self {
            vni: 1,
            port: None,
            mtu: None,
            gbp: false,
            learning: false,
        }
    }
}

impl VxlanConf {
    /// The UDP destination port on the wire.
    #[must_use]
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(DEFAULT_PORT)
    }
}

/// Why a `net-conf.json` cannot be used.
#[derive(Debug, Error)]
pub enum NetConfError {
    /// Not a JSON document.
    #[error("not valid JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    /// A value of the wrong type, or out of range.
    #[error("{key}: {found} is not allowed: expected {expected}")]
    Value {
        /// The key, from the top: `Backend.VNI`.
        key: String,
        /// What the file says.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// A key that has no default is missing.
    #[error("{key} is missing: expected {expected}")]
    Missing {
        /// The key, from the top.
        key: &'static str,
        /// What is allowed.
        expected: &'static str,
    },
    /// A valid configuration of flannel that this version cannot serve.
    #[error("{key}: {found} is not supported by this version: {allowed}")]
    Unsupported {
        /// The key, from the top.
        key: &'static str,
        /// What the file says.
        found: String,
        /// What is supported, and what to do.
        allowed: &'static str,
    },
}

/// Name of the VTEP device for a VNI.
#[must_use]
pub fn device_name(vni: u32) -> String {
    format!("flannel.{vni}")
}

impl NetConf {
    /// Reads the text of a `net-conf.json`.
    ///
    /// `Port` and `MTU` of 0 mean "not given", as in flannel.
    ///
    /// # Errors
    ///
    /// Names the key, what it says and what is allowed.
    pub fn parse(text: &str) -> Result<Self, NetConfError> {
        let top = Object::parse(text)?;
        if !top.bool("EnableIPv4")?.unwrap_or(true) {
            return Err(NetConfError::Unsupported {
                key: "EnableIPv4",
                found: "false".into(),
                allowed: "only IPv4 overlays are; remove the key or set it to true",
            });
        }
        if top.bool("EnableIPv6")?.unwrap_or(false) {
            return Err(NetConfError::Unsupported {
                key: "EnableIPv6",
                found: "true".into(),
                allowed: "only IPv4 overlays are; remove the key or set it to false",
            });
        }
        Ok(Self {
            network: network(&top)?,
            backend: backend(&top)?,
        })
    }
}

fn network(top: &Object<'_>) -> Result<Ipv4Net, NetConfError> {
    const EXPECTED: &str =
        "an IPv4 network in CIDR notation with a prefix length of 1 to 32, like 10.244.0.0/16";
    let text = match top.string("Network", EXPECTED)? {
        Some(text) if !text.is_empty() => text,
        _ => {
            return Err(NetConfError::Missing {
                key: "Network",
                expected: EXPECTED,
            });
        }
    };
    match text.parse::<Ipv4Net>() {
        // /0 would make every address of the node the overlay's.
        Ok(network) if network.prefix_len() > 0 => Ok(network.trunc()),
        _ => Err(top.value_error("Network", &format!("\"{text}\""), EXPECTED)),
    }
}

fn backend(top: &Object<'_>) -> Result<VxlanConf, NetConfError> {
    const TYPE: &str = "Backend.Type";
    const ALLOWED: &str = "only \"vxlan\" is";
    let Some(object) = top.object("Backend")? else {
        return Err(NetConfError::Unsupported {
            key: "Backend",
            found: "an absent Backend, which means flannel's \"udp\" backend,".into(),
            allowed: "write \"Backend\": {\"Type\": \"vxlan\"}",
        });
    };
    let kind = object
        .string("Type", "the name of a backend: \"vxlan\"")?
        .unwrap_or_default();
    if kind.is_empty() {
        return Err(NetConfError::Missing {
            key: TYPE,
            expected: "\"vxlan\"",
        });
    }
    if !kind.eq_ignore_ascii_case("vxlan") {
        return Err(NetConfError::Unsupported {
            key: TYPE,
            found: format!("\"{kind}\""),
            allowed: ALLOWED,
        });
    }
    if object.bool("DirectRouting")?.unwrap_or(false) {
        return Err(NetConfError::Unsupported {
            key: "Backend.DirectRouting",
            found: "true".into(),
            allowed: "every peer is reached by VXLAN; remove the key or set it to false",
        });
    }
    let defaults = VxlanConf::default();
    let vni = object.integer("VNI", 0..=MAX_VNI, "a number from 0 to 16777215 (24 bits)")?;
    let port = object.integer(
        "Port",
        0..=65_535,
        "a UDP port from 1 to 65535, or 0 for the default (8472)",
    )?;
    let mtu = object
        .integer("MTU", 0..=MAX_MTU, MTU_EXPECTED)?
        .filter(|mtu| *mtu != 0);
    if let Some(mtu) = mtu.filter(|mtu| *mtu < MIN_MTU) {
        return Err(object.value_error("MTU", &mtu, MTU_EXPECTED));
    }
    Ok(VxlanConf {
        vni: vni.unwrap_or(defaults.vni),
        port: port
            .and_then(|port| port.try_into().ok())
            .filter(|port| *port != 0),
        mtu,
        gbp: object.bool("GBP")?.unwrap_or(defaults.gbp),
        learning: object.bool("Learning")?.unwrap_or(defaults.learning),
    })
}

const MTU_EXPECTED: &str = "the underlay's MTU in bytes from 118 (50 bytes of headers and the 68 bytes that IPv4 needs) to 65535, or 0 for that \
     of the underlay device";
