//! The VXLAN device, as flannel makes, keeps or replaces it (pkg/backend/vxlan/device.go).

use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::annotations::parse_mac;
use crate::node::Node;
use crate::packet::Mac;

/// Name of the device with VNI 1.
pub const DEVICE: &str = "flannel.1";
/// flannel's `encapOverhead`, in bytes.
pub(super) const OVERHEAD: u32 = 50;
const VNI: u64 = 1;

/// What became of the device at a start of flanneld.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// There was none.
    Made,
    /// There was one, and flannel found it compatible.
    Kept,
    /// There was one that flannel found incompatible, for this reason.
    Recreated(String),
}

/// `mac.NewHardwareAddr`.
pub(super) fn random_mac() -> Result<Mac> {
    let mut octets = [0; 6];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut octets))
        .context("cannot read random bytes")?;
    let [first, ..] = &mut octets;
    *first = (*first & 0xfe) | 0x02;
    Ok(Mac(octets))
}

/// Attributes of a link as `ip -d -j` shows them; none without such a link.
fn link(node: &Node, name: &str) -> Result<Option<Value>> {
    let shown = node.space().output(&format!("ip -d -j link show dev {name}"))?;
    if !shown.status.success() {
        return Ok(None);
    }
    let links: Vec<Value> = serde_json::from_str(&shown.stdout)?;
    Ok(links.into_iter().next())
}

pub(super) fn underlay_mtu(node: &Node) -> Result<u32> {
    let underlay = link(node, node.underlay())?;
    let mtu = underlay.as_ref().and_then(|link| link.get("mtu")?.as_u64());
    Ok(u32::try_from(mtu.context("the underlay device has an MTU")?)?)
}

/// MAC of the device.
pub(super) fn mac(node: &Node) -> Result<Mac> {
    let device = link(node, DEVICE)?.with_context(|| format!("{} has no {DEVICE}", node.name()))?;
    parse_mac(device.get("address").and_then(Value::as_str).unwrap_or_default())
}

/// `ensureLink`: makes the device with the MAC `wanted`; an existing one stays with its own MAC if it is compatible.
pub(super) fn ensure(node: &Node, wanted: Mac, mtu: u32) -> Result<(Mac, Fate)> {
    let Some(existing) = link(node, DEVICE)? else {
        add(node, wanted, mtu)?;
        return Ok((wanted, Fate::Made));
    };
    if let Some(reason) = incompatible(node, &existing)? {
        node.run(&format!("ip link delete {DEVICE}"))?;
        add(node, wanted, mtu)?;
        return Ok((wanted, Fate::Recreated(reason)));
    }
    Ok((mac(node)?, Fate::Kept))
}

/// With every attribute that flannel sends, and no others: neither a port nor checksums nor an ageing time.
fn add(node: &Node, mac: Mac, mtu: u32) -> Result<()> {
    let (local, underlay) = (node.address(), node.underlay());
    node.run(&format!(
        "ip link add {DEVICE} mtu {mtu} txqueuelen 0 address {mac} type vxlan id {VNI} dev {underlay} local {local} \
         ttl auto tos 0 nolearning noproxy norsc nol2miss nol3miss noudp6zerocsumtx noudp6zerocsumrx"
    ))
    .map(drop)
}

/// `vxlanLinksIncompat` of what flannel wants and `existing`: MTU, learning, TTL, MAC and checksums are not looked at.
/// Without a port in net-conf.json the port is not either.
fn incompatible(node: &Node, existing: &Value) -> Result<Option<String>> {
    let info = existing.get("linkinfo").unwrap_or(&Value::Null);
    let kind = info.get("info_kind").and_then(Value::as_str).unwrap_or_default();
    if kind != "vxlan" {
        return Ok(Some(format!("link type: vxlan vs {kind}")));
    }
    let data = info.get("info_data").context("a VXLAN device has attributes")?;
    let text = |key: &str| data.get(key).and_then(Value::as_str);
    let vni = data.get("id").and_then(Value::as_u64).unwrap_or_default();
    if vni != VNI {
        return Ok(Some(format!("vni: {VNI} vs {vni}")));
    }
    let wanted = node.address();
    for (what, wanted, found) in [
        (
            "vtep (external) interface",
            node.underlay().to_owned(),
            text("link"),
        ),
        ("vtep (external) IP", wanted.to_string(), text("local")),
    ] {
        if let Some(found) = found.filter(|found| *found != wanted) {
            return Ok(Some(format!("{what}: {wanted} vs {found}")));
        }
    }
    for flag in ["l2miss", "gbp"] {
        if data.get(flag).and_then(Value::as_bool) == Some(true) {
            return Ok(Some(format!("{flag}: false vs true")));
        }
    }
    Ok(None)
}

/// `EnsureV4AddressOnLink` with the /32 of the node's subnet, and then up.
pub(super) fn configure(node: &Node) -> Result<()> {
    let wanted = node.lease().subnet;
    let text = node.run(&format!("ip -4 -j addr show dev {DEVICE}"))?;
    let shown: Value = serde_json::from_str(&text)?;
    let addresses = shown.pointer("/0/addr_info").and_then(Value::as_array);
    let mut has_it = false;
    for address in addresses.into_iter().flatten() {
        let local = address.get("local").and_then(Value::as_str);
        let length = address.get("prefixlen").and_then(Value::as_u64);
        let (Some(Ok(local)), Some(length)) = (local.map(str::parse::<Ipv4Addr>), length) else {
            bail!("cannot understand the address {address}");
        };
        if (local, length) == (wanted, 32) {
            has_it = true;
        } else if local.octets().starts_with(&[10, 244]) {
            node.run(&format!("ip addr del {local}/{length} dev {DEVICE}"))?;
        }
    }
    if !has_it {
        node.run(&format!("ip addr add {wanted}/32 dev {DEVICE}"))?;
    }
    node.run(&format!("ip link set {DEVICE} up")).map(drop)
}
