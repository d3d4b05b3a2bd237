//! The maps. Capacities that depend on the cluster's size are defaults: the agent sets them when it loads the object.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use bytemuck::Pod;
use overlay_common::addr::Addr;
use overlay_common::config::{ABI_VERSION, Config, FLAG_FASTPATH};
use overlay_common::flow::{
    DEFAULT_MAX_FLOWS, DEVICE_EPOCH_SLOTS, EgressFlow, Endpoint, FlowKey, IngressFlow, MAX_ENDPOINTS,
    PENDING_SLOTS, Pending, RETRY_SLOTS, Retry,
};
use overlay_common::maps::{Counter, DEFAULT_MAX_PEERS, Peer, PeerStats, SubnetEntry};
use overlay_common::reason::Reason;

use crate::flow::packet::FlowPacket;
use crate::route::Lookup;
use crate::route::recent::{ANSWERS, Answer};

const MAX_PEERS: usize = DEFAULT_MAX_PEERS as usize;
const MAX_FLOWS: usize = DEFAULT_MAX_FLOWS as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();

#[btf_map]
static SUBNETS: LpmTrie<Addr, SubnetEntry, MAX_PEERS> = LpmTrie::new();

#[btf_map]
static PEERS: HashMap<Addr, Peer, MAX_PEERS, NO_PREALLOC> = HashMap::new();

#[btf_map]
static PEER_STATS: PerCpuArray<PeerStats, MAX_PEERS> = PerCpuArray::new();

#[btf_map]
static COUNTERS: PerCpuArray<Counter, { Reason::COUNT }> = PerCpuArray::new();

#[btf_map]
pub(crate) static EGRESS_FLOWS: LruHashMap<FlowKey, EgressFlow, MAX_FLOWS> = LruHashMap::new();

#[btf_map]
pub(crate) static INGRESS_FLOWS: LruHashMap<FlowKey, IngressFlow, MAX_FLOWS> = LruHashMap::new();

#[btf_map]
pub(crate) static PENDING: Array<Pending, { PENDING_SLOTS as usize }> = Array::new();

/// Which of its `PENDING` slots a CPU uses next.
#[btf_map]
pub(crate) static CURSORS: PerCpuArray<u32, 1> = PerCpuArray::new();

#[btf_map]
pub(crate) static RETRIES: Array<Retry, { RETRY_SLOTS as usize }> = Array::new();

#[btf_map]
static ENDPOINTS: HashMap<u32, Endpoint, { MAX_ENDPOINTS as usize }> = HashMap::new();

#[btf_map]
static DEVICE_EPOCHS: Array<u32, { DEVICE_EPOCH_SLOTS as usize }> = Array::new();

#[btf_map]
static SHORTCUTS: Array<u32, 1> = Array::new();

/// Room for copies of map values: the stack of a program has 512 bytes. Programs on one CPU do not preempt each other.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) egress: EgressFlow,
    pub(crate) ingress: IngressFlow,
    pub(crate) pending: Pending,
    pub(crate) new_egress: EgressFlow,
    pub(crate) new_ingress: IngressFlow,
    pub(crate) answers: FlowKey,
    pub(crate) probes: Probes,
    pub(crate) lookup: Lookup,
    pub(crate) packet: FlowPacket,
    pub(crate) headers: [u64; 11],
    pub(crate) ip_ids: IpIds,
    /// What the routing table has said lately: here, and not in a map of its own, because each map is another place in memory.
    recent: [Answer; ANSWERS as usize],
}

/// The identifications of this CPU's outer IP headers.
#[repr(C)]
pub(crate) struct IpIds {
    /// The next one, in the lower 16 bits; 0 before the first.
    pub(crate) next: u32,
    reserved: u32,
}

/// How many probes this CPU has sent in the current window.
#[repr(C)]
pub(crate) struct Probes {
    pub(crate) window: u64,
    pub(crate) sent: u32,
    reserved: u32,
}

#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// This CPU's answer number `index`, modulo [`ANSWERS`].
#[inline(always)]
pub(crate) fn answer(index: u32) -> Option<*mut Answer> {
    let scratch = scratch()?;
    // SAFETY: this CPU's room; the index is within the array.
    Some(unsafe {
        (&raw mut (*scratch).recent)
            .cast::<Answer>()
            .add((index & (ANSWERS - 1)) as usize)
    })
}

