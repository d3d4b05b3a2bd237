//! Flows between a pod of this node and one of a peer: their packets at each hook, and their entries in the maps.

use std::net::Ipv4Addr;

use bytemuck::Zeroable;
use overlay_common::config::{Config, FLAG_FASTPATH};
use overlay_common::flow::{
    ENDPOINT_FAST, EgressFlow, FLOW_ACTIVE, FLOW_NAT, FlowKey, IngressFlow, PENDING_EGRESS, PENDING_INGRESS,
    Pending,
};
use overlay_testbed::packet::{Ethernet, Frame, Ipv4, Mac, PROTOCOL_TCP, PROTOCOL_UDP, Tcp, Udp, VxlanFrame};

use crate::bed::memory::now;
use crate::bed::{
    Bed, Context, NEAR, NEAR_MAC, POD, Peer, SLOTS_PER_CPU, UNDERLAY_MAC, VTEP, VTEP_MAC, addr, ifindex,
    local_pod, with_bed,
};
use crate::frames::ETH;

/// MAC address of the pod's own device.
pub(crate) const POD_MAC: [u8; 6] = [2, 0xcc, 0, 0, 0, 5];
/// MAC address of the pod bridge.
pub(crate) const BRIDGE_MAC: [u8; 6] = [2, 0xdd, 0, 0, 0, 1];

/// The bits of `skb->mark` that are the agent's in this suite, and others that are somebody else's.
pub(crate) const MARK_MASK: u32 = 0x00ff_0000;
pub(crate) const MARK_SHIFT: u32 = 16;
pub(crate) const FOREIGN_MARK: u32 = 0xa500_c00f;

/// Epoch of the configuration, and of the pod's device; their sum wraps around.
pub(crate) const EPOCH: u32 = u32::MAX - 1;
pub(crate) const DEVICE_EPOCH: u32 = 5;
/// What entries of the pod's device carry.
pub(crate) const ENTRY_EPOCH: u32 = EPOCH.wrapping_add(DEVICE_EPOCH);

/// One millisecond in nanoseconds.
pub(crate) const MS: u64 = 1_000_000;
/// Revalidation interval of this suite.
pub(crate) const REVALIDATE: u64 = 5000 * MS;

/// A generation of a ticket that fits, for [`Bed::set_ticket`].
pub(crate) const GENERATION: u64 = 0x0003_0000;

/// A flow between a pod of this node and one of a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) protocol: u8,
    /// Our pod.
    pub(crate) pod: (Ipv4Addr, u16),
    /// What our pod believes to speak to.
    pub(crate) service: (Ipv4Addr, u16),
    /// The pod that it speaks to.
    pub(crate) remote: (Ipv4Addr, u16),
    /// The node of that pod.
    pub(crate) peer: Peer,
}

const fn direct(protocol: u8) -> Flow {
    let remote = (NEAR.pod(7), 5353);
    Flow {
        protocol,
        pod: (local_pod(5), 4000),
        service: remote,
        remote,
        peer: NEAR,
    }
}

const fn by_service(protocol: u8) -> Flow {
    Flow {
        service: (Ipv4Addr::new(10, 96, 0, 10), 53),
        ..direct(protocol)
    }
}

pub(crate) const UDP: Flow = direct(PROTOCOL_UDP);
pub(crate) const TCP: Flow = direct(PROTOCOL_TCP);
pub(crate) const UDP_SERVICE: Flow = by_service(PROTOCOL_UDP);
pub(crate) const TCP_SERVICE: Flow = by_service(PROTOCOL_TCP);
/// Every kind of flow.
pub(crate) const KINDS: [Flow; 4] = [UDP, TCP, UDP_SERVICE, TCP_SERVICE];

impl Flow {
    /// *T*.
    pub(crate) fn pod_key(&self) -> FlowKey {
        self.key(self.pod, self.service)
    }

    /// *R'*.
    pub(crate) fn peer_key(&self) -> FlowKey {
        self.key(self.remote, self.pod)
    }

