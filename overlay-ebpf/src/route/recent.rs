//! The routing table's last answers, for packets that follow each other within one tick of the clock.
//!
//! The question costs more than the rest of the fast path's decisions together. An answer serves for a tick (1 to 10 ms)
//! at most, so a route that changes is followed about as soon as the kernel's own caches follow it; a neighbour that goes
//! meanwhile is resolved by the redirect, because what a pod sends carries no route yet. (Packets that the stack has routed
//! do, and would be lost then: for these the table is asked every time.) Where ports have no say, an answer serves all
//! flows to a peer: of a thousand flows each comes but once in many ticks.

use overlay_common::addr::Addr;
use overlay_common::config::{Config, FLAG_ROUTES_BY_PORT};
use overlay_common::reason::Reason;

use super::{NextHop, To, to_peer};
use crate::maps;
use crate::skb::Skb;

/// How many answers a CPU keeps: a power of two.
pub(crate) const ANSWERS: u32 = 256;

/// An answer, and what was asked.
#[repr(C)]
pub(crate) struct Answer {
    /// Tick of the coarse clock in which it was given; 0: never.
    tick: u64,
    vtep: Addr,
    mark: u32,
    epoch: u32,
    source_port: [u8; 2],
    tos: u8,
    reserved: u8,
    /// The longest packet in bytes that was asked for: shorter ones fit, too.
    longest: u16,
    padding: u16,
    next_hop: NextHop,
}

/// The next hop towards a VTEP, as [`to_peer`] or as it said within the tick `now`. For packets that carry no route.
#[inline(always)]
pub(crate) fn to_peer_within(
    skb: &Skb<'_>,
    config: &Config,
    to: &To<'_>,
    now: u64,
) -> Result<NextHop, Reason> {
    let by_port = config.has(FLAG_ROUTES_BY_PORT);
    let Some(place) = maps::answer(slot_of(to, by_port)) else {
        return to_peer(skb, config, to);
    };
    // SAFETY: this CPU's copy; programs on one CPU do not preempt each other.
    let answer = unsafe { &mut *place };
    if answer.tick == now
        && answer.longest >= to.segment_len
        && (!by_port || answer.source_port == to.source_port)
        && answer.vtep.same(to.vtep)
        && answer.mark == to.mark
        && answer.tos == to.tos
        && answer.epoch == config.epoch
    {
        return Ok(answer.next_hop);
    }
    let next_hop = to_peer(skb, config, to)?;
    *answer = Answer {
        tick: now,
        vtep: *to.vtep,
        mark: to.mark,
        epoch: config.epoch,
        source_port: to.source_port,
        tos: to.tos,
        reserved: 0,
        longest: to.segment_len,
        padding: 0,
        next_hop,
    };
    Ok(next_hop)
}

/// Source ports are hashes of flows already; the VTEPs of a cluster have addresses that follow each other.
#[inline(always)]
fn slot_of(to: &To<'_>, by_port: bool) -> u32 {
    if by_port {
        u32::from(u16::from_be_bytes(to.source_port))
    } else {
        u32::from_be_bytes(to.vtep.low_v4()) ^ to.mark ^ u32::from(to.tos)
    }
}
