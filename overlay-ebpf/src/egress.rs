//! From this node into the overlay: what the stack routed to the VTEP device.

mod inner;
mod push;
mod size;

use overlay_common::config::FLAG_GBP;
use overlay_common::encap::Packet;
use overlay_common::reason::Reason;
use overlay_common::{ecn, source_port};

use crate::skb::Skb;
use crate::{maps, route};

/// Encapsulates the packet for the peer that its destination belongs to. Whatever is unusual is left, unchanged, to the
/// kernel device.
#[inline(always)]
pub(crate) fn encapsulate(skb: &Skb<'_>) -> Reason {
    match try_encapsulate(skb) {
        Ok(()) => Reason::Encapsulated,
        Err(reason) => reason,
    }
}

#[inline(always)]
fn try_encapsulate(skb: &Skb<'_>) -> Result<(), Reason> {
    let config = maps::config().ok_or(Reason::EgressUnconfigured)?;
    let inner = inner::parse(skb)?;
    let peer = maps::subnet_of(inner.dst).ok_or(Reason::NoSubnet)?;
    if inner.dst_mac != peer.vtep_mac {
        return Err(Reason::OtherNextHop);
    }
    if config.has(FLAG_GBP) && skb.mark() != 0 {
        return Err(Reason::GbpMark);
    }
    let segment_len = size::outer_segment(skb, config, &inner)?;
    // Before the headers are there: afterwards the hash would be the outer packet's.
    let hash = skb.flow_hash();
    if hash == 0 {
        return Err(Reason::EgressNotIp);
    }
    let source_port = source_port::for_hash(hash, config.source_port_min, config.source_port_max);
    let tos = ecn::outer_tos(inner.tos);
    let next_hop = route::to_peer(skb, config, &peer.vtep, source_port, tos, segment_len)?;
    let packet = Packet {
        inner_len: inner.len,
        inner_tos: inner.tos,
        ip_id: push::fresh_ip_id(),
        source_port,
    };
    // Making room resets the count.
    let segments = skb.segments();
    push::headers(skb, config, peer, packet)?;
    push::redirect(config.underlay_ifindex, next_hop)?;
    if let Some(known) = maps::peer(&peer.vtep) {
        // SAFETY: this CPU's copy of the map's value.
        let stats = unsafe { &mut (*known).stats };
        stats.tx_packets += u64::from(segments);
        stats.tx_bytes += u64::from(inner.len);
    }
    Ok(())
}
