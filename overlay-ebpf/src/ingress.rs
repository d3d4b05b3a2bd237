//! From the underlay to this node: tunnel packets are verified before the kernel's VXLAN socket sees them, and those of
//! established flows go straight into their pod. [`shortcut`] is the VTEP device's ingress, [`pod`] where the stack
//! hands packets to a pod.

mod deliver;
mod outer;
pub(crate) mod pod;
pub(crate) mod shortcut;
mod tunnel;
mod way;

use overlay_common::config::{Config, FLAG_FASTPATH};
use overlay_common::reason::Reason;

use self::way::Way;
use crate::flow::packet::{self, FlowPacket};
use crate::flow::{end, ticket};
use crate::maps;
use crate::skb::Skb;

/// Judges the packet; `None` if it is not a packet of the overlay.
#[inline(always)]
pub(crate) fn receive(skb: &Skb<'_>) -> Option<Reason> {
    let config = maps::config()?;
    if outer::is_for_others(skb) {
        return None;
    }
    if outer::hides_behind_tags(skb) {
        return Some(Reason::NestedPriorityTag);
    }
    let outer = outer::parse(skb, config)?;
    Some(match judge(skb, config, &outer) {
        Ok(reason) | Err(reason) => reason,
    })
}

#[inline(always)]
fn judge(skb: &Skb<'_>, config: &Config, outer: &outer::Outer) -> Result<Reason, Reason> {
    outer::check(skb, config, outer)?;
    tunnel::check_headers(skb, config)?;
    let fastpath = config.has(FLAG_FASTPATH);
    // Other people's marks are theirs.
    let marked = fastpath && ticket::is_marked(skb, config);
    let packet = if fastpath && !marked {
        packet::parse(skb, tunnel::INNER_ETH)
    } else {
        None
    };
    let way = packet
        .as_ref()
        .map_or(Way::Slow, |packet| way::of(skb, config, packet, outer));
    if let (Some(packet), Way::Fast { entry, tos, probe }) = (packet, &way)
        && deliver::fits(skb, config, packet, tunnel::INNER_ETH)
    {
        if *probe {
            deliver::probe(skb, config, packet, outer.src(), *tos);
        }
        match deliver::through_tunnel(skb, packet, entry.flow, *tos) {
            Ok(()) => return Ok(Reason::IngressFast),
            Err(deliver::Failure::Lost) => return Err(Reason::DecapFailed),
            // The kernel device can take it.
            Err(deliver::Failure::Untouched) => {}
        }
    }
    // A probe was counted for the peer when its original came.
    let probe = marked && ticket::look(skb, config).is_some_and(|ticket| ticket.is_valid);
    tunnel::check_peer(skb, config, outer, !probe)?;
    Ok(match packet {
        Some(packet) => pass(skb, config, outer, packet, &way),
        None if probe => Reason::IngressProbeSent,
        None => Reason::Accepted,
    })
}

/// Lets a verified packet pass to the kernel device, marked if that can teach something.
#[inline(always)]
fn pass(skb: &Skb<'_>, config: &Config, outer: &outer::Outer, packet: &FlowPacket, way: &Way) -> Reason {
    end::by_peer(skb, packet);
    if way::follow(skb, config, packet, outer.src(), outer.tos(), way) {
        Reason::IngressMarked
    } else {
        Reason::Accepted
    }
}
