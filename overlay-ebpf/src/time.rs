//! The two clocks, both `CLOCK_MONOTONIC` in nanoseconds.

use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};

/// Now, exactly.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Now or up to a scheduler tick (10 ms at most) ago, for a fraction of the price: enough for intervals of a second.
#[inline(always)]
pub(crate) fn coarse() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}
