//! The maps. Sizes of `SUBNETS` and `PEERS` are defaults: the agent sets them when it loads the object.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, LpmTrie, PerCpuArray, PerCpuHashMap};
use aya_ebpf::macros::btf_map;
use overlay_common::addr::Addr;
use overlay_common::config::{ABI_VERSION, Config};
use overlay_common::maps::{Counter, DEFAULT_MAX_PEERS, Peer, SubnetEntry};
use overlay_common::reason::Reason;

const MAX_PEERS: usize = DEFAULT_MAX_PEERS as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();

#[btf_map]
static SUBNETS: LpmTrie<Addr, SubnetEntry, MAX_PEERS> = LpmTrie::new();

#[btf_map]
static PEERS: PerCpuHashMap<Addr, Peer, MAX_PEERS, NO_PREALLOC> = PerCpuHashMap::new();

#[btf_map]
static COUNTERS: PerCpuArray<Counter, { Reason::COUNT }> = PerCpuArray::new();

/// The node's configuration; `None` until an agent with this layout has written it.
#[inline(always)]
pub(crate) fn config() -> Option<&'static Config> {
    CONFIG.get(0).filter(|config| config.abi == ABI_VERSION)
}

/// The peer whose subnet contains `address`.
#[inline(always)]
pub(crate) fn subnet_of(address: Addr) -> Option<&'static SubnetEntry> {
    SUBNETS.get(&Key::new(128, address))
}

/// This CPU's copy of the known VTEP at `vtep`; `None` for a stranger.
#[inline(always)]
pub(crate) fn peer(vtep: &Addr) -> Option<*mut Peer> {
    PEERS.get_ptr_mut(vtep)
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