    fn key(&self, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> FlowKey {
        let (src_port, dst_port) = (src.1.to_be_bytes(), dst.1.to_be_bytes());
        FlowKey::new(addr(src.0), src_port, addr(dst.0), dst_port, self.protocol)
    }

    fn frame(&self, eth: Ethernet, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), ttl: u8) -> Frame {
        let ip = Ipv4 {
            ttl,
            identification: 0x1234,
            fragment: Ipv4::DONT_FRAGMENT,
            tos: 0xb8,
            ..Ipv4::new(src.0, dst.0)
        };
        // An odd length: the last byte of a checksum has no partner.
        let payload = b"so many words";
        if self.protocol == PROTOCOL_TCP {
            Frame::tcp(eth, ip, Tcp::new(src.1, dst.1, payload))
        } else {
            Frame::udp(eth, ip, Udp::new(src.1, dst.1, payload))
        }
    }

    /// As the pod sends it.
    pub(crate) fn sent_by_pod(&self) -> Frame {
        let eth = Ethernet::new(Mac(POD_MAC), Mac(BRIDGE_MAC));
        self.frame(eth, self.pod, self.service, 64)
    }

    /// The same packet as the stack hands it to the VTEP device.
    pub(crate) fn at_vtep(&self) -> Frame {
        let eth = Ethernet::new(Mac(VTEP_MAC), Mac(self.peer.mac));
        self.frame(eth, self.pod, self.remote, 63)
    }

    /// As the remote node's packet arrives, without its outer headers.
    pub(crate) fn inside_tunnel(&self) -> Frame {
        let eth = Ethernet::new(Mac(self.peer.mac), Mac(VTEP_MAC));
        self.frame(eth, self.remote, self.pod, 63)
    }

    /// As the remote node's packet arrives.
    pub(crate) fn sent_by_peer(&self) -> VxlanFrame {
        tunnelled(&self.peer, &self.inside_tunnel())
    }

    /// The same packet as the stack hands it to the pod's device.
    pub(crate) fn at_pod(&self) -> Frame {
        let eth = Ethernet::new(Mac(BRIDGE_MAC), Mac(POD_MAC));
        self.frame(eth, self.service, self.pod, 62)
    }

    fn nat(&self) -> u32 {
        if self.service == self.remote { 0 } else { FLOW_NAT }
    }

    /// What [`IngressFlow::entered`] and [`IngressFlow::left`] know the packet of the peer by that has this ticket.
    pub(crate) fn position(&self, ticket: u32) -> u32 {
        if self.protocol == PROTOCOL_TCP {
            let ip = self.inside_tunnel().bytes().len() - ETH;
            u32::from_be_bytes(sequence(self.protocol)) + u32::try_from(ip).expect("a small packet")
        } else {
            ticket
        }
    }

    /// The usable entry of packets that the pod sends.
    pub(crate) fn egress_entry(&self) -> EgressFlow {
        let mut entry = EgressFlow::zeroed();
        entry.tag = self.pod_key().tag();
        entry.epoch = ENTRY_EPOCH;
        entry.validated = now();
        entry.state = FLOW_ACTIVE | self.nat();
        entry.ifindex = ifindex(POD);
        entry.stats = self.peer.stats;
        entry.vtep = addr(self.peer.vtep);
        entry.dst = addr(self.remote.0);
        entry.vtep_mac = self.peer.mac;
        entry.pod_mac = POD_MAC;
        entry.dst_port = self.remote.1.to_be_bytes();
        entry.source_port = 40_001u16.to_be_bytes();
        entry
    }

