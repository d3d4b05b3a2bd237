//! A node's pinned maps, read and changed as the agent does: counters, flows, epoch.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use overlay_common::addr::Addr;
use overlay_common::config::Config;
use overlay_common::flow::{DEVICE_EPOCH_SLOTS, EgressFlow, Endpoint, FLOW_ACTIVE, FlowKey, IngressFlow};
use overlay_common::maps::{
    CONFIG, COUNTERS, Counter, DEVICE_EPOCHS, EGRESS_FLOWS, ENDPOINTS, INGRESS_FLOWS,
};
use overlay_common::reason::Reason;
use overlay_testbed::node::Protocol;
use overlay_testbed::{AgentOptions, Node};

/// What every packet from a pod is counted by, once, at `pod_ingress`.
const FROM_PODS: [Reason; 5] = [
    Reason::EgressFast,
    Reason::PodIneligible,
    Reason::PodMiss,
    Reason::PodMarked,
    Reason::PodTooBig,
];
/// What every accepted tunnel packet is counted by, once, at `underlay_ingress`.
const FROM_PEERS: [Reason; 3] = [Reason::IngressFast, Reason::IngressMarked, Reason::Accepted];

/// The maps that an agent has pinned on a node. Open them anew after an agent has started: it may replace them.
pub(crate) struct Maps {
    directory: PathBuf,
}

impl Maps {
    /// The maps of `node`'s agent.
    pub(crate) fn of(node: &Node) -> Self {
        let directory = node
            .space()
            .path_from_outside(AgentOptions::PIN_DIRECTORY.as_ref());
        Self { directory }
    }

    fn open(&self, name: &str) -> Map {
        let data = MapData::from_pin(self.directory.join(name)).unwrap();
        Map::from_map_data(data).unwrap()
    }

    fn array<V: Pod>(&self, name: &str) -> Array<MapData, V> {
        self.open(name).try_into().unwrap()
    }

    fn flows<V: Pod>(&self, name: &str) -> HashMap<MapData, FlowKey, V> {
        self.open(name).try_into().unwrap()
    }

    /// The entry of `CONFIG`.
    pub(crate) fn config(&self) -> Config {
        self.array(CONFIG).get(&0, 0).unwrap()
    }

    /// Changes the entry of `CONFIG`, as the agent would.
    pub(crate) fn change_config(&self, change: impl FnOnce(&mut Config)) {
        let mut map = self.array::<Config>(CONFIG);
        let mut config = map.get(&0, 0).unwrap();
        change(&mut config);
        map.set(0, config, 0).unwrap();
    }

    /// Empties the fast path as the agent does when something changes that flows rely on.
    pub(crate) fn bump_epoch(&self) {
        self.change_config(|config| config.epoch = config.epoch.wrapping_add(1));
    }

    /// The epoch that entries of the device with this index must carry.
    pub(crate) fn epoch(&self, ifindex: u32) -> u32 {
        let slot = ifindex % DEVICE_EPOCH_SLOTS;
        let device: u32 = self.array(DEVICE_EPOCHS).get(&slot, 0).unwrap();
        self.config().epoch.wrapping_add(device)
    }

    /// How many devices of pods the programs know.
    pub(crate) fn endpoints(&self) -> usize {
        let map: HashMap<MapData, u32, Endpoint> = self.open(ENDPOINTS).try_into().unwrap();
        map.keys().filter(Result::is_ok).count()
    }

    /// Every entry of `EGRESS_FLOWS`.
    pub(crate) fn egress_flows(&self) -> Vec<(FlowKey, EgressFlow)> {
        every(&self.flows(EGRESS_FLOWS))
    }

    /// The entry of *T*.
    pub(crate) fn egress_flow(&self, key: &FlowKey) -> Option<EgressFlow> {
        found(self.flows(EGRESS_FLOWS).get(key, 0))
    }

    /// The entry of *R'*.
    pub(crate) fn ingress_flow(&self, key: &FlowKey) -> Option<IngressFlow> {
        found(self.flows(INGRESS_FLOWS).get(key, 0))
    }

    /// Deletes every flow entry of both directions, as an LRU map under pressure does; returns how many there were.
    pub(crate) fn evict_flows(&self) -> usize {
        evict::<EgressFlow>(&mut self.flows(EGRESS_FLOWS))
            + evict::<IngressFlow>(&mut self.flows(INGRESS_FLOWS))
    }

    /// Whether packets of a flow with these keys may take the fast path now, in both directions (but for their age).
    pub(crate) fn is_fast(&self, egress: &FlowKey, ingress: &FlowKey) -> bool {
        let (Some(egress), Some(ingress)) = (self.egress_flow(egress), self.ingress_flow(ingress)) else {
            return false;
        };
        egress.state & ingress.state & FLOW_ACTIVE != 0
            && egress.epoch == self.epoch(egress.ifindex)
            && ingress.epoch == self.epoch(ingress.ifindex)
    }

