//! The VXLAN header, the inner packet, and who may send it.

use overlay_common::addr::Addr;
use overlay_common::config::{Config, FLAG_GBP};
use overlay_common::headers::{
    ETH_LEN, ETHERTYPE_IPV4, IPV4_LEN, Ipv4Header, TunnelV4, UDP_LEN, VXLAN_FLAGS, VXLAN_GBP_BIT, VXLAN_LEN,
    VxlanHeader,
};
use overlay_common::maps::Peer;
use overlay_common::reason::Reason;

use super::outer::Outer;
use crate::maps;
use crate::skb::Skb;

const UDP_OFFSET: u32 = ETH_LEN + IPV4_LEN;
/// Offset of the inner Ethernet header.
pub(super) const INNER_ETH: u32 = UDP_OFFSET + UDP_LEN + VXLAN_LEN;
const INNER_IP: u32 = INNER_ETH + ETH_LEN;

/// Checks that the packet is a plain VXLAN packet of our network with an IPv4 packet inside.
#[inline(always)]
pub(crate) fn check_headers(skb: &Skb<'_>, config: &Config) -> Result<(), Reason> {
    let tunnel: &TunnelV4 = skb.view(UDP_OFFSET).ok_or(Reason::Truncated)?;
    if !flags_are_plain(config, &tunnel.vxlan) {
        return Err(Reason::BadFlags);
    }
    if tunnel.vxlan.vni != config.vni {
        return Err(Reason::WrongVni);
    }
    if tunnel.inner_eth.ethertype != ETHERTYPE_IPV4 || tunnel.inner_ip.header_len().is_none() {
        return Err(Reason::InnerNotIp);
    }
    Ok(())
}

/// Checks that the packet comes from a known peer, from an address that the peer may use, for a pod of this node, and, if
/// `counts`, counts it for the peer.
#[inline(always)]
pub(crate) fn check_peer(skb: &Skb<'_>, config: &Config, outer: &Outer, counts: bool) -> Result<(), Reason> {
    let inner: &Ipv4Header = skb.view(INNER_IP).ok_or(Reason::Truncated)?;
    let (src, dst) = (Addr::from_v4(inner.src), Addr::from_v4(inner.dst));
    let vtep = outer.src();
    let peer = maps::peer(&vtep).ok_or(Reason::UnknownPeer)?;
    if !speaks_for(&vtep, peer, &src) {
        return Err(Reason::SpoofedSource);
    }
    if !config.is_local(&dst) {
        return Err(Reason::NotLocal);
    }
    if counts {
        maps::count_received(peer.stats, skb.segments(), skb.len.saturating_sub(INNER_IP));
    }
    Ok(())
}

/// Whether the VTEP may send packets from `source`: one of its pods, or the node itself. (Without masquerading a node
/// answers a pod that called its underlay address through the tunnel, from that address.)
#[inline(always)]
fn speaks_for(vtep: &Addr, peer: &Peer, source: &Addr) -> bool {
    peer.subnet.contains(source) || source.same(vtep)
}

/// Whether the header is what RFC 7348 asks for: the I flag alone, reserved bits zero; with Group Based Policy also its
/// bit and its fields.
#[inline(always)]
fn flags_are_plain(config: &Config, vxlan: &VxlanHeader) -> bool {
    let [plain, ..] = VXLAN_FLAGS;
    let [first, ..] = vxlan.flags;
    let gbp = config.has(FLAG_GBP) && first == plain | VXLAN_GBP_BIT;
    vxlan.reserved == 0 && (vxlan.flags == VXLAN_FLAGS || gbp)
}
