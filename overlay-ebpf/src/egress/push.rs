//! The modification of the packet. Until [`make_room`] has made room the packet is untouched and the kernel device can
//! take it; afterwards a failure loses it.

use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
    BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, TC_ACT_REDIRECT, bpf_redir_neigh,
};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_redirect, bpf_redirect_neigh, bpf_skb_adjust_room};
use bytemuck::Pod;
use overlay_common::encap::OVERHEAD_V4;
use overlay_common::reason::Reason;

use crate::maps;
use crate::route::NextHop;
use crate::skb::{Skb, len_of};

/// `BPF_ADJ_ROOM_MAC` of `linux/bpf.h`: the room goes after the Ethernet header.
const ADJ_ROOM_MAC: u32 = 1;

/// `BPF_F_ADJ_ROOM_ENCAP_L2(14)`: the inner L2 header is the inner Ethernet header alone. The VXLAN header is not part of
/// it: with 22 small packets pass and segmentation breaks.
const ENCAP_L2_14: u64 = 14 << 56;

/// GSO packets stay whole (the pods' MTU already leaves room for the headers); checksums of forwarded packets stay
/// valid.
const ENCAP_FLAGS: u64 = ENCAP_L2_14
    | (BPF_F_ADJ_ROOM_FIXED_GSO
        | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
        | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
        | BPF_F_ADJ_ROOM_ENCAP_L2_ETH
        | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;

/// Set once an identification has been given out.
const BEGUN: u32 = 1 << 16;

/// An identification for the outer IP header, which may be fragmented: the next of this CPU, and as many more as the packet
/// has segments, since segmentation counts on. Each CPU begins somewhere.
#[inline(always)]
pub(crate) fn fresh_ip_id(segments: u32) -> Option<[u8; 2]> {
    // SAFETY: this CPU's room.
    let next = unsafe { &mut (*maps::scratch()?).ip_ids.next };
    if *next == 0 {
        // SAFETY: the helper has no preconditions.
        *next = unsafe { bpf_get_prandom_u32() } | BEGUN;
    }
    let [.., a, b] = next.to_be_bytes();
    *next = next.wrapping_add(segments) | BEGUN;
    Some([a, b])
}

/// Makes room for the outer headers: the first change.
#[inline(always)]
pub(crate) fn make_room(skb: &Skb<'_>) -> Result<(), Reason> {
    // SAFETY: the context of a running program.
    let result =
        unsafe { bpf_skb_adjust_room(skb.raw(), OVERHEAD_V4.cast_signed(), ADJ_ROOM_MAC, ENCAP_FLAGS) };
    if result == 0 {
        return Ok(());
    }
    // -EALREADY (nested encapsulation), -ENOTSUPP, -ENOMEM come before the first change; verify it.
    Err(if skb.current_len() == skb.len {
        Reason::EncapRefused
    } else {
        Reason::EncapFailed
    })
}

/// Writes the headers in one store.
#[inline(always)]
pub(crate) fn write<T: Pod>(skb: &Skb<'_>, headers: &T) -> Result<(), Reason> {
    if skb.write(0, headers) {
        Ok(())
    } else {
        Err(Reason::EncapFailed)
    }
}

/// Sends the packet out of the underlay device; the neighbour subsystem fills in the next hop's MAC address, and confirms
/// that it is reachable.
#[inline(always)]
pub(crate) fn redirect(ifindex: u32, mut next_hop: NextHop) -> Result<(), Reason> {
    // SAFETY: `NextHop` has the layout and size of `struct bpf_redir_neigh`, which the helper copies.
    let verdict = unsafe {
        bpf_redirect_neigh(
            ifindex,
            (&raw mut next_hop).cast::<bpf_redir_neigh>(),
            NEXT_HOP_LEN,
            0,
        )
    };
    redirected(verdict)
}

/// Sends the packet, which has its link-layer header, out of the underlay device.
#[inline(always)]
pub(crate) fn redirect_as_it_is(ifindex: u32) -> Result<(), Reason> {
    // SAFETY: the helper has no preconditions; a device that is gone makes the redirect drop the packet.
    redirected(unsafe { bpf_redirect(ifindex, 0) })
}

#[inline(always)]
fn redirected(verdict: i64) -> Result<(), Reason> {
    if verdict == i64::from(TC_ACT_REDIRECT) {
        Ok(())
    } else {
        Err(Reason::EncapFailed)
    }
}

const NEXT_HOP_LEN: i32 = len_of::<NextHop>().cast_signed();
const _: () = assert!(size_of::<NextHop>() == size_of::<bpf_redir_neigh>());
