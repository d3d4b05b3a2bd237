//! A connection begins or ends: what is known of both directions goes.

use overlay_common::flow::{EgressFlow, FlowKey, IngressFlow};
use overlay_common::reason::Reason;

use super::packet::{FlowPacket, Role};
use super::{known, retry};
use crate::maps::{self, EGRESS_FLOWS, INGRESS_FLOWS};
use crate::skb::Skb;
use crate::time;

/// Heeds a packet from a pod that begins or ends a connection. What another pod claims concerns no one.
#[inline(always)]
pub(crate) fn by_pod(skb: &Skb<'_>, packet: &FlowPacket) {
    let entry = known::find(&EGRESS_FLOWS, &packet.key);
    if entry
        .as_ref()
        .is_some_and(|entry| entry.flow.ifindex != skb.ifindex())
        || !note(packet)
    {
        return;
    }
    if let Some(entry) = entry {
        forget_ingress(&answers_to(&packet.key, entry.flow));
        forget_egress(&packet.key);
        maps::count(Reason::EgressEnded, skb.len);
    }
}

/// Heeds a packet from a peer that begins or ends a connection.
#[inline(always)]
pub(crate) fn by_peer(skb: &Skb<'_>, packet: &FlowPacket) {
    if !note(packet) {
        return;
    }
    if let Some(entry) = known::find(&INGRESS_FLOWS, &packet.key) {
        forget_egress(&answered_by(&packet.key, entry.flow));
        forget_ingress(&packet.key);
        maps::count(Reason::IngressEnded, skb.len);
    }
}

/// *R'* of the flow with this *T*.
#[inline(always)]
pub(crate) fn answers_to(key: &FlowKey, flow: &EgressFlow) -> FlowKey {
    FlowKey::new(flow.dst, flow.dst_port, key.src, key.src_port, key.protocol)
}

/// *T* of the flow with this *R'*.
#[inline(always)]
pub(crate) fn answered_by(key: &FlowKey, flow: &IngressFlow) -> FlowKey {
    FlowKey::new(key.dst, key.dst_port, flow.src, flow.src_port, key.protocol)
}

/// Remembers what the packet means for further tries. Returns whether it begins or ends a connection.
#[inline(always)]
fn note(packet: &FlowPacket) -> bool {
    let tag = packet.key.tag();
    match packet.role {
        Role::Begin => retry::begun(tag),
        Role::End => retry::ended(tag, time::coarse()),
        Role::Data | Role::Odd => return false,
    }
    true
}

/// Removes the entry with this *T*, if there is one.
#[inline(always)]
pub(crate) fn forget_egress(key: &FlowKey) {
    let _absent = EGRESS_FLOWS.remove(key);
}

/// Removes the entry with this *R'*, if there is one.
#[inline(always)]
pub(crate) fn forget_ingress(key: &FlowKey) {
    let _absent = INGRESS_FLOWS.remove(key);
}
