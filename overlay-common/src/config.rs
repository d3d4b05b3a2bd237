//! The one entry of the `CONFIG` map: everything the programs must know about this node.

use bytemuck::{Pod, Zeroable};

use crate::addr::{Addr, MaskedPrefix};

/// Version of every layout in this crate. Bumped whenever a map's key, value or meaning changes.
///
/// 0 in [`Config::abi`] means "not configured": the programs then pass every packet untouched.
pub const ABI_VERSION: u32 = 3;

/// [`Config::flags`]: refuse tunnel packets that fail the peer check. Unset until the first complete list of leases
/// has been programmed: until then the check counts but lets the packet pass (fails open).
pub const FLAG_ENFORCE_PEERS: u32 = 1 << 0;

/// [`Config::flags`]: another VXLAN device on this node uses our UDP port, so a packet with a VNI that is not ours is
/// left to it instead of being refused.
pub const FLAG_PORT_SHARED: u32 = 1 << 1;

/// [`Config::flags`]: the device carries Group Based Policy marks. Packets with a mark are left to the kernel device,
/// and the GBP bit and policy fields of received packets are accepted.
pub const FLAG_GBP: u32 = 1 << 2;

/// [`Config::flags`]: established flows may take the fast path.
pub const FLAG_FASTPATH: u32 = 1 << 3;

/// [`Config::flags`]: the way to a peer may depend on a flow's outer source port: some rule names source ports, or routes
/// with several next hops are balanced by more than addresses. Else one answer of the routing table serves all flows to a
/// peer.
pub const FLAG_ROUTES_BY_PORT: u32 = 1 << 4;

/// [`Config::fib_flags`]: `BPF_FIB_LOOKUP_OUTPUT`, on every kernel that has the helper.
pub const FIB_LOOKUP_OUTPUT: u32 = 1 << 1;
/// [`Config::fib_flags`]: `BPF_FIB_LOOKUP_MARK` (kernel 6.10): policy routing by the packet's mark.
pub const FIB_LOOKUP_MARK: u32 = 1 << 5;

/// [`Config::log_level`]: log nothing from the programs.
pub const LOG_OFF: u32 = 0;
/// [`Config::log_level`]: log failures after a packet was modified (a packet is lost).
pub const LOG_ERRORS: u32 = 1;
/// [`Config::log_level`]: also log every refused tunnel packet. For debugging: an attacker controls the rate.
pub const LOG_REFUSALS: u32 = 2;

/// What the programs know about this node. One entry, index 0 of the `CONFIG` array map.
///
/// Numbers are in host byte order; addresses, the port, the VNI and MAC addresses in network byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Config {
    /// [`ABI_VERSION`] of the agent that wrote this entry; the programs pass everything unless it is theirs.
    pub abi: u32,
    /// `FLAG_*` bits.
    pub flags: u32,
    /// `LOG_*` level of the programs' log.
    pub log_level: u32,
    /// Interface index of the underlay device that encapsulated packets leave by.
    pub underlay_ifindex: u32,
    /// Flags for `bpf_fib_lookup`, chosen by the agent by what the kernel knows.
    pub fib_flags: u32,
    /// Lowest UDP source port, inclusive.
    pub source_port_min: u16,
    /// Highest UDP source port, exclusive (as `udp_flow_src_port` treats `ip_local_port_range`).
    pub source_port_max: u16,
    /// UDP destination port of the overlay, network byte order.
    pub port: [u8; 2],
    /// TTL of the outer header (`net.ipv4.ip_default_ttl`, as the kernel device does with `ttl auto`).
    pub ttl: u8,
    /// Zero.
    pub reserved: u8,
    /// VXLAN network identifier, 24 bits, network byte order.
    pub vni: [u8; 3],
    /// Zero.
    pub reserved2: u8,
    /// MAC address of this node's VTEP device.
    pub vtep_mac: [u8; 6],
    /// Longest outer IP packet in bytes that the programs send; the stack takes longer ones. The smallest of the underlay's
    /// MTU, the MTU of any route out of it (`bpf_fib_lookup` heeds a route's MTU only where it is locked), and the VTEP
    /// device's MTU with the headers.
    pub max_segment: u16,
    /// Underlay address of this node's VTEP.
    pub vtep: Addr,
    /// This node's pod subnet, IPv4; [`MaskedPrefix::NONE`] when it has none.
    pub subnet_v4: MaskedPrefix,
    /// This node's pod subnet, IPv6; [`MaskedPrefix::NONE`] when it has none.
    pub subnet_v6: MaskedPrefix,
    /// Flow entries of another epoch are not used. Raised whenever something changes that they rely on: it empties the
    /// fast path at once, without walking a map. Wraps around.
    pub epoch: u32,
    /// The bits of `skb->mark` that packets carry the number of their `PENDING` slot in, adjacent to each other; the
    /// other bits are never touched.
    pub mark_mask: u32,
    /// Position of the lowest bit of `mark_mask`.
    pub mark_shift: u32,
    /// How many `PENDING` slots each CPU has. Their number plus one fits `mark_mask`, for all CPUs together.
    pub slots_per_cpu: u32,
    /// How often a flow entry is proved anew, in nanoseconds; it is dead after
    /// [`crate::flow::HARD_LIMIT_INTERVALS`] of these.
    pub revalidate: u64,
}

const _: () = assert!(size_of::<Config>() == 144);

impl Config {
    /// Passes every packet untouched: what the map holds before an agent has configured it.
    pub const UNCONFIGURED: Self = Self {
        abi: 0,
        flags: 0,
        log_level: LOG_OFF,
        underlay_ifindex: 0,
        fib_flags: 0,
        source_port_min: 0,
        source_port_max: 0,
        port: [0; 2],
        ttl: 0,
        reserved: 0,
        vni: [0; 3],
        reserved2: 0,
        vtep_mac: [0; 6],
        max_segment: 0,
        vtep: Addr::UNSPECIFIED,
        subnet_v4: MaskedPrefix::NONE,
        subnet_v6: MaskedPrefix::NONE,
        epoch: 0,
        mark_mask: 0,
        mark_shift: 0,
        slots_per_cpu: 0,
        revalidate: 0,
    };

    /// Whether all of `flags` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }

    /// Whether `address` lies in this node's pod subnet of either family.
    #[inline(always)]
    #[must_use]
    pub const fn is_local(&self, address: &Addr) -> bool {
        self.subnet_v4.contains(address) || self.subnet_v6.contains(address)
    }
}
