//! The packet that is to be encapsulated.

use overlay_common::addr::Addr;
use overlay_common::headers::{ETH_LEN, ETHERTYPE_IPV4, EthIpv4};
use overlay_common::reason::Reason;

use super::size::InnerSize;
use crate::skb::Skb;

/// What the encapsulation must know about the inner packet.
pub(crate) struct Inner {
    /// Destination address.
    pub(crate) dst: Addr,
    /// Device that the stack sends the frame to.
    pub(crate) dst_mac: [u8; 6],
    /// TOS byte or traffic class.
    pub(crate) tos: u8,
    /// Length of packet and header. The frame's length counts, not the header's: what follows the IP packet is carried
    /// along, as the kernel device does.
    pub(crate) size: InnerSize,
}

/// Reads the inner packet's IP header.
#[inline(always)]
pub(crate) fn parse(skb: &Skb<'_>) -> Result<Inner, Reason> {
    if skb.protocol() != ETHERTYPE_IPV4 || skb.vlan_id().is_some() {
        return Err(Reason::EgressNotIp);
    }
    let EthIpv4 { eth, ip } = skb.view(0).ok_or(Reason::EgressNotIp)?;
    let header_len = ip.header_len().ok_or(Reason::EgressNotIp)?;
    Ok(Inner {
        dst: Addr::from_v4(ip.dst),
        dst_mac: eth.dst,
        tos: ip.tos,
        size: InnerSize {
            len: skb.len - ETH_LEN,
            header_len,
            transport: ETH_LEN + header_len,
            protocol: ip.protocol,
        },
    })
}
