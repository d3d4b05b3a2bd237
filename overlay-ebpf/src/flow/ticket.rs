//! Tickets: how a packet is followed through the stack. It carries the number of a `PENDING` slot in its mark and the
//! slot's generation in `tc_index`; both survive bridge, conntrack, routing and the kernel's decapsulation.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use overlay_common::addr::Addr;
use overlay_common::config::Config;
use overlay_common::flow::{
    self, PENDING_EGRESS, PENDING_HOLD, PENDING_INGRESS, PENDING_MAX_AGE, PENDING_PROBE, Pending,
};
use overlay_common::headers::IPPROTO_TCP;
use overlay_common::reason::Reason;

use super::packet::FlowPacket;
use crate::maps::{self, CURSORS, PENDING};
use crate::skb::Skb;
use crate::time;

/// What a packet that comes out of the stack was when it went in.
pub(crate) struct Ticket {
    pub(crate) slot: &'static Pending,
    number: u32,
    /// Whether `tc_index` fits, too. If not, somebody has cleared it, or the mark is not ours.
    pub(crate) is_valid: bool,
}

/// What is noted of a packet that goes in.
pub(crate) struct Note<'a> {
    pub(crate) packet: &'a FlowPacket,
    /// `PENDING_*`.
    pub(crate) kind: u32,
    /// TOS byte that the packet will have without interference.
    pub(crate) tos: u8,
    /// VTEP that a tunnel packet came from.
    pub(crate) vtep: Addr,
}

impl Ticket {
    /// What [`overlay_common::flow::IngressFlow`] knows the packet by.
    #[inline(always)]
    pub(crate) fn id(&self) -> u32 {
        flow::ticket(self.number, self.slot.generation)
    }

    #[inline(always)]
    pub(crate) fn is_probe(&self) -> bool {
        self.slot.kind & PENDING_PROBE != 0
    }

    /// Whether the packet is of this kind, probe or not.
    #[inline(always)]
    pub(crate) fn is(&self, kind: u32) -> bool {
        self.slot.kind & !PENDING_PROBE == kind
    }

    /// Whether the packet was in the stack for a short time only, and since the last change of epoch.
    #[inline(always)]
    pub(crate) fn is_recent(&self, config: &Config, now: u64) -> bool {
        now.saturating_sub(self.slot.entered) <= PENDING_MAX_AGE && self.slot.epoch == config.epoch
    }

    /// Whether `packet` can be the noted one, whatever rules have done to its TTL and TOS: NAT may change the destination
    /// on the way into the tunnel, the source on the way out of it. An aggregate that others have joined is not.
    #[inline(always)]
    pub(crate) fn is_of(&self, packet: &FlowPacket) -> bool {
        let slot = self.slot;
        let (before, now) = (&slot.key, &packet.key);
        let end = if self.is(PENDING_EGRESS) {
            now.src.same(&before.src) && now.src_port == before.src_port
        } else {
            now.dst.same(&before.dst) && now.dst_port == before.dst_port
        };
        end && now.protocol == before.protocol
            && packet.sequence == slot.sequence
            && packet.ip.total_len == slot.total_len
    }

    /// Whether `packet` is an aggregate of TCP segments out of the tunnel that begins with the noted one.
    #[inline(always)]
    pub(crate) fn begins(&self, packet: &FlowPacket) -> bool {
        let (before, now) = (&self.slot.key, &packet.key);
        self.is_valid
            && self.is(PENDING_INGRESS)
            && now.protocol == IPPROTO_TCP
            && before.protocol == IPPROTO_TCP
            && packet.sequence == self.slot.sequence
            && now.dst.same(&before.dst)
            && now.dst_port == before.dst_port
    }

    /// Whether the stack has forwarded the packet as the fast path would: one hop, the same TOS.
    #[inline(always)]
    pub(crate) fn was_forwarded(&self, packet: &FlowPacket) -> bool {
        packet.ip.ttl.wrapping_add(1) == self.slot.ttl && packet.ip.tos == self.slot.tos
    }
}

/// Whether the packet's mark bits are in use, by us or by somebody else.
#[inline(always)]
pub(crate) fn is_marked(skb: &Skb<'_>, config: &Config) -> bool {
    skb.mark() & config.mark_mask != 0
}

/// Gives the packet a ticket and returns its id; `None`, counted, when no slot is free.
#[inline(always)]
pub(crate) fn issue(skb: &Skb<'_>, config: &Config, note: &Note<'_>) -> Option<u32> {
    let issued = try_issue(skb, config, note);
    if issued.is_none() {
        maps::count(Reason::NoTicket, skb.len);
    }
    issued
}