    /// The usable entry of packets that the pod receives.
    pub(crate) fn ingress_entry(&self) -> IngressFlow {
        let mut entry = IngressFlow::zeroed();
        entry.tag = self.peer_key().tag();
        entry.epoch = ENTRY_EPOCH;
        entry.validated = now();
        entry.state = FLOW_ACTIVE | self.nat();
        entry.ifindex = ifindex(POD);
        entry.stats = self.peer.stats;
        entry.vtep = addr(self.peer.vtep);
        entry.src = addr(self.service.0);
        entry.src_port = self.service.1.to_be_bytes();
        entry.dst_mac = POD_MAC;
        entry.src_mac = BRIDGE_MAC;
        entry
    }

    /// The slot of a packet from the pod that entered the stack just now.
    pub(crate) fn egress_pending(&self) -> Pending {
        let mut pending = self.pending(&self.sent_by_pod());
        pending.key = self.pod_key();
        pending.kind = PENDING_EGRESS;
        pending.ifindex = ifindex(POD);
        pending.src_mac = POD_MAC;
        pending
    }

    /// The slot of a packet from the peer that entered the stack just now.
    pub(crate) fn ingress_pending(&self, bed: &Bed) -> Pending {
        let mut pending = self.pending(&self.inside_tunnel());
        pending.key = self.peer_key();
        pending.kind = PENDING_INGRESS;
        pending.ifindex = bed.default_config().underlay_ifindex;
        pending.src_mac = self.peer.mac;
        pending.vtep = addr(self.peer.vtep);
        pending
    }

    fn pending(&self, frame: &Frame) -> Pending {
        let mut pending = Pending::zeroed();
        let bytes = frame.bytes();
        pending.generation = GENERATION;
        // Ahead of the clock, so that a test that is held up does not find it too old.
        pending.entered = now() + 10_000 * MS;
        pending.epoch = EPOCH;
        pending.sequence = sequence(self.protocol);
        pending.total_len.copy_from_slice(&bytes[16..18]);
        pending.ttl = frame.ip.ttl;
        pending.tos = frame.ip.tos;
        pending
    }
}

/// [`Pending::sequence`] of this suite's packets.
fn sequence(protocol: u8) -> [u8; 4] {
    if protocol == PROTOCOL_TCP {
        1000u32.to_be_bytes()
    } else {
        [0; 4]
    }
}

/// `value` after `change`: the types of the maps have private fields, which a struct expression cannot fill.
pub(crate) fn changed<T>(mut value: T, change: impl FnOnce(&mut T)) -> T {
    change(&mut value);
    value
}

/// `inner` as it arrives from `peer`.
pub(crate) fn tunnelled(peer: &Peer, inner: &Frame) -> VxlanFrame {
    VxlanFrame::new(
        Ethernet::new(Mac(NEAR_MAC), Mac(UNDERLAY_MAC)),
        Ipv4::new(peer.vtep, VTEP),
        inner.bytes(),
    )
}

/// The context of a packet on the pod's device.
pub(crate) fn on_pod() -> Context {
    Context {
        ifindex: ifindex(POD),
        ..Context::default()
    }
}

/// The mark of a packet with the ticket of `slot`.
pub(crate) const fn mark(slot: u32) -> u32 {
    (slot + 1) << MARK_SHIFT
}

/// The configuration with the fast path on.
pub(crate) fn fast_config(bed: &Bed) -> Config {
    let config = bed.default_config();
    Config {
        flags: config.flags | FLAG_FASTPATH,
        epoch: EPOCH,
        mark_mask: MARK_MASK,
        mark_shift: MARK_SHIFT,
        slots_per_cpu: SLOTS_PER_CPU,
        revalidate: REVALIDATE,
        ..config
    }
}

/// Runs `test` with a bed whose fast path is on, with the pod's device known and nothing learned.
pub(crate) fn with_fast_bed(test: impl FnOnce(&mut Bed) + Send + 'static) {
    with_bed(|bed| {
        let config = fast_config(bed);
        bed.configure(config);
        bed.set_endpoint(ifindex(POD), Some(ENDPOINT_FAST));
        bed.set_device_epoch(ifindex(POD), DEVICE_EPOCH);
        test(bed);
    });
}
