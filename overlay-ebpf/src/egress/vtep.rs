//! What the stack routed to the VTEP device: encapsulation by the subnet map, and learning.

use overlay_common::config::{Config, FLAG_FASTPATH, FLAG_GBP};
use overlay_common::encap::{self, Packet};
use overlay_common::flow::PENDING_INGRESS;
use overlay_common::maps::SubnetEntry;
use overlay_common::reason::Reason;
use overlay_common::{ecn, source_port};

use super::{inner, learn, push, size};
use crate::flow::{end, packet, ticket};
use crate::maps;
use crate::route::{self, Found, To};
use crate::skb::Skb;

/// The way into the tunnel, decided before anything is changed.
pub(super) struct Way {
    pub(super) peer: &'static SubnetEntry,
    pub(super) source_port: [u8; 2],
    pub(super) mark: u32,
    found: Found,
    inner_len: u32,
    inner_tos: u8,
}

/// Encapsulates the packet for the peer that its destination belongs to. Whatever is unusual is left, unchanged, to the
/// kernel device. A packet with a ticket teaches what became of it; a probe ends here.
#[inline(always)]
pub(crate) fn encapsulate(skb: &Skb<'_>) -> Reason {
    let Some(config) = maps::config() else {
        return Reason::EgressUnconfigured;
    };
    let ticket = if config.has(FLAG_FASTPATH) {
        ticket::redeem(skb, config)
    } else {
        None
    };
    let way = find_way(skb, config);
    if let Some(ticket) = ticket {
        let packet = packet::parse(skb, 0).filter(|packet| ticket.is_of(packet));
        let learned = match (&way, packet) {
            (Ok(way), Some(packet)) => learn::from(config, &ticket, packet, way),
            (Ok(_) | Err(_), _) => false,
        };
        let outcome = if learned {
            Reason::EgressLearned
        } else {
            Reason::EgressNotLearned
        };
        maps::count(outcome, skb.len);
        if ticket.is_probe() && packet.is_some() {
            if ticket.is(PENDING_INGRESS) {
                // What was for a pod of this node is now for another node: the entry is wrong.
                end::forget_ingress(&ticket.slot.key);
            }
            return Reason::EgressProbe;
        }
    }
    match way.and_then(|way| send(skb, config, &way)) {
        Ok(()) => Reason::Encapsulated,
        Err(reason) => reason,
    }
}

#[inline(always)]
fn find_way(skb: &Skb<'_>, config: &Config) -> Result<Way, Reason> {
    let inner = inner::parse(skb)?;
    let peer = maps::subnet_of(inner.dst).ok_or(Reason::NoSubnet)?;
    if inner.dst_mac != peer.vtep_mac {
        return Err(Reason::OtherNextHop);
    }
    if config.has(FLAG_GBP) && skb.mark() != 0 {
        return Err(Reason::GbpMark);
    }
    let segment_len = size::segment_len(skb, config, &inner.size)?;
    // Before the headers are there: afterwards the hash would be the outer packet's.
    let hash = skb.flow_hash();
    if hash == 0 {
        return Err(Reason::EgressNotIp);
    }
    let source_port = source_port::for_hash(hash, config.source_port_min, config.source_port_max);
    let tos = ecn::outer_tos(inner.tos);
    let mark = skb.mark();
    let found = {
        let to = To {
            vtep: &peer.vtep,
            source_port,
            tos,
            segment_len,
            mark,
        };
        route::to_peer(skb, config, &to)?
    };
    Ok(Way {
        peer,
        source_port,
        mark,
        found,
        inner_len: inner.size.len,
        inner_tos: inner.tos,
    })
}

#[inline(always)]
fn send(skb: &Skb<'_>, config: &Config, way: &Way) -> Result<(), Reason> {
    // Making room resets the count.
    let segments = skb.segments();
    let packet = Packet {
        inner_len: way.inner_len,
        inner_tos: way.inner_tos,
        ip_id: push::fresh_ip_id(segments).ok_or(Reason::EncapRefused)?,
        source_port: way.source_port,
    };
    let headers = encap::headers_v4(config, way.peer, way.found.link, packet);
    push::make_room(skb)?;
    push::write(skb, &headers)?;
    push::redirect(config.underlay_ifindex, way.found.next_hop)?;
    if let Some(known) = maps::peer(&way.peer.vtep) {
        maps::count_sent(known.stats, segments, way.inner_len);
    }
    Ok(())
}