#[inline(always)]
fn try_issue(skb: &Skb<'_>, config: &Config, note: &Note<'_>) -> Option<u32> {
    let cursor = CURSORS.get_ptr_mut(0)?;
    // SAFETY: this CPU's copy, and programs that issue tickets do not preempt each other on one CPU.
    let cursor = unsafe { &mut *cursor };
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let number = cpu.wrapping_mul(config.slots_per_cpu).wrapping_add(*cursor);
    let mark = number.wrapping_add(1) << config.mark_shift;
    if mark & !config.mark_mask != 0 {
        return None;
    }
    let slot = PENDING.get_ptr_mut(number)?;
    let now = time::now();
    // SAFETY: a value of the map. Only this CPU writes this slot.
    let (generation, entered) = unsafe { ((*slot).generation, (*slot).entered) };
    if generation != 0 && now.saturating_sub(entered) < PENDING_HOLD {
        return None;
    }
    *cursor = match cursor.wrapping_add(1) {
        next if next < config.slots_per_cpu => next,
        _ => 0,
    };
    let mut next = generation.wrapping_add(1);
    if next == 0 || flow::ticket_check(number, next) == 0 {
        next = next.wrapping_add(1);
    }
    // Generation 0 while it is being written. Volatile, so that the compiler keeps the order; the processor need not be
    // told: a packet takes its ticket to another CPU through a locked queue, and the next note is written
    // `PENDING_HOLD` later.
    macro_rules! note {
        ($($field:ident: $value:expr,)+) => {$(
            // SAFETY: a value of the map, that only this CPU writes.
            unsafe { (&raw mut (*slot).$field).write_volatile($value) };
        )+};
    }
    note! {
        generation: 0,
        entered: now,
        key: note.packet.key,
        kind: note.kind,
        ifindex: skb.ifindex(),
        sequence: note.packet.sequence,
        total_len: note.packet.ip.total_len,
        ttl: note.packet.ip.ttl,
        tos: note.tos,
        src_mac: note.packet.eth.src,
        vtep: note.vtep,
        epoch: config.epoch,
        generation: next,
    }
    skb.set_mark(skb.mark() | mark);
    skb.set_tc_index(flow::ticket_check(number, next));
    Some(flow::ticket(number, next))
}

/// Lets a copy of the packet go through the stack from the device that it came in by, to prove the flow's entry.
#[inline(always)]
pub(crate) fn send_probe(skb: &Skb<'_>, config: &Config, note: &Note<'_>) {
    if issue(skb, config, note).is_some() {
        // A copy that could not be sent is one probe less.
        let _ = skb.send_copy_into(skb.ifindex());
        take_back(skb, config);
    }
}

/// Takes the ticket from a packet; `None` if it has none of ours. Mark bits that somebody else uses stay.
///
/// A ticket that is not valid is returned if it may be that of a probe.
#[inline(always)]
pub(crate) fn redeem(skb: &Skb<'_>, config: &Config) -> Option<Ticket> {
    if !is_marked(skb, config) {
        return None;
    }
    let ticket = look(skb, config);
    if ticket.as_ref().is_some_and(|ticket| ticket.is_valid) {
        take_back(skb, config);
        return ticket;
    }
    maps::count(Reason::UnknownTicket, skb.len);
    ticket.filter(Ticket::is_probe)
}

/// The packet's ticket, which may not be valid.
#[inline(always)]
pub(crate) fn look(skb: &Skb<'_>, config: &Config) -> Option<Ticket> {
    let bits = skb.mark() & config.mark_mask;
    if bits == 0 {
        return None;
    }
    let number = (bits >> config.mark_shift) - 1;
    let place = PENDING.get_ptr(number)?;
    // SAFETY: a value of the map, copied to this CPU's room. Volatile: whoever reads the same generation before and after
    // has read one note.
    let (slot, generation) = unsafe {
        let copy = &raw mut (*maps::scratch()?).pending;
        maps::copy(place, copy);
        (&*copy, (&raw const (*place).generation).read_volatile())
    };
    if generation == 0 || slot.generation != generation {
        return None;
    }
    Some(Ticket {
        slot,
        number,
        is_valid: flow::ticket_check(number, generation) == skb.tc_index(),
    })
}

/// Clears the mark bits and `tc_index`.
#[inline(always)]
pub(crate) fn take_back(skb: &Skb<'_>, config: &Config) {
    skb.set_mark(skb.mark() & !config.mark_mask);
    skb.set_tc_index(0);
}
