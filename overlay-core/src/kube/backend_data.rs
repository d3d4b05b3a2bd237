//! `backend-data`: `{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}`.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use thiserror::Error;

use crate::model::MacAddr;

/// What a node says of its VTEP device.
///
/// Displayed as flannel writes it, byte for byte: flannel's agent restores its MAC address from this text without a JSON
/// parser (it cuts off `"}` and splits at `:"`), so a space or another text in it would make it forget the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackendData {
    /// VXLAN network identifier; flannel did not write it before 0.16.
    pub vni: Option<u32>,
    /// MAC address of the VTEP device.
    pub vtep_mac: MacAddr,
}

/// Why a `backend-data` cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BackendDataError {
    /// Not a JSON object.
    #[error("not a JSON object")]
    Syntax,
    /// A VNI that no device can have.
    #[error("VNI is not a number of 24 bits")]
    Vni,
    /// No `VtepMAC`.
    #[error("VtepMAC is missing")]
    NoMac,
    /// A `VtepMAC` that no device can have.
    #[error("VtepMAC is not the MAC address of one device")]
    Mac,
}

impl fmt::Display for BackendData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        if let Some(vni) = self.vni {
            write!(f, "\"VNI\":{vni},")?;
        }
        write!(f, "\"VtepMAC\":\"{}\"}}", self.vtep_mac)
    }
}

impl FromStr for BackendData {
    type Err = BackendDataError;

    /// Reads it as Go's `encoding/json` does: keys match whatever their case, the last of equal keys wins, `null` leaves
    /// the default, unknown keys are ignored.
    fn from_str(text: &str) -> Result<Self, BackendDataError> {
        let Members { vni, mac } = serde_json::from_str(text).map_err(|_| BackendDataError::Syntax)?;
        let vni = match vni {
            None => None,
            Some(vni) => Some(
                vni.as_u64()
                    .and_then(|vni| u32::try_from(vni).ok())
                    .filter(|vni| *vni < 1 << 24)
                    .ok_or(BackendDataError::Vni)?,
            ),
        };
        let mac = mac.ok_or(BackendDataError::NoMac)?;
        let vtep_mac = mac
            .as_str()
            .and_then(mac_addr)
            .filter(|mac| mac.is_unicast())
            .ok_or(BackendDataError::Mac)?;
        Ok(Self { vni, vtep_mac })
    }
}

/// The 48-bit forms of Go's `net.ParseMAC`: `12:c6:65:89:b4:e3`, `12-c6-65-89-b4-e3`, `12c6.6589.b4e3`.
fn mac_addr(text: &str) -> Option<MacAddr> {
    let colons = match text.as_bytes().get(2) {
        Some(b'-') if !text.contains(':') => text.replace('-', ":"),
        _ => text.to_owned(),
    };
    if let Ok(mac) = colons.parse() {
        return Some(mac);
    }
    let groups: Vec<&str> = text.split('.').collect();
    let [a, b, c] = groups.as_slice() else { return None };
    let mut octets = Vec::with_capacity(6);
    for group in [a, b, c] {
        if group.len() != 4 || !group.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        octets.extend_from_slice(&u16::from_str_radix(group, 16).ok()?.to_be_bytes());
    }
    Some(MacAddr::new(octets.try_into().ok()?))
}

/// The two members that count.
#[derive(Default)]
struct Members {
    vni: Option<Value>,
    mac: Option<Value>,
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object in braces")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Members::default();
        while let Some(key) = map.next_key::<String>()? {
            let place = if key.eq_ignore_ascii_case("VNI") {
                &mut members.vni
            } else if key.eq_ignore_ascii_case("VtepMAC") {
                &mut members.mac
            } else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if let Some(value) = map.next_value::<Option<Value>>()? {
                *place = Some(value);
            }
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(vni: Option<u32>) -> BackendData {
        let vtep_mac = "12:c6:65:89:b4:e3".parse().unwrap();
        BackendData { vni, vtep_mac }
    }

    #[test]
    fn is_written_byte_for_byte_as_flannel_writes_it() {
        assert_eq!(
            data(Some(1)).to_string(),
            r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#
        );
    }

    #[test]
    fn is_read_as_go_reads_it() {
        for text in [
            r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#,
            r#" { "vtepmac" : "12:C6:65:89:B4:E3", "vni" : 1, "other": [1, {"VNI": 2}] } "#,
            r#"{"VNI":7,"VNI":1,"VtepMAC":"12-c6-65-89-b4-e3","VtepMAC":null}"#,
            r#"{"VNI":1,"VtepMAC":"12c6.6589.b4e3"}"#,
        ] {
            assert_eq!(text.parse(), Ok(data(Some(1))), "{text}");
        }
        assert_eq!(r#"{"VtepMAC":"12:c6:65:89:b4:e3"}"#.parse(), Ok(data(None)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        use BackendDataError::{Mac, NoMac, Syntax, Vni};
        for (text, error) in [
            ("", Syntax),
            ("null", Syntax),
            ("{", Syntax),
            ("[]", Syntax),
            (r#""12:c6:65:89:b4:e3""#, Syntax),
            (r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}}"#, Syntax),
            ("{}", NoMac),
            (r#"{"VNI":1,"VtepMAC":null}"#, NoMac),
            (r#"{"VNI":1,"VtepMAC":""}"#, Mac),
            (r#"{"VNI":1,"VtepMAC":12}"#, Mac),
            (r#"{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}"#, Mac),
            (r#"{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}"#, Mac),
            (r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4"}"#, Mac),
            (r#"{"VNI":1,"VtepMAC":"12-c6:65:89:b4:e3"}"#, Mac),
            (r#"{"VNI":1,"VtepMAC":"+2c6.6589.b4e3"}"#, Mac),
            (r#"{"VNI":-1,"VtepMAC":"12:c6:65:89:b4:e3"}"#, Vni),
            (r#"{"VNI":"1","VtepMAC":"12:c6:65:89:b4:e3"}"#, Vni),
            (r#"{"VNI":16777216,"VtepMAC":"12:c6:65:89:b4:e3"}"#, Vni),
        ] {
            assert_eq!(text.parse::<BackendData>(), Err(error), "{text}");
        }
    }
}
