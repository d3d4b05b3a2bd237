//! Questions to the kernel's routing table.

pub(crate) mod recent;

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH,
    BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup,
};
use aya_ebpf::helpers::bpf_fib_lookup;
use bytemuck::{Pod, Zeroable};
use overlay_common::addr::Addr;
use overlay_common::config::{Config, FIB_LOOKUP_MARK};
use overlay_common::encap::Link;
use overlay_common::headers::{IPPROTO_UDP, Ipv4Header};
use overlay_common::lanes::pair;
use overlay_common::reason::Reason;

use crate::maps;
use crate::skb::{Skb, len_of};

const AF_INET: u8 = 2;

/// `struct bpf_fib_lookup` of `linux/bpf.h`, with the members of its unions that are used here. The last 12 bytes hold
/// the mark that the lookup is made with, and afterwards the MAC addresses of the device and of the next hop.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Lookup {
    family: u8,
    l4_protocol: u8,
    sport: [u8; 2],
    dport: [u8; 2],
    total_len: u16,
    ifindex: u32,
    tos: [u8; 4],
    src: [u32; 4],
    dst: [u32; 4],
    table: u32,
    mark_or_macs: [u16; 6],
}

const _: () = assert!(size_of::<Lookup>() == size_of::<FibLookup>());
const LOOKUP_LEN: i32 = len_of::<Lookup>().cast_signed();

/// The way to a peer: what `bpf_redirect_neigh` takes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct NextHop {
    /// `AF_INET` or `AF_INET6`: a gateway may be of the other family.
    family: u32,
    /// As it is in memory, network byte order; IPv4 in the first 4 bytes.
    address: [u32; 4],
}

/// A way to a peer that the routing table has named.
pub(crate) struct Found {
    pub(crate) next_hop: NextHop,
    /// The address of the next hop as its neighbour entry has it now, and that of the device.
    pub(crate) link: Link,
}

/// What the way to a peer depends on.
pub(crate) struct To<'a> {
    /// Underlay address of its VTEP.
    pub(crate) vtep: &'a Addr,
    /// UDP source port, network byte order.
    pub(crate) source_port: [u8; 2],
    /// TOS byte of the outer header.
    pub(crate) tos: u8,
    /// Length of one outer IP packet in bytes.
    pub(crate) segment_len: u16,
    /// `skb->mark` that it leaves with.
    pub(crate) mark: u32,
}

/// The next hop towards a VTEP, out of the underlay device. Asks as the kernel device does (`udp_tunnel_dst_lookup`), so
/// policy routing by mark, multipath and the route's MTU are honoured.
#[inline(always)]
pub(crate) fn to_peer(skb: &Skb<'_>, config: &Config, to: &To<'_>) -> Result<Found, Reason> {
    // SAFETY: this CPU's room.
    let lookup = unsafe { &mut (*maps::scratch().ok_or(Reason::NoRoute)?).lookup };
    *lookup = Lookup {
        family: AF_INET,
        l4_protocol: IPPROTO_UDP,
        sport: to.source_port,
        dport: config.port,
        total_len: to.segment_len,
        ifindex: config.underlay_ifindex,
        tos: [to.tos, 0, 0, 0],
        src: v4_member(config.vtep.low_v4()),
        dst: v4_member(to.vtep.low_v4()),
        table: 0,
        mark_or_macs: [0; 6],
    };
    if config.fib_flags & FIB_LOOKUP_MARK != 0 {
        let [a, b] = pair(to.mark.to_ne_bytes());
        lookup.mark_or_macs = [a, b, 0, 0, 0, 0];
    } else if to.mark != 0 {
        // This kernel cannot look up by mark from a program; the kernel device can.
        return Err(Reason::NoRoute);
    }
    match ask(skb, lookup, config.fib_flags) {
        BPF_FIB_LKUP_RET_SUCCESS if lookup.ifindex == config.underlay_ifindex => {
            let [a, b, c, d, e, f] = lookup.mark_or_macs;
            Ok(Found {
                next_hop: NextHop {
                    family: u32::from(lookup.family),
                    address: lookup.dst,
                },
                link: Link::new([a, b, c], [d, e, f]),
            })
        }
        // The redirect would resolve it, too, but send the queued packet by the route that it still carries: that to the
        // VTEP device (`neigh_update` looks the neighbour up again by `skb_dst`).
        BPF_FIB_LKUP_RET_NO_NEIGH => Err(Reason::NoNeighbour),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(Reason::TooBig),
        _ => Err(Reason::NoRoute),
    }
}

/// Whether the kernel would deliver a packet with this outer header to a socket of this node.
#[inline(always)]
pub(crate) fn is_local(skb: &Skb<'_>, ip: &Ipv4Header) -> bool {
    let mut lookup = Lookup {
        family: AF_INET,
        l4_protocol: ip.protocol,
        ifindex: skb.ifindex(),
        tos: [ip.tos, 0, 0, 0],
        src: v4_member(ip.src),
        dst: v4_member(ip.dst),
        ..Lookup::zeroed()
    };
    // Where forwarding is off, a packet that is not local goes nowhere.
    matches!(
        ask(skb, &mut lookup, 0),
        BPF_FIB_LKUP_RET_NOT_FWDED | BPF_FIB_LKUP_RET_FWD_DISABLED
    )
}

/// The answer of `bpf_fib_lookup`: `BPF_FIB_LKUP_RET_*`, or a code beyond them if it fails.
#[inline(always)]
fn ask(skb: &Skb<'_>, lookup: &mut Lookup, flags: u32) -> u32 {
    // SAFETY: `lookup` has the layout and size of `struct bpf_fib_lookup`, which the helper reads and writes.
    let answer = unsafe {
        bpf_fib_lookup(
            skb.raw().cast(),
            core::ptr::from_mut(lookup).cast(),
            LOOKUP_LEN,
            flags,
        )
    };
    // A negative errno is none of the answers.
    u32::try_from(answer).unwrap_or(u32::MAX)
}

/// The IPv4 member of a union with an IPv6 address.
#[inline(always)]
const fn v4_member(address: [u8; 4]) -> [u32; 4] {
    [u32::from_ne_bytes(address), 0, 0, 0]
}
