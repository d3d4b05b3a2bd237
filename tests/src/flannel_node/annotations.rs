//! What flannel writes to a Node and reads from it (pkg/subnet/kube), with its own textual way of finding its old MAC.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::leases::Lease;
use crate::packet::Mac;

/// `--kube-annotation-prefix`, as it is used in keys.
pub const PREFIX: &str = "flannel.alpha.coreos.com/";
/// Gate: Nodes without it are not flannel's.
pub const MANAGED: &str = "flannel.alpha.coreos.com/kube-subnet-manager";
/// Text of the backend: VNI and MAC of the VTEP.
pub const BACKEND_DATA: &str = "flannel.alpha.coreos.com/backend-data";
/// Kind of the backend.
pub const BACKEND_TYPE: &str = "flannel.alpha.coreos.com/backend-type";
/// Underlay address of the VTEP.
pub const PUBLIC_IP: &str = "flannel.alpha.coreos.com/public-ip";

/// The annotations of a node with `lease` and VNI 1.
#[must_use]
pub fn of(lease: &Lease) -> BTreeMap<String, String> {
    [
        (MANAGED, "true".to_owned()),
        (BACKEND_TYPE, "vxlan".to_owned()),
        (BACKEND_DATA, backend_data(1, lease.vtep_mac)),
        (PUBLIC_IP, lease.public_ip.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Go's compact JSON of `vxlanLeaseAttrs`.
#[must_use]
pub fn backend_data(vni: u32, mac: Mac) -> String {
    format!(r#"{{"VNI":{vni},"VtepMAC":"{mac}"}}"#)
}

/// The MAC that flannel finds in its own Node (`GetStoredMacAddresses`, which does not parse the JSON), if any.
#[must_use]
pub fn restore_mac(stored: &BTreeMap<String, String>) -> Option<Mac> {
    let trimmed = stored.get(BACKEND_DATA)?.trim_matches(['"', '}']);
    let mut parts = trimmed.split(":\"");
    let (_, mac, None) = (parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    parse_mac(mac).ok()
}

/// What flannel makes of a Node (`nodeToLease`); none when the Node is not flannel's.
///
/// # Errors
///
/// What flannel would log as "Error turning node … to lease", and drop the Node.
pub fn lease(node: &str, pod_cidr: &str, annotations: &BTreeMap<String, String>) -> Result<Option<Lease>> {
    if annotations.get(MANAGED).is_none_or(|managed| managed != "true") {
        return Ok(None);
    }
    let value = |key: &str| {
        annotations
            .get(key)
            .with_context(|| format!("{node} has no {key}"))
    };
    let kind = value(BACKEND_TYPE)?;
    ensure!(kind == "vxlan", "{node} has the backend {kind}");
    let data: Value = serde_json::from_str(value(BACKEND_DATA)?)?;
    let mac = data.get("VtepMAC").and_then(Value::as_str);
    let (address, length) = pod_cidr.split_once('/').context("a podCIDR has a length")?;
    ensure!(
        length == "24",
        "the testbed's nodes have /24s, {node} has {pod_cidr}"
    );
    Ok(Some(Lease {
        node: node.to_owned(),
        subnet: address.parse().context("podCIDR")?,
        public_ip: value(PUBLIC_IP)?.parse::<Ipv4Addr>().context("public-ip")?,
        vtep_mac: parse_mac(mac.context("no VtepMAC")?)?,
    }))
}

/// [`lease`] of a Node object as the API server has it.
///
/// # Errors
///
/// Those of [`lease`], and when it has no podCIDR.
pub fn lease_of(node: &Value) -> Result<Option<Lease>> {
    let text = |pointer: &str| node.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").context("a Node has a name")?;
    let annotations = node.pointer("/metadata/annotations").and_then(Value::as_object);
    let annotations = annotations
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    let pod_cidr = text("/spec/podCIDR").with_context(|| format!("{name} has no podCIDR"))?;
    lease(name, pod_cidr, &annotations)
}

/// From `02:00:00:00:00:01`.
pub(super) fn parse_mac(text: &str) -> Result<Mac> {
    let octets: Option<Vec<u8>> = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).ok())
        .collect();
    let octets: Option<[u8; 6]> = octets.and_then(|octets| octets.try_into().ok());
    octets.map(Mac).with_context(|| format!("{text:?} is not a MAC"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(data: &str) -> BTreeMap<String, String> {
        [(BACKEND_DATA.to_owned(), data.to_owned())].into()
    }

    #[test]
    fn flannel_finds_its_own_mac_and_only_in_its_own_text() {
        let mac = Mac([0x12, 0xc6, 0x65, 0x89, 0xb4, 0xe3]);
        assert_eq!(backend_data(1, mac), r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#);
        assert_eq!(restore_mac(&stored(&backend_data(1, mac))), Some(mac));
        for other in [
            r#"{"VNI":1,"VtepMAC": "12:c6:65:89:b4:e3"}"#,
            r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3","Name":"x"}"#,
            r#"{"VNI":1}"#,
            "",
        ] {
            assert_eq!(restore_mac(&stored(other)), None, "{other}");
        }
        assert_eq!(restore_mac(&BTreeMap::new()), None);
    }

    #[test]
    fn a_lease_survives_the_way_over_the_annotations() {
        let ours = Lease::of_node(3, Ipv4Addr::new(192, 168, 0, 3));
        let read = lease("node-3", "10.244.3.0/24", &of(&ours)).unwrap();
        assert_eq!(read, Some(ours));
        assert_eq!(lease("node-3", "10.244.3.0/24", &BTreeMap::new()).unwrap(), None);
    }
}
