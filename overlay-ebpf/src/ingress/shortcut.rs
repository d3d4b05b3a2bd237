//! The ingress of the VTEP device, for pods that encapsulate again what they receive: an aggregate that a program has
//! decapsulated still counts as encapsulated, so these get what the kernel device has decapsulated.

use overlay_common::flow::IngressFlow;
use overlay_common::reason::Reason;

use super::deliver::{self, Failure};
use super::way::{self, Way};
use crate::flow::known::Entry;
use crate::flow::packet;
use crate::flow::ticket;
use crate::maps;
use crate::skb::Skb;

/// Takes the packet to its pod, or lets the stack have it; `None` if no pod needs this, or not this packet.
#[inline(always)]
pub(crate) fn receive(skb: &Skb<'_>) -> Option<Reason> {
    if !maps::has_shortcuts() {
        return None;
    }
    let config = maps::fastpath_config()?;
    if ticket::is_marked(skb, config) {
        return None;
    }
    let packet = packet::parse(skb, 0)?;
    match way::of_shortcut(config, packet) {
        Way::Fast { entry, tos, probe } if deliver::fits(skb, config, packet, 0) => {
            let Entry { flow, .. } = entry;
            if probe {
                deliver::probe(skb, config, packet, flow.vtep, tos);
            }
            Some(hand_over(skb, packet, flow, tos))
        }
        way @ Way::Warm(Entry { flow, .. }) => {
            let tos = packet.ip.tos;
            way::follow(skb, config, packet, flow.vtep, tos, &way).then_some(Reason::IngressMarked)
        }
        Way::Fast { .. } | Way::Hold(_) | Way::Unknown(_) | Way::Slow => None,
    }
}

#[inline(always)]
fn hand_over(skb: &Skb<'_>, packet: &packet::FlowPacket, flow: &IngressFlow, tos: u8) -> Reason {
    match deliver::into_pod(skb, packet, flow, tos) {
        Ok(()) => Reason::ShortcutFast,
        Err(Failure::Untouched | Failure::Lost) => Reason::DecapFailed,
    }
}
