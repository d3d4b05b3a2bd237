//! The fast path's memory: flows that the host stack has decided about, and packets on their way through it.
//!
//! *T* is the tuple of a packet that a pod sends, *T'* the same packet's as it leaves for the tunnel (DNAT may have
//! changed the destination). *R'* is the tuple of a packet out of the tunnel, *R* the same packet's as it enters the pod
//! (the reply of a DNATed flow gets its source changed back). *R* is *T* reversed, *R'* is *T'* reversed.
//!
//! Times are nanoseconds of `CLOCK_MONOTONIC`, as `bpf_ktime_get_ns` gives them.

use bytemuck::{Pod, Zeroable};

use crate::addr::Addr;
use crate::lanes::{lane, word};

/// Which flow a packet belongs to: key of `EGRESS_FLOWS` (*T*) and `INGRESS_FLOWS` (*R'*).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct FlowKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, network byte order.
    pub src_port: [u8; 2],
    /// Destination port, network byte order.
    pub dst_port: [u8; 2],
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
    reserved: [u8; 3],
}

const _: () = assert!(size_of::<FlowKey>() == 40);

impl FlowKey {
    /// The key of packets from `src` to `dst`.
    #[inline(always)]
    #[must_use]
    pub const fn new(src: Addr, src_port: [u8; 2], dst: Addr, dst_port: [u8; 2], protocol: u8) -> Self {
        bytemuck::must_cast(Self::words(src, src_port, dst, dst_port, protocol))
    }

    /// [`Self::new`] as the words that it is in memory.
    #[inline(always)]
    #[must_use]
    pub const fn words(src: Addr, src_port: [u8; 2], dst: Addr, dst_port: [u8; 2], protocol: u8) -> [u64; 5] {
        let ([a, b], [c, d]) = (src.words(), dst.words());
        let (from, to) = (lane(src_port[0], src_port[1]), lane(dst_port[0], dst_port[1]));
        [a, b, c, d, word([from, to, lane(protocol, 0), 0])]
    }

    /// The key of the answers.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self::new(self.dst, self.dst_port, self.src, self.src_port, self.protocol)
    }

    /// 32 bits that tell flows apart, never 0. Not a secret: an attacker can make two flows collide, which costs these
    /// two a retry.
    #[inline(always)]
    #[must_use]
    pub const fn tag(&self) -> u32 {
        let ports = u32::from_ne_bytes([
            self.src_port[0],
            self.src_port[1],
            self.dst_port[0],
            self.dst_port[1],
        ]);
        let mut hash = (ports as u64) << 8 | self.protocol as u64;
        let ([a, b], [c, d]) = (self.src.words(), self.dst.words());
        // Odd multipliers (the fractions of the golden ratio and of square roots) spread every input bit upwards.
        hash = (hash ^ a).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ b ^ (hash >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ c ^ (hash >> 32)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash = (hash ^ d ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let tag = (hash >> 32) as u32;
        tag | 1
    }
}

/// [`EgressFlow::state`], [`IngressFlow::state`]: packets may take the fast path: the stack has seen both directions.
pub const FLOW_ACTIVE: u32 = 1 << 0;
/// [`EgressFlow::state`], [`IngressFlow::state`]: NAT changes the packet, so its transport checksum has to be mended.
pub const FLOW_NAT: u32 = 1 << 1;
/// [`IngressFlow::state`]: the kernel device decapsulates; its ingress hook takes the packet to the pod.
pub const FLOW_SHORTCUT: u32 = 1 << 2;

/// What the stack did with the packets that a pod sends: value of `EGRESS_FLOWS`, key *T*.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct EgressFlow {
    /// [`FlowKey::tag`] of the key. First in the value, and read last: the kernel may give an evicted entry's memory to
    /// another flow while it is read.
    pub tag: u32,
    /// [`crate::config::Config::epoch`] plus the `DEVICE_EPOCHS` entry of the pod's device, when this was learned.
    pub epoch: u32,
    /// When the packet that last proved this entered the stack.
    pub validated: u64,
    /// When the last probe was sent.
    pub probed: u64,
    /// `FLOW_*` bits.
    pub state: u32,
    /// Index of the host side of the pod's veth.
    pub ifindex: u32,
    /// Index of the peer's `PEER_STATS` entry.
    pub stats: u32,
    /// `skb->mark` as the stack leaves it, for policy routing and queueing; without the bits of tickets.
    pub mark: u32,
    /// Underlay address of the peer's VTEP.
    pub vtep: Addr,
    /// *T'*: destination address.
    pub dst: Addr,
    /// MAC address of the peer's VTEP device.
    pub vtep_mac: [u8; 6],
    /// MAC address that the pod sends from.
    pub pod_mac: [u8; 6],
    /// *T'*: destination port, network byte order.
    pub dst_port: [u8; 2],
    /// UDP source port of the outer header, network byte order.
    pub source_port: [u8; 2],
    /// The kernel puts 48 bytes of its own and the key before a value: with these an entry is three whole cache lines.
    reserved: [u64; 2],
}

