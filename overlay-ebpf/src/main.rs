//! The overlay's TC programs. A packet's way is the folder's: [`egress`] from this node into the overlay, [`ingress`]
//! from the underlay to this node. Every program ends in [`verdict::finish`], where a reason becomes a counter and a
//! verdict.

#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the classifier macro makes undocumented public symbols"
)]

mod egress;
mod flow;
mod ingress;
mod maps;
mod route;
mod skb;
mod time;
mod verdict;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::skb::Skb;

/// Ingress hook of the host side of a pod's veth: sends established flows into the tunnel.
#[classifier]
pub fn pod_ingress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    verdict::finish_if(&skb, egress::pod::send_fast(&skb))
}

/// Egress hook of the VTEP device (`flannel.<VNI>`): encapsulates by the subnet map, sends out of the underlay, and learns
/// what the stack did with a pod's packets.
#[classifier]
pub fn vtep_egress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    verdict::finish(&skb, egress::vtep::encapsulate(&skb))
}

/// Ingress hook of the underlay device: refuses tunnel packets that do not come from a known peer, and takes those of
/// established flows to their pod. The kernel device decapsulates the others.
#[classifier]
pub fn underlay_ingress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    verdict::finish_if(&skb, ingress::receive(&skb))
}

/// Ingress hook of the VTEP device: takes what the kernel device has decapsulated to pods in shortcut mode.
#[classifier]
pub fn vtep_ingress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    verdict::finish_if(&skb, ingress::shortcut::receive(&skb))
}

/// Egress hook of the host side of a pod's veth: learns what the stack did with tunnel packets.
#[classifier]
pub fn pod_egress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    verdict::finish_if(&skb, ingress::pod::learn(&skb))
}

/// Several helpers are for GPL-compatible programs only; "Dual MIT/GPL" is what the kernel calls this licence.
// SAFETY: the loader looks for a NUL-terminated string in a section of this name; no other symbol is called LICENSE.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier rejects a loop without end: a panic that is not optimised away cannot be loaded.
    loop {}
}
