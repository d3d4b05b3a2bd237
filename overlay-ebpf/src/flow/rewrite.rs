//! What forwarding and NAT change in a packet.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::bpf_l4_csum_replace;
use overlay_common::flow::FlowKey;
use overlay_common::headers::{ETH_LEN, IPPROTO_TCP, IPV4_LEN, TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET};

use crate::skb::Skb;

/// Mends the transport checksum of the packet whose Ethernet header is at `offset` now, after its tuple has changed
/// `from` one `to` another. Returns whether it could.
#[inline(always)]
pub(crate) fn mend_checksum(skb: &Skb<'_>, offset: u32, from: &FlowKey, to: &FlowKey) -> bool {
    let transport = offset + ETH_LEN + IPV4_LEN;
    // A UDP checksum of 0 means that there is none.
    let (field, flags) = if from.protocol == IPPROTO_TCP {
        (transport + TCP_CHECKSUM_OFFSET, 0)
    } else {
        (transport + UDP_CHECKSUM_OFFSET, u64::from(BPF_F_MARK_MANGLED_0))
    };
    let address = flags | u64::from(BPF_F_PSEUDO_HDR) | 4;
    let port = flags | 2;
    replace(
        skb,
        field,
        word(from.src.low_v4()),
        word(to.src.low_v4()),
        address,
    ) && replace(
        skb,
        field,
        word(from.dst.low_v4()),
        word(to.dst.low_v4()),
        address,
    ) && replace(skb, field, half(from.src_port), half(to.src_port), port)
        && replace(skb, field, half(from.dst_port), half(to.dst_port), port)
}

#[inline(always)]
fn replace(skb: &Skb<'_>, field: u32, from: u64, to: u64, flags: u64) -> bool {
    if from == to {
        return true;
    }
    // SAFETY: the context of a running program; the helper checks the offset.
    let result = unsafe { bpf_l4_csum_replace(skb.raw(), field, from, to, flags) };
    result == 0
}

/// Four bytes of a packet as the helper takes them: as they are in memory.
#[inline(always)]
fn word(bytes: [u8; 4]) -> u64 {
    u64::from(u32::from_ne_bytes(bytes))
}

#[inline(always)]
fn half(bytes: [u8; 2]) -> u64 {
    u64::from(u16::from_ne_bytes(bytes))
}
