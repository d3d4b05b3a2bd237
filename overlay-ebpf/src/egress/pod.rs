//! What a pod sends: established flows go into the tunnel from here, past the rest of the stack.

use overlay_common::addr::Addr;
use overlay_common::config::Config;
use overlay_common::ecn;
use overlay_common::encap::{self, Packet};
use overlay_common::flow::{EgressFlow, FLOW_NAT, FlowKey, PENDING_EGRESS, PENDING_PROBE};
use overlay_common::headers::ETHERTYPE_IPV4;
use overlay_common::lanes::{lane, word};
use overlay_common::maps::SubnetEntry;
use overlay_common::priority;
use overlay_common::reason::Reason;

use super::push;
use super::size::{self, InnerSize};
use crate::flow::known::{self, Entry, Trust};
use crate::flow::packet::{self, FlowPacket, Role};
use crate::flow::rewrite;
use crate::flow::ticket::{self, Note};
use crate::flow::{end, retry};
use crate::maps::{self, EGRESS_FLOWS};
use crate::route::To;
use crate::route::recent::{self, Departure};
use crate::skb::Skb;
use crate::time;

/// Offset of the inner Ethernet header once the outer headers are there.
const INNER_ETH: u32 = encap::OVERHEAD_V4;

/// Sends the packet into the tunnel, or lets the stack have it; `None` while the fast path is off.
#[inline(always)]
pub(crate) fn send_fast(skb: &Skb<'_>) -> Option<Reason> {
    let config = maps::fastpath_config()?;
    if ticket::is_marked(skb, config) {
        let ours = ticket::look(skb, config).is_some_and(|ticket| ticket.is_valid);
        return Some(if ours {
            Reason::PodProbe
        } else {
            Reason::PodIneligible
        });
    }
    if skb.protocol() != ETHERTYPE_IPV4 || skb.vlan_id().is_some() {
        return Some(Reason::PodIneligible);
    }
    let Some(packet) = packet::parse(skb, 0) else {
        return Some(Reason::PodIneligible);
    };
    if !packet.is_eligible() {
        if !matches!(packet.role, Role::Data) {
            end::by_pod(skb, packet);
        }
        return Some(Reason::PodIneligible);
    }
    // Between pods of this node; it never comes out at the VTEP device.
    if config.is_local(&packet.key.dst) {
        return Some(Reason::PodMiss);
    }
    let now = time::coarse();
    if let Some(entry) = known::find(&EGRESS_FLOWS, &packet.key)
        && entry.flow.ifindex == skb.ifindex()
    {
        match entry.trust(config, now) {
            Trust::None => {}
            // Seen in this direction only so far.
            Trust::Fresh | Trust::Due if !entry.is_active() => return Some(Reason::PodMiss),
            trust @ (Trust::Fresh | Trust::Due) => {
                return Some(forward(skb, config, packet, &entry, trust, now));
            }
        }
    }
    if !retry::is_due(packet.key.tag(), now) {
        return Some(Reason::PodMiss);
    }
    let issued = ticket::issue(skb, config, &note(packet, PENDING_EGRESS));
    Some(if issued.is_some() {
        Reason::PodMarked
    } else {
        Reason::PodMiss
    })
}

#[inline(always)]
fn note(packet: &FlowPacket, kind: u32) -> Note<'_> {
    Note {
        packet,
        kind,
        tos: packet.ip.tos,
        vtep: Addr::UNSPECIFIED,
    }
}

#[inline(always)]
fn forward(
    skb: &Skb<'_>,
    config: &Config,
    packet: &FlowPacket,
    entry: &Entry<EgressFlow>,
    trust: Trust,
    now: u64,
) -> Reason {
    let Ok(segment) = size::segment_len(skb, config, &InnerSize::of(packet, 0)) else {
        return Reason::PodTooBig;
    };
    // Asked again and again: a route or a neighbour may go at any time, and with them the reason for this way.
    let (flow, tos) = (entry.flow, ecn::outer_tos(packet.ip.tos));
    let to = To {
        vtep: &flow.vtep,
        source_port: flow.source_port,
        tos,
        segment_len: segment,
        mark: flow.mark,
    };
    let departure = match recent::to_peer_within(skb, config, &to, now) {
        Ok(departure) => departure,
        Err(Reason::TooBig) => return Reason::PodTooBig,
        Err(_) => return Reason::PodNoRoute,
    };
    if matches!(trust, Trust::Due) && entry.wants_probe(config, now) {
        ticket::send_probe(skb, config, &note(packet, PENDING_EGRESS | PENDING_PROBE));
    }
    match encapsulate(skb, config, packet, flow, departure) {
        Ok(()) => Reason::EgressFast,
        Err(reason) => reason,
    }
}

#[inline(always)]
fn encapsulate(
    skb: &Skb<'_>,
    config: &Config,
    packet: &FlowPacket,
    flow: &EgressFlow,
    departure: Departure,
) -> Result<(), Reason> {
    let ip = packet.ip;
    // Making room resets the count.
    let (len, segments) = (packet.len(), skb.segments());
    // SAFETY: this CPU's room.
    let headers = unsafe { &mut (*maps::scratch().ok_or(Reason::EncapRefused)?).headers };
    let outer = Packet {
        inner_len: len,
        inner_tos: ip.tos,
        ip_id: push::fresh_ip_id(segments).ok_or(Reason::EncapRefused)?,
        source_port: flow.source_port,
    };
    let [a, b, c, d, e, f, g, h] = encap::headers_v4(
        config,
        &SubnetEntry::new(flow.vtep, flow.vtep_mac),
        departure.link,
        outer,
    );
    let [i, j, k, l, m, n, o, p, q, r] = ip.forwarded(ip.tos, ip.src, flow.dst.low_v4());
    let [src_port, dst_port] = [packet.key.src_port, flow.dst_port].map(|[high, low]| lane(high, low));
    *headers = [
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        word([i, j, k, l]),
        word([m, n, o, p]),
        word([q, r, src_port, dst_port]),
    ];
    push::make_room(skb)?;
    push::write(skb, headers)?;
    if flow.state & FLOW_NAT != 0 {
        let after = FlowKey::new(
            packet.key.src,
            packet.key.src_port,
            flow.dst,
            flow.dst_port,
            packet.key.protocol,
        );
        if !rewrite::mend_checksum(skb, INNER_ETH, &packet.key, &after) {
            return Err(Reason::EncapFailed);
        }
    }
    skb.set_mark(flow.mark);
    skb.set_priority(priority::of_forwarded(ip.tos));
    match departure.by_neighbour {
        None => push::redirect_as_it_is(config.underlay_ifindex)?,
        Some(next_hop) => push::redirect(config.underlay_ifindex, next_hop)?,
    }
    maps::count_sent(flow.stats, segments, len);
    Ok(())
}