const _: () = assert!(size_of::<EgressFlow>() == 104);

/// What the stack did with the packets of a peer for a pod: value of `INGRESS_FLOWS`, key *R'*.
///
/// An entry becomes active when the flow's last slow packet is known to have left the stack: a packet on the fast path
/// must not overtake it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct IngressFlow {
    /// As [`EgressFlow::tag`].
    pub tag: u32,
    /// As [`EgressFlow::epoch`].
    pub epoch: u32,
    /// As [`EgressFlow::validated`].
    pub validated: u64,
    /// As [`EgressFlow::probed`].
    pub probed: u64,
    /// `FLOW_*` bits.
    pub state: u32,
    /// Index of the host side of the pod's veth.
    pub ifindex: u32,
    /// Index of the peer's `PEER_STATS` entry.
    pub stats: u32,
    /// The last packet that was sent through the stack before activation: its ticket; for TCP, sequence number plus length of
    /// the IP packet, which its merging with others does not change.
    pub entered: u32,
    /// The last such packet that came out of it.
    pub left: u32,
    reserved: u32,
    /// When that was.
    pub left_at: u64,
    /// Underlay address of the VTEP that the packets come from.
    pub vtep: Addr,
    /// *R*: source address.
    pub src: Addr,
    /// *R*: source port, network byte order.
    pub src_port: [u8; 2],
    /// Destination MAC address of the frames that enter the pod.
    pub dst_mac: [u8; 6],
    /// Source MAC address of the frames that enter the pod.
    pub src_mac: [u8; 6],
    reserved2: [u8; 2],
}

const _: () = assert!(size_of::<IngressFlow>() == 104);

/// [`Pending::kind`]: from a pod into the tunnel; the packet itself is what the pod sent.
pub const PENDING_EGRESS: u32 = 1;
/// [`Pending::kind`]: out of the tunnel to a pod; the packet itself.
pub const PENDING_INGRESS: u32 = 2;
/// [`Pending::kind`], added: the packet is a probe, a copy whose original has already gone.
pub const PENDING_PROBE: u32 = 4;

/// A packet that was sent into the stack to learn what becomes of it: one slot of `PENDING`.
///
/// The packet carries the slot's number (plus one) in the mark bits and [`ticket_check`] in `skb->tc_index`. A slot is not
/// used again before [`PENDING_HOLD`], so a ticket repeats after 65,536 uses of the slot, 54 minutes at the soonest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Pending {
    /// How often the slot has been used; 0 while it is being written.
    pub generation: u64,
    /// When the packet entered the stack.
    pub entered: u64,
    /// Tuple of the packet as it entered: *T* or *R'*.
    pub key: FlowKey,
    /// `PENDING_*`.
    pub kind: u32,
    /// Index of the device that it came in by.
    pub ifindex: u32,
    /// Sequence number of a TCP packet, network byte order; zero for UDP.
    pub sequence: [u8; 4],
    /// Total length of the (inner) IP packet, network byte order.
    pub total_len: [u8; 2],
    /// TTL before the stack.
    pub ttl: u8,
    /// TOS byte before the stack (after ECN has been taken over from the outer header).
    pub tos: u8,
    /// Source MAC address of a frame from a pod.
    pub src_mac: [u8; 6],
    reserved: [u8; 2],
    /// Underlay address of the VTEP that a tunnel packet came from.
    pub vtep: Addr,
    /// [`crate::config::Config::epoch`] when the packet entered.
    pub epoch: u32,
    reserved2: u32,
}

