//! Learning from a pod's packet that the stack has sent to the VTEP device.

use bytemuck::Zeroable;
use overlay_common::config::Config;
use overlay_common::flow::{EgressFlow, FLOW_ACTIVE, FLOW_NAT, FlowKey, PENDING_EGRESS};

use super::vtep::Way;
use crate::flow::packet::FlowPacket;
use crate::flow::ticket::Ticket;
use crate::flow::{known, retry};
use crate::maps::{self, EGRESS_FLOWS, INGRESS_FLOWS};
use crate::time;

/// Writes or renews the entry of the flow that the ticket's packet belongs to. Returns whether there is one now.
#[inline(always)]
pub(super) fn from(config: &Config, ticket: &Ticket, packet: &FlowPacket, way: &Way) -> bool {
    try_learn(config, ticket, packet, way).is_some()
}

#[inline(always)]
fn try_learn(config: &Config, ticket: &Ticket, now: &FlowPacket, way: &Way) -> Option<()> {
    let usable = ticket.is_valid && ticket.is(PENDING_EGRESS) && ticket.is_recent(config, time::now());
    if !usable || !ticket.was_forwarded(now) {
        return None;
    }
    let slot = ticket.slot;
    // In this order: the agent removes an endpoint before it raises its epoch.
    let epoch = maps::epoch(slot.epoch, slot.ifindex)?;
    maps::endpoint(slot.ifindex)?;
    let known_peer = maps::peer(&way.peer.vtep)?;
    let key = &slot.key;
    // SAFETY: this CPU's room.
    let flow = unsafe { &mut (*maps::scratch()?).new_egress };
    *flow = EgressFlow::zeroed();
    flow.tag = key.tag();
    flow.epoch = epoch;
    flow.validated = slot.entered;
    flow.probed = slot.entered;
    flow.state = state(key, &now.key, epoch, slot.ifindex);
    flow.ifindex = slot.ifindex;
    flow.stats = known_peer.stats;
    flow.mark = way.mark;
    flow.vtep = way.peer.vtep;
    flow.dst = now.key.dst;
    flow.vtep_mac = way.peer.vtep_mac;
    flow.pod_mac = slot.src_mac;
    flow.dst_port = now.key.dst_port;
    flow.source_port = way.source_port;
    match known::find(&EGRESS_FLOWS, key) {
        Some(entry) if is_same_way(entry.flow, flow) => {
            // In place: other CPUs may be using the entry, and a new one costs more.
            entry.change(|known| {
                known.validated = flow.validated;
                known.state = flow.state;
            });
        }
        Some(_) | None => known::store(&EGRESS_FLOWS, key, flow).then_some(())?,
    }
    if flow.state & FLOW_ACTIVE != 0 {
        retry::learned(flow.tag);
    } else {
        // The answers can be learned now.
        retry::learned(now.key.reversed().tag());
    }
    Some(())
}

/// Active if the other direction is known, of the same pod.
#[inline(always)]
fn state(before: &FlowKey, after: &FlowKey, epoch: u32, ifindex: u32) -> u32 {
    let both = maps::scratch().and_then(|scratch| {
        // SAFETY: this CPU's room.
        let answers = unsafe { &mut (*scratch).answers };
        *answers = after.reversed();
        known::find(&INGRESS_FLOWS, answers)
    });
    let both = both.is_some_and(|entry| {
        let known = entry.flow;
        known.epoch == epoch
            && known.ifindex == ifindex
            && known.src.same(&before.dst)
            && known.src_port == before.dst_port
    });
    // Source and protocol are the same.
    let nat = !before.dst.same(&after.dst) || before.dst_port != after.dst_port;
    (if both { FLOW_ACTIVE } else { 0 }) | (if nat { FLOW_NAT } else { 0 })
}

/// Whether two entries of one flow differ in nothing but time and state.
#[inline(always)]
fn is_same_way(a: &EgressFlow, b: &EgressFlow) -> bool {
    a.epoch == b.epoch
        && a.ifindex == b.ifindex
        && a.stats == b.stats
        && a.mark == b.mark
        && a.vtep.same(&b.vtep)
        && a.dst.same(&b.dst)
        && a.vtep_mac == b.vtep_mac
        && a.pod_mac == b.pod_mac
        && a.dst_port == b.dst_port
        && a.source_port == b.source_port
}
