//! The outer IP and UDP headers.

use overlay_common::addr::Addr;
use overlay_common::config::{Config, FLAG_PORT_SHARED};
use overlay_common::headers::{
    ETH_LEN, ETHERTYPE_IPV4, ETHERTYPES_VLAN, IPPROTO_UDP, IPV4_LEN, Ipv4Header, UDP_LEN, UdpHeader,
    VLAN_ID_MASK, VxlanHeader,
};
use overlay_common::reason::Reason;

use crate::route;
use crate::skb::Skb;

/// The outer headers of a packet on the overlay's UDP port.
pub(crate) struct Outer {
    ip: Ipv4Header,
    /// Offset of the UDP header from the Ethernet header, in bytes.
    pub(crate) udp_offset: u32,
}

impl Outer {
    /// TOS byte.
    #[inline(always)]
    pub(crate) fn tos(&self) -> u8 {
        self.ip.tos
    }

    /// Underlay address that the packet claims to come from.
    #[inline(always)]
    pub(crate) fn src(&self) -> Addr {
        Addr::from_v4(self.ip.src)
    }
}

/// Whether the frame is for another host, or of a VLAN whose device will handle it. A frame with a priority tag (VLAN 0) is
/// for this device, as one without a tag.
#[inline(always)]
pub(crate) fn is_for_others(skb: &Skb<'_>) -> bool {
    skb.is_for_other_host() || skb.vlan_id().is_some_and(|vlan| vlan != 0)
}

/// Whether another priority tag follows the one that the kernel has taken off. The kernel takes off any number of them
/// after this hook (`check_vlan_id`, net/core/dev.c), so what they hide could not be checked; nobody sends them.
#[inline(always)]
pub(crate) fn hides_behind_tags(skb: &Skb<'_>) -> bool {
    if skb.vlan_id().is_none() || !ETHERTYPES_VLAN.contains(&skb.protocol()) {
        return false;
    }
    skb.view::<[u8; 2]>(ETH_LEN)
        .is_some_and(|control| u16::from_be_bytes(*control) & VLAN_ID_MASK == 0)
}

/// The outer headers; `None` unless the packet is UDP to the overlay's port.
///
/// A fragment other than the first carries no port and passes; without its first one the kernel never delivers it.
#[inline(always)]
pub(crate) fn parse(skb: &Skb<'_>, config: &Config) -> Option<Outer> {
    if skb.protocol() != ETHERTYPE_IPV4 {
        return None;
    }
    // Copied: the next view may move the headers.
    let ip = *skb.view::<Ipv4Header>(ETH_LEN)?;
    if ip.protocol != IPPROTO_UDP || ip.is_later_fragment() {
        return None;
    }
    let udp_offset = ETH_LEN + ip.header_len()?;
    let udp: &UdpHeader = skb.view(udp_offset)?;
    (udp.dst == config.port).then_some(Outer { ip, udp_offset })
}

/// Checks that the packet is for our VTEP, whole, and plain.
#[inline(always)]
pub(crate) fn check(skb: &Skb<'_>, config: &Config, outer: &Outer) -> Result<(), Reason> {
    let for_vtep = outer.ip.dst == config.vtep.low_v4();
    if !for_vtep && !route::is_local(skb, &outer.ip) {
        return Err(Reason::InTransit);
    }
    if config.has(FLAG_PORT_SHARED) && is_other_vni(skb, config, outer) {
        return Err(Reason::OtherVni);
    }
    if !for_vtep {
        return Err(Reason::NotVtepAddress);
    }
    if outer.ip.is_fragment() {
        return Err(Reason::OuterFragment);
    }
    if outer.udp_offset != ETH_LEN + IPV4_LEN {
        return Err(Reason::OuterOptions);
    }
    Ok(())
}

/// Whether the packet carries a VNI, and not ours.
#[inline(always)]
fn is_other_vni(skb: &Skb<'_>, config: &Config, outer: &Outer) -> bool {
    skb.view::<VxlanHeader>(outer.udp_offset + UDP_LEN)
        .is_some_and(|vxlan| vxlan.vni != config.vni)
}