const _: () = assert!(size_of::<Pending>() == 104);

/// How many slots `PENDING` has at most. All CPUs have the same share.
pub const PENDING_SLOTS: u32 = 16_384;
/// A slot is not used again for this long, in nanoseconds.
pub const PENDING_HOLD: u64 = 50_000_000;
/// A packet that took longer than this through the stack teaches nothing, in nanoseconds.
pub const PENDING_MAX_AGE: u64 = 8_000_000;

/// Which packet of which slot: what [`IngressFlow::entered`] and [`IngressFlow::left`] hold. Repeats after hours.
#[inline(always)]
#[must_use]
pub const fn ticket(slot: u32, generation: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "wraps around")]
    let generation = generation as u32;
    generation.wrapping_mul(PENDING_SLOTS).wrapping_add(slot)
}

/// What the packet of a slot's generation carries in `skb->tc_index`. Slots of one generation differ, so that a mark of
/// which somebody has changed a bit does not fit another slot. Tickets with 0 are not issued: that is what packets have.
#[inline(always)]
#[must_use]
pub const fn ticket_check(slot: u32, generation: u64) -> u16 {
    #[expect(clippy::cast_possible_truncation, reason = "what fits tc_index")]
    let (generation, slot) = (generation as u16, slot.wrapping_mul(0x9e37) as u16);
    generation ^ slot
}

/// How often a flow that has no entry tried to get one: one slot of `RETRIES`, one of two ([`retry_slots`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Retry {
    /// The flow that uses the slot.
    pub tag: u32,
    /// Packets seen without an entry, up to the first try; then one more for each try.
    pub count: u32,
    /// No further try before.
    pub until: u64,
}

const _: () = assert!(size_of::<Retry>() == 16);

/// Slots of `RETRIES`; a power of two.
pub const RETRY_SLOTS: u32 = 65_536;
/// A flow's first packets without an entry are only counted, this many: most flows are over before they could gain.
pub const RETRY_PATIENCE: u32 = 4;
/// Wait after a flow's first try in nanoseconds; each further one waits twice as long, up to [`RETRY_DOUBLINGS`] times.
pub const RETRY_FIRST_WAIT: u64 = 20_000_000;
/// See [`RETRY_FIRST_WAIT`]: the longest wait is 10 s.
pub const RETRY_DOUBLINGS: u32 = 9;
/// After a FIN or RST the last packets of a connection do not try, for this many nanoseconds.
pub const RETRY_AFTER_END: u64 = 2_000_000_000;

/// The two `RETRIES` slots that a flow may use.
#[inline(always)]
#[must_use]
pub const fn retry_slots(tag: u32) -> [u32; 2] {
    // The low bit of a tag is always set.
    let slot = (tag >> 8) & (RETRY_SLOTS - 1);
    [slot, slot ^ 1]
}

/// A packet that came out of the stack this long ago, in nanoseconds, has passed the queue to the pod, too: longer than
/// a device's poll takes.
pub const SETTLE: u64 = 500_000;
/// A flow waits for such a gap this long, in nanoseconds; then [`SETTLE_SHORT`] will do.
pub const WARM_UP: u64 = 5_000_000;
/// See [`WARM_UP`], in nanoseconds.
pub const SETTLE_SHORT: u64 = 50_000;
/// After this long, in nanoseconds, a flow whose packets leave no gap at all moves over nevertheless. One that waits in the
/// pod's queue at this moment is overtaken.
pub const WARM_UP_LIMIT: u64 = 50_000_000;

/// Entries are dead this many revalidation intervals after the packet that last proved them.
pub const HARD_LIMIT_INTERVALS: u64 = 3;

/// How many probes a CPU sends in each [`PROBE_WINDOW`] for entries that have time. With thousands of slow flows every
/// packet would come with a probe; the others wait for their [`urgent_age`].
pub const PROBE_BUDGET: u32 = 50;
/// See [`PROBE_BUDGET`], in nanoseconds.
pub const PROBE_WINDOW: u64 = 100_000_000;

