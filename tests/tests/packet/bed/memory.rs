//! The fast path's maps, written and read as a test needs them.

use std::collections::HashMap;
use std::time::Duration;

use aya::Pod;
use aya::maps::{Array, HashMap as BpfHashMap, MapData};
use nix::time::{ClockId, clock_gettime};
use overlay_common::flow::{
    DEVICE_EPOCH_SLOTS, EgressFlow, Endpoint, FlowKey, IngressFlow, Pending, Retry, retry_slots, ticket_check,
};
use overlay_common::maps::{
    DEVICE_EPOCHS, EGRESS_FLOWS, ENDPOINTS, INGRESS_FLOWS, PENDING, RETRIES, SHORTCUTS,
};

use super::{Bed, SLOTS_PER_CPU};

/// Now, as the programs see it: nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the monotonic clock");
    let time = Duration::from(time).as_nanos();
    u64::try_from(time).expect("less than 500 years")
}

/// What the programs remember of flows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Memory {
    pub(crate) egress: HashMap<FlowKey, EgressFlow>,
    pub(crate) ingress: HashMap<FlowKey, IngressFlow>,
    /// `PENDING` slots that were ever used, by number.
    pub(crate) pending: HashMap<u32, Pending>,
}

impl Bed {
    pub(crate) fn memory(&self) -> Memory {
        Memory {
            egress: self.flows(EGRESS_FLOWS),
            ingress: self.flows(INGRESS_FLOWS),
            pending: (0..SLOTS_PER_CPU * (self.cpu + 1))
                .map(|slot| (slot, self.pending(slot)))
                .filter(|(_, pending)| *pending != bytemuck::Zeroable::zeroed())
                .collect(),
        }
    }

    fn flows<V: Pod>(&self, name: &str) -> HashMap<FlowKey, V> {
        let map: BpfHashMap<_, FlowKey, V> =
            self.ebpf.map(name).expect(name).try_into().expect("an LRU hash");
        map.iter()
            .map(|entry| entry.expect("read a map of flows"))
            .collect()
    }

    pub(crate) fn egress_flow(&self, key: &FlowKey) -> Option<EgressFlow> {
        self.flows(EGRESS_FLOWS).remove(key)
    }

    pub(crate) fn ingress_flow(&self, key: &FlowKey) -> Option<IngressFlow> {
        self.flows(INGRESS_FLOWS).remove(key)
    }

    pub(crate) fn set_egress_flow(&mut self, key: &FlowKey, flow: EgressFlow) {
        self.hash(EGRESS_FLOWS)
            .insert(*key, flow, 0)
            .expect("write EGRESS_FLOWS");
    }

    pub(crate) fn set_ingress_flow(&mut self, key: &FlowKey, flow: IngressFlow) {
        self.hash(INGRESS_FLOWS)
            .insert(*key, flow, 0)
            .expect("write INGRESS_FLOWS");
    }

    /// Empties both maps of flows.
    pub(crate) fn forget_flows(&mut self) {
        let memory = self.memory();
        for key in memory.egress.into_keys() {
            self.hash::<_, EgressFlow>(EGRESS_FLOWS)
                .remove(&key)
                .expect("an entry");
        }
        for key in memory.ingress.into_keys() {
            self.hash::<_, IngressFlow>(INGRESS_FLOWS)
                .remove(&key)
                .expect("an entry");
        }
    }

    /// The first `PENDING` slot of this bed's CPU.
    pub(crate) fn first_slot(&self) -> u32 {
        self.cpu * SLOTS_PER_CPU
    }

    pub(crate) fn pending(&self, slot: u32) -> Pending {
        let map: Array<_, Pending> = self
            .ebpf
            .map(PENDING)
            .expect(PENDING)
            .try_into()
            .expect("an array");
        map.get(&slot, 0).expect("read PENDING")
    }

    pub(crate) fn set_pending(&mut self, slot: u32, pending: Pending) {
        self.array(PENDING).set(slot, pending, 0).expect("write PENDING");
    }

    /// Writes a slot whose packet comes out of the stack with the low 16 bits of `pending.generation` in `skb->tc_index`.
    /// `BPF_PROG_TEST_RUN` cannot set that field: only the tickets of generations where these are 0 fit. Returns the
    /// generation that the slot has.
    pub(crate) fn set_ticket(&mut self, slot: u32, mut pending: Pending) -> u64 {
        if pending.generation != 0 {
            pending.generation ^= u64::from(ticket_check(slot, 0));
        }
        self.set_pending(slot, pending);
        pending.generation
    }

    /// The two slots of `RETRIES` that the flow may use.
    pub(crate) fn retries(&self, key: &FlowKey) -> [Retry; 2] {
        let map: Array<_, Retry> = self
            .ebpf
            .map(RETRIES)
            .expect(RETRIES)
            .try_into()
            .expect("an array");
        retry_slots(key.tag()).map(|slot| map.get(&slot, 0).expect("read RETRIES"))
    }

    pub(crate) fn set_retries(&mut self, key: &FlowKey, retries: [Retry; 2]) {
        for (slot, retry) in retry_slots(key.tag()).into_iter().zip(retries) {
            self.array(RETRIES).set(slot, retry, 0).expect("write RETRIES");
        }
    }

    /// What is in the flow's slot, or in the first one if it has none.
    pub(crate) fn retry(&self, key: &FlowKey) -> Retry {
        let [first, second] = self.retries(key);
        if second.tag == key.tag() { second } else { first }
    }

    /// Writes the flow's slot, or the first one if it has none.
    pub(crate) fn set_retry(&mut self, key: &FlowKey, retry: Retry) {
        let [first, second] = self.retries(key);
        let retries = if second.tag == key.tag() {
            [first, retry]
        } else {
            [retry, second]
        };
        self.set_retries(key, retries);
    }

    pub(crate) fn set_endpoint(&mut self, ifindex: u32, mode: Option<u32>) {
        let mut map = self.hash(ENDPOINTS);
        match mode {
            Some(mode) => map
                .insert(ifindex, Endpoint { mode }, 0)
                .expect("write ENDPOINTS"),
            None => map.remove(&ifindex).expect("a known endpoint"),
        }
    }

    pub(crate) fn set_device_epoch(&mut self, ifindex: u32, epoch: u32) {
        self.array(DEVICE_EPOCHS)
            .set(ifindex % DEVICE_EPOCH_SLOTS, epoch, 0)
            .expect("write DEVICE_EPOCHS");
    }

    pub(crate) fn set_shortcuts(&mut self, count: u32) {
        self.array(SHORTCUTS).set(0, count, 0).expect("write SHORTCUTS");
    }

    fn hash<K: Pod, V: Pod>(&mut self, name: &str) -> BpfHashMap<&mut MapData, K, V> {
        self.ebpf.map_mut(name).expect(name).try_into().expect("a hash")
    }

    fn array<T: Pod>(&mut self, name: &str) -> Array<&mut MapData, T> {
        self.ebpf.map_mut(name).expect(name).try_into().expect("an array")
    }
}
