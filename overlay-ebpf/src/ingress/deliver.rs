//! Into the pod.

use aya_ebpf::bindings::{
    BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, TC_ACT_REDIRECT,
};
use aya_ebpf::helpers::{bpf_csum_level, bpf_redirect_peer, bpf_skb_adjust_room};
use overlay_common::addr::Addr;
use overlay_common::config::Config;
use overlay_common::encap::OVERHEAD_V4;
use overlay_common::flow::{FLOW_NAT, FlowKey, IngressFlow, PENDING_INGRESS, PENDING_PROBE};
use overlay_common::headers::{ETH_LEN, ETHERTYPE_IPV4, IPV4_LEN};
use overlay_common::lanes::{lane, mac, word};

use crate::egress::{InnerSize, segment_len};
use crate::flow::packet::FlowPacket;
use crate::flow::rewrite;
use crate::flow::ticket::{self, Note};
use crate::maps;
use crate::skb::Skb;

/// `BPF_ADJ_ROOM_MAC` of `linux/bpf.h`: what goes is after the Ethernet header.
const ADJ_ROOM_MAC: u32 = 1;

/// Aggregates keep their segment size; checksums that the device has verified stay so.
const DECAP_FLAGS: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;

/// Ethernet and IPv4 header and the ports behind them, in bytes: what forwarding and NAT change.
const FRAME_LEN: u32 = ETH_LEN + IPV4_LEN + 4;

/// Why a packet was not delivered.
pub(super) enum Failure {
    /// The kernel could not take the headers off, and has changed nothing.
    Untouched,
    /// The packet has been changed.
    Lost,
}

/// Lets a copy of the packet go through the stack, to prove the flow's entry.
#[inline(always)]
pub(super) fn probe(skb: &Skb<'_>, config: &Config, packet: &FlowPacket, vtep: Addr, tos: u8) {
    let note = Note {
        packet,
        kind: PENDING_INGRESS | PENDING_PROBE,
        tos,
        vtep,
    };
    ticket::send_probe(skb, config, &note);
}

/// Whether every segment of the packet whose Ethernet header is at `offset` fits the overlay: what is larger the stack
/// answers with an ICMP error.
#[inline(always)]
pub(super) fn fits(skb: &Skb<'_>, config: &Config, packet: &FlowPacket, offset: u32) -> bool {
    segment_len(skb, config, &InnerSize::of(packet, offset)).is_ok()
}

/// Takes the packet out of the tunnel and into the pod.
#[inline(always)]
pub(super) fn through_tunnel(
    skb: &Skb<'_>,
    packet: &FlowPacket,
    flow: &IngressFlow,
    tos: u8,
) -> Result<(), Failure> {
    // Taking room away resets the count.
    let (segments, aggregate) = (skb.segments(), skb.gso_size() != 0);
    // SAFETY: the context of a running program.
    let result =
        unsafe { bpf_skb_adjust_room(skb.raw(), -OVERHEAD_V4.cast_signed(), ADJ_ROOM_MAC, DECAP_FLAGS) };
    if result != 0 {
        return Err(if skb.current_len() == skb.len {
            Failure::Untouched
        } else {
            Failure::Lost
        });
    }
    if !aggregate {
        // What the device has verified was one level further out. Aggregates are `CHECKSUM_PARTIAL`.
        // SAFETY: the context of a running program.
        let _ = unsafe { bpf_csum_level(skb.raw(), u64::from(BPF_CSUM_LEVEL_DEC)) };
    }
    into_pod(skb, packet, flow, tos)?;
    maps::count_received(flow.stats, segments, packet.len());
    Ok(())
}

/// Hands a decapsulated packet to the pod, as the stack would have changed it.
#[inline(always)]
pub(super) fn into_pod(
    skb: &Skb<'_>,
    packet: &FlowPacket,
    flow: &IngressFlow,
    tos: u8,
) -> Result<(), Failure> {
    let ([a, b, c], [d, e, f]) = (mac(flow.dst_mac), mac(flow.src_mac));
    let [g, h] = [ETHERTYPE_IPV4, flow.src_port].map(|[high, low]| lane(high, low));
    let [i, j, k, l, m, n, o, p, q, r] = packet.ip.forwarded(tos, flow.src.low_v4(), packet.ip.dst);
    let dst_port = lane(packet.key.dst_port[0], packet.key.dst_port[1]);
    let frame = [
        word([a, b, c, d]),
        word([e, f, g, i]),
        word([j, k, l, m]),
        word([n, o, p, q]),
        word([r, h, dst_port, 0]),
    ];
    if !skb.write_start(0, &frame, FRAME_LEN) {
        return Err(Failure::Lost);
    }
    if flow.state & FLOW_NAT != 0 {
        let after = FlowKey::new(
            flow.src,
            flow.src_port,
            packet.key.dst,
            packet.key.dst_port,
            packet.key.protocol,
        );
        if !rewrite::mend_checksum(skb, 0, &packet.key, &after) {
            return Err(Failure::Lost);
        }
    }
    // SAFETY: the helper has no preconditions; a device that is gone makes the redirect drop the packet.
    let verdict = unsafe { bpf_redirect_peer(flow.ifindex, 0) };
    if verdict == i64::from(TC_ACT_REDIRECT) {
        Ok(())
    } else {
        Err(Failure::Lost)
    }
}