/// The age from which an entry is probed whatever the budget says, in nanoseconds: 1.75 to 2.75 revalidation intervals,
/// another one each time. Flows that were learned at the same moment, as after a change of epoch, would otherwise all be
/// probed at the same moment, and so on for ever.
#[inline(always)]
#[must_use]
pub const fn urgent_age(tag: u32, validated: u64, revalidate: u64) -> u64 {
    // The upper 10 bits of a product with an odd number (the fraction of the golden ratio): each value as often as the others.
    let share = (tag as u64 ^ validated).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    revalidate / 4 * 7 + (revalidate >> 10) * share
}

/// What the agent knows of a device that leads to a pod: value of `ENDPOINTS`, key: index of the host side of the veth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Endpoint {
    /// `ENDPOINT_*`.
    pub mode: u32,
}

/// [`Endpoint::mode`]: the whole fast path.
pub const ENDPOINT_FAST: u32 = 1;
/// [`Endpoint::mode`]: the kernel device decapsulates, for pods that encapsulate again what they receive.
pub const ENDPOINT_SHORTCUT: u32 = 2;

/// Slots of `DEVICE_EPOCHS`, a power of two; a device uses the one of its index modulo this.
pub const DEVICE_EPOCH_SLOTS: u32 = 1024;

/// Capacity of `ENDPOINTS`: devices that lead to pods.
pub const MAX_ENDPOINTS: u32 = 4096;

/// Default of `--max-flows`: capacity of `EGRESS_FLOWS` and of `INGRESS_FLOWS`.
pub const DEFAULT_MAX_FLOWS: u32 = 65_536;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn key(src: u32, dst: u32, sport: u16, dport: u16, protocol: u8) -> FlowKey {
        FlowKey::new(
            Addr::from_v4(src.to_be_bytes()),
            sport.to_be_bytes(),
            Addr::from_v4(dst.to_be_bytes()),
            dport.to_be_bytes(),
            protocol,
        )
    }

    #[test]
    fn tags_of_neighbouring_flows_differ() {
        let mut tags = HashSet::new();
        let mut slots = HashSet::new();
        for port in 0..20_000u16 {
            let tag = key(0x0af4_0102, 0x0af4_0203, port, 5201, 6).tag();
            tags.insert(tag);
            slots.insert(tag >> 16);
        }
        assert!(tags.len() > 19_990, "{} tags", tags.len());
        // Throwing 20,000 balls into 65,536 boxes hits about 17,200 of them.
        assert!(slots.len() > 16_500, "{} slots", slots.len());
    }

    /// However many are learned at once: in each tenth of the interval in which they become urgent a tenth of them does.
    #[test]
    fn what_was_learned_together_is_not_probed_together() {
        const REVALIDATE: u64 = 1_000_000_000;
        let tags: Vec<_> = (0..20_000)
            .map(|port| key(0x0af4_0102, 0x0af4_0203, port, 5201, 17).tag())
            .collect();
        let mut before = Vec::new();
        for validated in [1_000_000_000_000, 1_000_004_000_000, 1_002_250_000_000] {
            let ages: Vec<_> = tags
                .iter()
                .map(|tag| urgent_age(*tag, validated, REVALIDATE) - REVALIDATE / 4 * 7)
                .collect();
            let mut tenths = [0_u32; 10];
            for age in &ages {
                tenths[usize::try_from(age / (REVALIDATE / 10)).unwrap()] += 1;
            }
            assert!(
                tenths.iter().all(|count| (1_700..2_300).contains(count)),
                "{tenths:?}"
            );
            assert_ne!(ages, before, "nor is one flow always the first");
            before = ages;
        }
    }

    proptest! {
        #[test]
        fn everything_has_time_and_is_urgent_before_it_is_dead(tag: u32, validated: u64, revalidate in 1_000_000..u64::MAX >> 10) {
            let age = urgent_age(tag, validated, revalidate);
            prop_assert!(age > revalidate && age < revalidate * HARD_LIMIT_INTERVALS - revalidate / 5);
        }

        #[test]
        fn reversing_twice_changes_nothing(src: u32, dst: u32, sport: u16, dport: u16, protocol: u8) {
            let key = key(src, dst, sport, dport, protocol);
            prop_assert_eq!(key.reversed().reversed(), key);
            prop_assert_ne!(key.tag(), 0);
        }
    }
}
