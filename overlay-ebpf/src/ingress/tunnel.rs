//! The VXLAN header, the inner packet, and who may send it.

use overlay_common::addr::Addr;
use overlay_common::config::{Config, FLAG_GBP};
use overlay_common::headers::{
    ETH_LEN, ETHERTYPE_IPV4, IPV4_LEN, TunnelV4, UDP_LEN, VXLAN_FLAGS, VXLAN_GBP_BIT, VXLAN_LEN, VxlanHeader,
};
use overlay_common::maps::Peer;
use overlay_common::reason::Reason;

use super::outer::Outer;
use crate::maps;
use crate::skb::Skb;

const UDP_OFFSET: u32 = ETH_LEN + IPV4_LEN;
const INNER_IP_OFFSET: u32 = UDP_OFFSET + UDP_LEN + VXLAN_LEN + ETH_LEN;

/// Checks the tunnel packet and, if it is accepted, counts it for its peer.
#[inline(always)]
pub(crate) fn check(skb: &Skb<'_>, config: &Config, outer: &Outer) -> Result<(), Reason> {
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
    let vtep = outer.src();
    let peer = maps::peer(&vtep).ok_or(Reason::UnknownPeer)?;
    // SAFETY: this CPU's copy of the map's value.
    let peer = unsafe { &mut *peer };
    if !speaks_for(&vtep, peer, &Addr::from_v4(tunnel.inner_ip.src)) {
        return Err(Reason::SpoofedSource);
    }
    if !config.is_local(&Addr::from_v4(tunnel.inner_ip.dst)) {
        return Err(Reason::NotLocal);
    }
    peer.stats.rx_packets += u64::from(skb.segments());
    peer.stats.rx_bytes += u64::from(skb.len.saturating_sub(INNER_IP_OFFSET));
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
