//! Learning from a packet out of the tunnel that the stack hands to a pod.

use bytemuck::Zeroable;
use overlay_common::config::Config;
use overlay_common::flow::{
    ENDPOINT_SHORTCUT, EgressFlow, FLOW_ACTIVE, FLOW_NAT, FLOW_SHORTCUT, FlowKey, IngressFlow,
    PENDING_EGRESS, PENDING_INGRESS,
};
use overlay_common::reason::Reason;

use crate::flow::end;
use crate::flow::known::{self, Entry};
use crate::flow::packet::{self, FlowPacket};
use crate::flow::ticket::{self, Ticket};
use crate::maps::{self, EGRESS_FLOWS, INGRESS_FLOWS};
use crate::skb::Skb;
use crate::time;

/// Takes the ticket of a packet that enters a pod; a probe ends here. `None` for packets without one, and for those that
/// go on.
#[inline(always)]
pub(crate) fn learn(skb: &Skb<'_>) -> Option<Reason> {
    let config = maps::fastpath_config()?;
    let ticket = ticket::redeem(skb, config)?;
    let parsed = packet::parse(skb, 0);
    let packet = parsed.filter(|packet| ticket.is_of(packet));
    let learned = packet.is_some_and(|packet| try_learn(skb, config, &ticket, packet).is_some());
    let outcome = if learned {
        Reason::IngressLearned
    } else {
        Reason::IngressNotLearned
    };
    maps::count(outcome, skb.len);
    if packet.is_none()
        && let Some(aggregate) = parsed.filter(|packet| ticket.begins(packet))
        && let Some(entry) = known::find(&INGRESS_FLOWS, &ticket.slot.key)
    {
        came_out(&entry, aggregate.position(ticket.id()), time::now());
    }
    if !ticket.is_probe() || packet.is_none() {
        return None;
    }
    if ticket.is(PENDING_EGRESS) {
        // What went into the tunnel is now for a pod of this node: the entry is wrong.
        end::forget_egress(&ticket.slot.key);
    }
    Some(Reason::IngressProbe)
}

#[inline(always)]
fn try_learn(skb: &Skb<'_>, config: &Config, ticket: &Ticket, packet: &FlowPacket) -> Option<()> {
    let now = time::now();
    let usable = ticket.is_valid && ticket.is(PENDING_INGRESS) && ticket.is_recent(config, now);
    if !usable || !ticket.was_forwarded(packet) {
        return None;
    }
    let ifindex = skb.ifindex();
    let slot = ticket.slot;
    // In this order: the agent removes an endpoint before it raises its epoch.
    let epoch = maps::epoch(slot.epoch, ifindex)?;
    let endpoint = maps::endpoint(ifindex)?;
    let other = other_direction(packet, &slot.key, ifindex, epoch)?;
    let peer = maps::peer(&slot.vtep)?;
    let key = &slot.key;
    let nat = !packet.key.src.same(&key.src) || packet.key.src_port != key.src_port;
    let shortcut = endpoint.mode == ENDPOINT_SHORTCUT;
    let state = (if nat { FLOW_NAT } else { 0 }) | (if shortcut { FLOW_SHORTCUT } else { 0 });
    // SAFETY: this CPU's room.
    let flow = unsafe { &mut (*maps::scratch()?).new_ingress };
    *flow = IngressFlow::zeroed();
    flow.tag = key.tag();
    flow.epoch = epoch;
    flow.validated = slot.entered;
    flow.probed = slot.entered;
    flow.state = state;
    flow.ifindex = ifindex;
    flow.stats = peer.stats;
    flow.vtep = slot.vtep;
    flow.src = packet.key.src;
    flow.src_port = packet.key.src_port;
    flow.dst_mac = packet.eth.dst;
    flow.src_mac = packet.eth.src;
    match known::find(&INGRESS_FLOWS, key) {
        Some(entry) if is_same_way(entry.flow, flow) => {
            entry.change(|known| known.validated = flow.validated);
            came_out(&entry, packet.position(ticket.id()), now);
        }
        Some(_) | None => known::store(&INGRESS_FLOWS, key, flow).then_some(())?,
    }
    other.change(|known| known.state |= FLOW_ACTIVE);
    Some(())
}

/// Notes that the packet at `position` has come out of the stack, if it is the last one that went in.
#[inline(always)]
fn came_out(entry: &Entry<IngressFlow>, position: u32, now: u64) {
    entry.change(|flow| {
        if flow.entered == position {
            flow.left_at = now;
            flow.left = position;
        }
    });
}

/// What is known of the packets that the pod sends in this flow. They must go to where this one came from (`answered`),
/// and come by the device that this one leaves by, from the MAC address that it is sent to: a bridge that does not know the
/// address floods every pod.
#[inline(always)]
fn other_direction(
    packet: &FlowPacket,
    answered: &FlowKey,
    ifindex: u32,
    epoch: u32,
) -> Option<Entry<EgressFlow>> {
    let entry = known::find(&EGRESS_FLOWS, &packet.key.reversed())?;
    let flow = entry.flow;
    let matches = flow.ifindex == ifindex
        && flow.epoch == epoch
        && flow.pod_mac == packet.eth.dst
        && flow.dst.same(&answered.src)
        && flow.dst_port == answered.src_port;
    matches.then_some(entry)
}

/// Whether two entries of one flow differ in nothing but times, activity and what has come out of the stack.
#[inline(always)]
fn is_same_way(a: &IngressFlow, b: &IngressFlow) -> bool {
    a.epoch == b.epoch
        && a.state & !FLOW_ACTIVE == b.state & !FLOW_ACTIVE
        && a.ifindex == b.ifindex
        && a.stats == b.stats
        && a.vtep.same(&b.vtep)
        && a.src.same(&b.src)
        && a.src_port == b.src_port
        && a.dst_mac == b.dst_mac
        && a.src_mac == b.src_mac
}
