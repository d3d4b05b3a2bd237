//! Which way a packet for a pod takes.

use overlay_common::addr::Addr;
use overlay_common::config::Config;
use overlay_common::ecn;
use overlay_common::flow::{
    FLOW_ACTIVE, FLOW_SHORTCUT, IngressFlow, PENDING_INGRESS, SETTLE, SETTLE_SHORT, WARM_UP, WARM_UP_LIMIT,
};

use overlay_common::headers::IPPROTO_UDP;

use super::outer::Outer;
use crate::flow::known::{self, Entry, Trust};
use crate::flow::packet::FlowPacket;
use crate::flow::retry;
use crate::flow::ticket::{self, Note};
use crate::maps::INGRESS_FLOWS;
use crate::skb::Skb;
use crate::time;

pub(super) enum Way {
    /// Into the pod, by its flow's entry.
    Fast {
        entry: Entry<IngressFlow>,
        /// TOS byte of the inner header after decapsulation.
        tos: u8,
        /// A copy shall prove the entry anew.
        probe: bool,
    },
    /// Through the stack, which is being left: its last packets are followed, so that none is overtaken.
    Warm(Entry<IngressFlow>),
    /// Through the stack, though the flow is known: the next ones must not overtake it.
    Hold(Entry<IngressFlow>),
    /// Through the stack: of this flow nothing is known, or nothing that may still be trusted.
    Unknown(Option<Entry<IngressFlow>>),
    /// Through the stack.
    Slow,
}

/// The way of a packet that is still in the tunnel.
#[inline(always)]
pub(super) fn of(skb: &Skb<'_>, config: &Config, packet: &FlowPacket, outer: &Outer) -> Way {
    // The kernel device takes a priority tag off; the fast path would carry it into the pod.
    if !packet.is_eligible() || skb.vlan_id().is_some() {
        return Way::Slow;
    }
    let now = time::coarse();
    let Some(entry) = known::find(&INGRESS_FLOWS, &packet.key) else {
        return Way::Unknown(None);
    };
    let trust = entry.trust(config, now);
    if matches!(trust, Trust::None) {
        return Way::Unknown(Some(entry));
    }
    // Somebody else's packet is for the peer check, a frame to another device for nobody. A shortcut begins behind the
    // kernel device.
    if packet.eth.dst != config.vtep_mac
        || !entry.flow.vtep.same(&outer.src())
        || entry.flow.state & FLOW_SHORTCUT != 0
    {
        return Way::Slow;
    }
    // What a program has decapsulated is still marked as tunnelled, and the pod's UDP socket cannot take such an aggregate
    // apart: it would be lost.
    if packet.ip.protocol == IPPROTO_UDP && skb.gso_size() != 0 {
        return Way::Hold(entry);
    }
    // The kernel drops what signals congestion to a transport that cannot be told.
    match ecn::decapsulated_tos(outer.tos(), packet.ip.tos) {
        Some(tos) => proceed(config, entry, trust, tos, now),
        None => Way::Slow,
    }
}

/// The way of a packet that the kernel device has decapsulated.
#[inline(always)]
pub(super) fn of_shortcut(config: &Config, packet: &FlowPacket) -> Way {
    if !packet.is_eligible() {
        return Way::Slow;
    }
    let now = time::coarse();
    let Some(entry) = known::find(&INGRESS_FLOWS, &packet.key) else {
        return Way::Slow;
    };
    let trust = entry.trust(config, now);
    if matches!(trust, Trust::None) || entry.flow.state & FLOW_SHORTCUT == 0 {
        return Way::Slow;
    }
    proceed(config, entry, trust, packet.ip.tos, now)
}

#[inline(always)]
fn proceed(config: &Config, entry: Entry<IngressFlow>, trust: Trust, tos: u8, now: u64) -> Way {
    if !entry.is_active() {
        if !has_settled(entry.flow) {
            return Way::Warm(entry);
        }
        entry.change(|flow| flow.state |= FLOW_ACTIVE);
        retry::learned(entry.flow.tag);
    }
    let probe = matches!(trust, Trust::Due) && entry.wants_probe(config, now);
    Way::Fast { entry, tos, probe }
}

/// Whether the last packet of the flow that went into the stack has come out of it, and long enough ago to have passed
/// the queue to the pod, too. (On the way through the kernel device a packet waits in two queues.)
#[inline(always)]
fn has_settled(flow: &IngressFlow) -> bool {
    if flow.left == 0 {
        return false;
    }
    let now = time::now();
    // Until it is active an entry sends no probes: this is when it began to wait.
    let waiting = now.saturating_sub(flow.probed);
    let gap = if flow.left == flow.entered {
        now.saturating_sub(flow.left_at)
    } else {
        0
    };
    gap > SETTLE || (gap > SETTLE_SHORT && waiting > WARM_UP) || waiting > WARM_UP_LIMIT
}

/// Marks a packet that goes through the stack if that can teach something. `vtep` is where it came from, `outer_tos` the
/// outer header's TOS byte. Returns whether it did.
#[inline(always)]
pub(super) fn follow(
    skb: &Skb<'_>,
    config: &Config,
    packet: &FlowPacket,
    vtep: Addr,
    outer_tos: u8,
    way: &Way,
) -> bool {
    let (entry, due) = match way {
        Way::Warm(entry) => (Some(entry), true),
        Way::Unknown(entry) => (entry.as_ref(), retry::is_due(packet.key.tag(), time::coarse())),
        Way::Hold(entry) => (Some(entry), false),
        Way::Fast { .. } | Way::Slow => return false,
    };
    let issued = if due {
        issue(skb, config, packet, vtep, outer_tos)
    } else {
        None
    };
    if let Some(entry) = entry {
        // A packet that is not followed keeps the flow waiting for the next one.
        let held = matches!(way, Way::Hold(_));
        entry.change(|flow| {
            if held || flow.state & FLOW_ACTIVE != 0 {
                flow.probed = time::now();
            }
            flow.state &= !FLOW_ACTIVE;
            flow.entered = issued.map_or(0, |id| packet.position(id));
        });
    }
    issued.is_some()
}

#[inline(always)]
fn issue(skb: &Skb<'_>, config: &Config, packet: &FlowPacket, vtep: Addr, outer_tos: u8) -> Option<u32> {
    let note = Note {
        packet,
        kind: PENDING_INGRESS,
        tos: ecn::decapsulated_tos(outer_tos, packet.ip.tos)?,
        vtep,
    };
    ticket::issue(skb, config, &note)
}
