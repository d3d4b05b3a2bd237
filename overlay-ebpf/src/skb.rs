//! The packet: one bounds-checked accessor, and the fields of `__sk_buff` that the programs use.

use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS};
use aya_ebpf::helpers::{bpf_clone_redirect, bpf_get_hash_recalc, bpf_skb_pull_data, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use bytemuck::Pod;
use overlay_common::headers::VLAN_ID_MASK;

/// `PACKET_OTHERHOST` of `linux/if_packet.h`: seen only because the device is promiscuous.
const PACKET_OTHERHOST: u32 = 3;

/// A packet on a TC hook.
pub(crate) struct Skb<'a> {
    ctx: &'a TcContext,
    /// Length from the Ethernet header on as the program found it, in bytes, all segments together.
    pub(crate) len: u32,
}

impl<'a> Skb<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a TcContext) -> Self {
        Self { ctx, len: ctx.len() }
    }

    #[inline(always)]
    pub(crate) fn ctx(&self) -> &'a TcContext {
        self.ctx
    }

    #[inline(always)]
    pub(crate) fn raw(&self) -> *mut __sk_buff {
        self.ctx.skb.skb
    }

    /// The bytes at `offset` from the Ethernet header as a `T`; `None` if the packet ends before.
    ///
    /// The only way that packet bytes are read. Headers that are not in linear memory are pulled there first, which
    /// invalidates views taken before: the verifier refuses a program that uses one afterwards.
    #[inline(always)]
    pub(crate) fn view<T: Pod>(&self, offset: u32) -> Option<&T> {
        if let Some(view) = self.linear(offset) {
            return Some(view);
        }
        let end = offset + len_of::<T>();
        if self.current_len() < end {
            return None;
        }
        // SAFETY: the context of a running program; the helper checks the length.
        let pulled = unsafe { bpf_skb_pull_data(self.raw(), end) };
        if pulled == 0 { self.linear(offset) } else { None }
    }

    /// [`Self::view`] of linear memory: the bounds check.
    #[inline(always)]
    fn linear<T: Pod>(&self, offset: u32) -> Option<&T> {
        let start = self.ctx.data() + offset as usize;
        if start + size_of::<T>() > self.ctx.data_end() {
            return None;
        }
        // SAFETY: `size_of::<T>()` bytes from `start` on lie before `data_end`, as the verifier has to agree, and any
        // bytes are a valid `T: Pod`. Headers begin at even offsets, which is all the alignment that they ask for.
        Some(unsafe { &*(start as *const T) })
    }

    /// Writes `value` at `offset` from the Ethernet header. Returns whether it was written.
    #[inline(always)]
    pub(crate) fn write<T: Pod>(&self, offset: u32, value: &T) -> bool {
        self.write_start(offset, value, len_of::<T>())
    }

    /// [`Self::write`] of the first `len` bytes of `value`; nothing if it has less.
    #[inline(always)]
    pub(crate) fn write_start<T: Pod>(&self, offset: u32, value: &T, len: u32) -> bool {
        if len > len_of::<T>() {
            return false;
        }
        // SAFETY: the helper reads `len` bytes of `value` and checks the bounds of the packet.
        let result =
            unsafe { bpf_skb_store_bytes(self.raw(), offset, core::ptr::from_ref(value).cast(), len, 0) };
        result == 0
    }

    /// The length now, after the program may have changed it.
    #[inline(always)]
    pub(crate) fn current_len(&self) -> u32 {
        self.ctx.len()
    }

    /// `EtherType` of the packet, network byte order.
    #[inline(always)]
    pub(crate) fn protocol(&self) -> [u8; 2] {
        // SAFETY: the context of a running program; the verifier checks the offset.
        let protocol = unsafe { (*self.raw()).protocol };
        #[expect(clippy::cast_possible_truncation, reason = "a __be16 in a 32-bit field")]
        let protocol = protocol as u16;
        protocol.to_ne_bytes()
    }

    /// `skb->mark`.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        // SAFETY: the context of a running program. Volatile: a narrowed access would be refused by the verifier.
        unsafe { (&raw const (*self.raw()).mark).read_volatile() }
    }

    /// Sets `skb->mark`.
    #[inline(always)]
    pub(crate) fn set_mark(&self, mark: u32) {
        // SAFETY: as in `mark`; the field may be written.
        unsafe { (&raw mut (*self.raw()).mark).write_volatile(mark) }
    }

    /// Sets `skb->priority`, by which queueing disciplines sort.
    #[inline(always)]
    pub(crate) fn set_priority(&self, priority: u32) {
        // SAFETY: as in `set_mark`.
        unsafe { (&raw mut (*self.raw()).priority).write_volatile(priority) }
    }

    /// `skb->tc_index`.
    #[inline(always)]
    pub(crate) fn tc_index(&self) -> u16 {
        // SAFETY: as in `mark`.
        let index = unsafe { (&raw const (*self.raw()).tc_index).read_volatile() };
        #[expect(clippy::cast_possible_truncation, reason = "a 16-bit field of the kernel")]
        let index = index as u16;
        index
    }

    /// Sets `skb->tc_index`.
    #[inline(always)]
    pub(crate) fn set_tc_index(&self, index: u16) {
        // SAFETY: as in `set_mark`.
        unsafe { (&raw mut (*self.raw()).tc_index).write_volatile(u32::from(index)) }
    }

    /// Lets a copy of the packet come in by the device with this index, as if it came by again: it goes through every
    /// program on the hook and then through the stack. Returns whether it could.
    #[inline(always)]
    pub(crate) fn send_copy_into(&self, ifindex: u32) -> bool {
        // SAFETY: the context of a running program. The helper invalidates views, which the verifier knows.
        let result = unsafe { bpf_clone_redirect(self.raw(), ifindex, u64::from(BPF_F_INGRESS)) };
        result == 0
    }

    /// Payload bytes per segment of a GSO packet; 0 for other packets.
    #[inline(always)]
    pub(crate) fn gso_size(&self) -> u32 {
        // SAFETY: the context of a running program; the verifier checks the offset.
        unsafe { (*self.raw()).gso_size }
    }

    /// How many packets this is on the wire: at least 1. (The kernel leaves the count of some GSO packets at 0.)
    #[inline(always)]
    pub(crate) fn segments(&self) -> u32 {
        // SAFETY: the context of a running program; the verifier checks the offset.
        let segments = unsafe { (*self.raw()).gso_segs };
        if segments == 0 { 1 } else { segments }
    }

    /// Whether the device received the packet only because it is promiscuous.
    #[inline(always)]
    pub(crate) fn is_for_other_host(&self) -> bool {
        // SAFETY: the context of a running program; the verifier checks the offset.
        let pkt_type = unsafe { (*self.raw()).pkt_type };
        pkt_type == PACKET_OTHERHOST
    }

    /// The VLAN of the tag that the kernel has taken off the frame: 0 for a priority tag, `None` without a tag.
    #[inline(always)]
    pub(crate) fn vlan_id(&self) -> Option<u32> {
        // SAFETY: the context of a running program; the verifier checks the offsets.
        let (present, tci) = unsafe { ((*self.raw()).vlan_present, (*self.raw()).vlan_tci) };
        if present == 0 {
            None
        } else {
            Some(tci & u32::from(VLAN_ID_MASK))
        }
    }

    /// Index of the device that the program runs for.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the context of a running program; the verifier checks the offset.
        unsafe { (*self.raw()).ifindex }
    }

    /// The flow hash that the kernel device would take the source port from; 0 if the packet has none.
    #[inline(always)]
    pub(crate) fn flow_hash(&self) -> u32 {
        // SAFETY: the context of a running program.
        unsafe { bpf_get_hash_recalc(self.raw()) }
    }
}

/// Size of `T` in bytes. Header and parameter types are far below 4 GiB.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "types of a few dozen bytes")]
pub(crate) const fn len_of<T>() -> u32 {
    size_of::<T>() as u32
}
