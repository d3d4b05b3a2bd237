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
mod ingress;
mod maps;
mod route;
mod skb;
mod verdict;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::skb::Skb;

/// Egress hook of the VTEP device (`flannel.<VNI>`): encapsulates by the subnet map and sends out of the underlay.
#[classifier]
pub fn vtep_egress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    verdict::finish(&skb, egress::encapsulate(&skb))
}

/// Ingress hook of the underlay device: refuses tunnel packets that do not come from a known peer. The kernel device
/// decapsulates the others.
#[classifier]
pub fn underlay_ingress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    match ingress::verify(&skb) {
        Some(reason) => verdict::finish(&skb, reason),
        None => verdict::NOT_OURS,
    }
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
