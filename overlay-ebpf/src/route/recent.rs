//! The routing table's last answers, for packets that follow each other within one tick of the clock.
//!
//! The question costs more than the rest of the fast path's decisions together. An answer serves for a tick (1 to 10 ms)
//! at most, so a route or a neighbour that changes is followed about as soon as the kernel's own caches follow it. The packet
//! that asks goes by the neighbour subsystem, which therefore hears at least once per tick that the neighbour is in use, and
//! keeps confirming it; the others of that tick carry the link-layer header as it was then. (What the stack has routed asks
//! every time: `vtep_egress`.) Where ports have no say, an answer serves all flows to a peer: of a thousand flows each comes
//! but once in many ticks.

use overlay_common::addr::Addr;
use overlay_common::config::{Config, FLAG_ROUTES_BY_PORT};
use overlay_common::encap::Link;
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
    link: Link,
}

/// How a packet leaves for a peer.
pub(crate) struct Departure {
    pub(crate) link: Link,
    /// Where the neighbour subsystem shall take it, which has the last word on its link-layer header.
    pub(crate) by_neighbour: Option<NextHop>,
}

/// The way to a VTEP, as [`to_peer`] or as it said within the tick `now`. For packets that carry no route.
#[inline(always)]
pub(crate) fn to_peer_within(
    skb: &Skb<'_>,
    config: &Config,
    to: &To<'_>,
    now: u64,
) -> Result<Departure, Reason> {
    let by_port = config.has(FLAG_ROUTES_BY_PORT);
    let place = maps::answer(slot_of(to, by_port)).ok_or(Reason::NoRoute)?;
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
        return Ok(Departure {
            link: answer.link,
            by_neighbour: None,
        });
    }
    let found = to_peer(skb, config, to)?;
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
        link: found.link,
    };
    Ok(Departure {
        link: found.link,
        by_neighbour: Some(found.next_hop),
    })
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