/// Copies a map's value of 64-bit words, in order, each word read once.
///
/// # Safety
///
/// `from` is readable and `to` writable, both aligned to 8 bytes.
#[inline(always)]
pub(crate) unsafe fn copy<T: Pod>(from: *const T, to: *mut T) {
    let (from, to) = (from.cast::<u64>(), to.cast::<u64>());
    for word in 0..size_of::<T>() / 8 {
        // SAFETY: within `T`, by the caller's promise.
        unsafe { to.add(word).write(from.add(word).read_volatile()) };
    }
}

/// This CPU's room for copies.
#[inline(always)]
pub(crate) fn scratch() -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(0)
}

/// The node's configuration; `None` until an agent with this layout has written it.
#[inline(always)]
pub(crate) fn config() -> Option<&'static Config> {
    CONFIG.get(0).filter(|config| config.abi == ABI_VERSION)
}

/// The node's configuration, if the fast path is on.
#[inline(always)]
pub(crate) fn fastpath_config() -> Option<&'static Config> {
    config().filter(|config| config.has(FLAG_FASTPATH))
}

/// The peer whose subnet contains `address`.
#[inline(always)]
pub(crate) fn subnet_of(address: Addr) -> Option<&'static SubnetEntry> {
    SUBNETS.get(&Key::new(128, address))
}

/// The known VTEP at `vtep`; `None` for a stranger.
#[inline(always)]
pub(crate) fn peer(vtep: &Addr) -> Option<&'static Peer> {
    // SAFETY: entries are replaced as a whole by the agent; one that is freed while it is read gives a mix of two peers'
    // subnets for one packet at worst, which the kernel device judges by its own routes.
    unsafe { PEERS.get(vtep) }
}

/// Counts a packet of `packets` segments and `bytes` inner bytes sent to the peer that has this `PEER_STATS` slot.
#[inline(always)]
pub(crate) fn count_sent(slot: u32, packets: u32, bytes: u32) {
    if let Some(stats) = PEER_STATS.get_ptr_mut(slot) {
        // SAFETY: this CPU's copy; programs on one CPU do not preempt each other on the same hook, and a count lost to
        // another hook is harmless.
        let stats = unsafe { &mut *stats };
        stats.tx_packets += u64::from(packets);
        stats.tx_bytes += u64::from(bytes);
    }
}

/// As [`count_sent`], for a packet from the peer.
#[inline(always)]
pub(crate) fn count_received(slot: u32, packets: u32, bytes: u32) {
    if let Some(stats) = PEER_STATS.get_ptr_mut(slot) {
        // SAFETY: as in `count_sent`.
        let stats = unsafe { &mut *stats };
        stats.rx_packets += u64::from(packets);
        stats.rx_bytes += u64::from(bytes);
    }
}

/// The epoch of flows of the device, where `node` is the node's.
#[inline(always)]
pub(crate) fn epoch(node: u32, ifindex: u32) -> Option<u32> {
    let device = DEVICE_EPOCHS.get(ifindex & (DEVICE_EPOCH_SLOTS - 1))?;
    Some(node.wrapping_add(*device))
}

/// What the agent says of the device with this index; `None` if no flow of it may be learned.
#[inline(always)]
pub(crate) fn endpoint(ifindex: u32) -> Option<Endpoint> {
    // SAFETY: one word, read once.
    unsafe { ENDPOINTS.get(ifindex) }.copied()
}

/// Whether any endpoint is in shortcut mode.
#[inline(always)]
pub(crate) fn has_shortcuts() -> bool {
    SHORTCUTS.get(0).is_some_and(|count| *count != 0)
}

/// Counts one packet of `bytes` for `reason` on this CPU.
#[inline(always)]
pub(crate) fn count(reason: Reason, bytes: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: the map's value of this CPU; programs on one CPU do not preempt each other on the same hook, and a
        // count lost to another hook is harmless.
        let counter = unsafe { &mut *counter };
        counter.packets += 1;
        counter.bytes += u64::from(bytes);
    }
}
