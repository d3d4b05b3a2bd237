//! What is known of a flow, and whether it may be used.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::btf_maps::LruHashMap;
use bytemuck::Pod;
use overlay_common::config::Config;
use overlay_common::flow::{
    EgressFlow, FLOW_ACTIVE, FlowKey, HARD_LIMIT_INTERVALS, IngressFlow, PROBE_BUDGET, PROBE_WINDOW,
    urgent_age,
};

use crate::maps::{self, Scratch};

/// How far an entry may be trusted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Proved within the revalidation interval.
    Fresh,
    /// To be proved anew; usable until the hard limit.
    Due,
    /// Beyond the hard limit, or of another epoch.
    None,
}

/// What the entries of both directions have in common.
pub(crate) trait Known: Pod {
    fn tag(&self) -> u32;
    fn epoch(&self) -> u32;
    fn ifindex(&self) -> u32;
    fn validated(&self) -> u64;
    fn probed(&self) -> u64;
    fn state(&self) -> u32;
    /// Where `probed` stands in the entry.
    fn probed_mut(&mut self) -> &mut u64;
    /// Where this CPU keeps its copy of an entry.
    fn copy_of(scratch: *mut Scratch) -> *mut Self;
}

macro_rules! known {
    ($($flow:ty, $copy:ident;)+) => {$(
        impl Known for $flow {
            #[inline(always)]
            fn tag(&self) -> u32 { self.tag }
            #[inline(always)]
            fn epoch(&self) -> u32 { self.epoch }
            #[inline(always)]
            fn ifindex(&self) -> u32 { self.ifindex }
            #[inline(always)]
            fn validated(&self) -> u64 { self.validated }
            #[inline(always)]
            fn probed(&self) -> u64 { self.probed }
            #[inline(always)]
            fn state(&self) -> u32 { self.state }
            #[inline(always)]
            fn probed_mut(&mut self) -> &mut u64 { &mut self.probed }
            #[inline(always)]
            fn copy_of(scratch: *mut Scratch) -> *mut Self {
                // SAFETY: a value of the scratch map, or nothing that is dereferenced.
                unsafe { &raw mut (*scratch).$copy }
            }
        }
    )+};
}

known! {
    EgressFlow, egress;
    IngressFlow, ingress;
}

/// A flow's entry.
pub(crate) struct Entry<T: 'static> {
    /// This CPU's copy, until the next entry of its direction is looked up.
    pub(crate) flow: &'static T,
    place: *mut T,
}

impl<T: Known> Entry<T> {
    /// Whether the fast path may use it: both directions are known and, towards the pod, the stack is empty of its packets.
    #[inline(always)]
    pub(crate) fn is_active(&self) -> bool {
        self.flow.state() & FLOW_ACTIVE != 0
    }

    /// How far the entry may be trusted at `now`.
    #[inline(always)]
    pub(crate) fn trust(&self, config: &Config, now: u64) -> Trust {
        if maps::epoch(config.epoch, self.flow.ifindex()) != Some(self.flow.epoch()) {
            return Trust::None;
        }
        // `now` may be a tick behind.
        match now.saturating_sub(self.flow.validated()) {
            age if age <= config.revalidate => Trust::Fresh,
            age if age <= config.revalidate * HARD_LIMIT_INTERVALS => Trust::Due,
            _ => Trust::None,
        }
    }

    /// Whether a probe should be sent now. A flow asks for one twice in an interval at most.
    #[inline(always)]
    pub(crate) fn wants_probe(&self, config: &Config, now: u64) -> bool {
        if now.saturating_sub(self.flow.probed()) < config.revalidate / 2 {
            return false;
        }
        let validated = self.flow.validated();
        let urgent = urgent_age(self.flow.tag(), validated, config.revalidate);
        if !within_budget(now) && now.saturating_sub(validated) <= urgent {
            return false;
        }
        self.change(|flow| *flow.probed_mut() = now);
        true
    }

    /// Changes the entry in place, unless its memory belongs to another flow by now.
    #[inline(always)]
    pub(crate) fn change(&self, change: impl FnOnce(&mut T)) {
        // SAFETY: `place` is a value of a map, which outlives the program. Single aligned words are written, so what other
        // CPUs read is the old or the new word.
        let flow = unsafe { &mut *self.place };
        if flow.tag() == self.flow.tag() {
            change(flow);
        }
    }
}

/// Whether this CPU may send another probe for an entry that has time; counts it.
#[inline(always)]
fn within_budget(now: u64) -> bool {
    let Some(scratch) = maps::scratch() else {
        return false;
    };
    // SAFETY: this CPU's room.
    let probes = unsafe { &mut (*scratch).probes };
    if now.saturating_sub(probes.window) > PROBE_WINDOW {
        probes.window = now;
        probes.sent = 0;
    }
    if probes.sent >= PROBE_BUDGET {
        return false;
    }
    probes.sent += 1;
    true
}

/// The entry of the flow with this key.
#[inline(always)]
pub(crate) fn find<T: Known, const N: usize, const F: usize>(
    map: &LruHashMap<FlowKey, T, N, F>,
    key: &FlowKey,
) -> Option<Entry<T>> {
    let place = map.get_ptr_mut(key)?;
    let copy = T::copy_of(maps::scratch()?);
    // SAFETY: `place` is a value of the map, `copy` belongs to this CPU. Another CPU may evict the entry and give its
    // memory to another flow meanwhile. The kernel writes a value from its start, and the tag is what it starts with; so
    // a copy that is not of one piece is followed by another tag.
    let (flow, tag) = unsafe {
        maps::copy(place, copy);
        (&*copy, place.cast::<u32>().read_volatile())
    };
    (tag == key.tag()).then_some(Entry { flow, place })
}

/// Writes the entry of the flow with this key. Returns whether it could.
#[inline(always)]
pub(crate) fn store<T: Known, const N: usize, const F: usize>(
    map: &LruHashMap<FlowKey, T, N, F>,
    key: &FlowKey,
    flow: &T,
) -> bool {
    map.insert(key, flow, u64::from(BPF_ANY)).is_ok()
}