    /// The counters now.
    pub(crate) fn counters(&self) -> Counters {
        let map: PerCpuArray<MapData, Counter> = self.open(COUNTERS).try_into().unwrap();
        let count = |reason: Reason| {
            let copies = map.get(&(reason as u32), 0).unwrap();
            copies
                .iter()
                .fold(Counter::default(), |sum, copy| sum.plus(*copy))
        };
        Counters(Reason::ALL.map(count).to_vec())
    }
}

fn every<V: Pod>(map: &HashMap<MapData, FlowKey, V>) -> Vec<(FlowKey, V)> {
    // Entries may vanish while the map is read.
    map.iter().filter_map(Result::ok).collect()
}

fn found<V>(entry: Result<V, MapError>) -> Option<V> {
    match entry {
        Ok(value) => Some(value),
        Err(MapError::KeyNotFound) => None,
        Err(error) => panic!("{error}"),
    }
}

fn evict<V: Pod>(map: &mut HashMap<MapData, FlowKey, V>) -> usize {
    let keys: Vec<FlowKey> = map.keys().filter_map(Result::ok).collect();
    keys.iter().filter(|key| map.remove(key).is_ok()).count()
}

/// A node's counters by [`Reason`], or how much they have grown.
#[derive(Clone)]
pub(crate) struct Counters(Vec<Counter>);

impl Counters {
    /// Packets and bytes counted by `reason`.
    pub(crate) fn get(&self, reason: Reason) -> Counter {
        self.0[reason as usize]
    }

    /// Packets counted by `reason`.
    pub(crate) fn packets(&self, reason: Reason) -> u64 {
        self.get(reason).packets
    }

    /// How much the counters of `maps` have grown since these were read.
    pub(crate) fn growth(&self, maps: &Maps) -> Self {
        let now = maps.counters();
        let pairs = now.0.iter().zip(&self.0);
        let grown = pairs.map(|(now, then)| Counter {
            packets: now.packets - then.packets,
            bytes: now.bytes - then.bytes,
        });
        Self(grown.collect())
    }

    fn share(&self, fast: Reason, all: &[Reason]) -> f64 {
        let all: u64 = all.iter().map(|reason| self.packets(*reason)).sum();
        #[expect(clippy::cast_precision_loss, reason = "counts of packets in a test")]
        let share = self.packets(fast) as f64 / all.max(1) as f64;
        share
    }

    /// Which part of the packets from pods took the fast path, 0 to 1. Unlike bytes, a big packet counts as one.
    pub(crate) fn egress_share(&self) -> f64 {
        self.share(Reason::EgressFast, &FROM_PODS)
    }

    /// Which part of the accepted tunnel packets took the fast path, 0 to 1.
    pub(crate) fn ingress_share(&self) -> f64 {
        self.share(Reason::IngressFast, &FROM_PEERS)
    }
}

/// The reasons that are not zero, with their packets.
impl std::fmt::Debug for Counters {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counted: BTreeMap<&str, u64> = Reason::ALL
            .into_iter()
            .map(|reason| (reason.label(), self.packets(reason)))
            .filter(|(_, packets)| *packets > 0)
            .collect();
        counted.fmt(formatter)
    }
}

/// Key of packets from `from` to `to`.
pub(crate) fn key(protocol: Protocol, from: SocketAddrV4, to: SocketAddrV4) -> FlowKey {
    let number = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let address = |ip: &Ipv4Addr| Addr::from_v4(ip.octets());
    FlowKey::new(
        address(from.ip()),
        from.port().to_be_bytes(),
        address(to.ip()),
        to.port().to_be_bytes(),
        number,
    )
}

/// A flow between pods of two nodes, as both nodes' maps know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) protocol: Protocol,
    /// The client pod's socket.
    pub(crate) client: SocketAddrV4,
    /// Where the client sends to: the server's socket, or a service.
    pub(crate) target: SocketAddrV4,
    /// The server pod's socket.
    pub(crate) server: SocketAddrV4,
}

impl Flow {
    /// *T* and *R'* on the client's node.
    pub(crate) fn keys_at_client(&self) -> (FlowKey, FlowKey) {
        (
            key(self.protocol, self.client, self.target),
            key(self.protocol, self.server, self.client),
        )
    }

    /// *T* and *R'* on the server's node.
    pub(crate) fn keys_at_server(&self) -> (FlowKey, FlowKey) {
        (
            key(self.protocol, self.server, self.client),
            key(self.protocol, self.client, self.server),
        )
    }
}
