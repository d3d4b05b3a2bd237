//! Packets of a flow on the fast path that the fast path must leave to the stack: fragments, IP options, a TTL that ends
//! on the way, padding; and the ICMP errors that only the stack can write.

use std::net::{Ipv4Addr, SocketAddrV4};

use overlay_common::reason::Reason;
use overlay_testbed::capture::Packet;
use overlay_testbed::inject::inject;
use overlay_testbed::packet::{Decoded, Ethernet, Frame, Ipv4, PROTOCOL_ICMP, Udp, decode};
use overlay_testbed::{Capture, Offloads};

use crate::bed::*;
use crate::talk::*;
use crate::wire::*;

/// A flow on the fast path between the nodes' first pods, and what its packets look like.
struct Scene {
    bed: Bed,
    talk: UdpTalk,
    client: SocketAddrV4,
    server: SocketAddrV4,
    gateway: Ethernet,
    tunnel: Tunnel,
}

impl Scene {
    fn new() -> Self {
        let bed = Bed::start_on(two_nodes().offloads(Offloads::CABLE), &[]);
        let [client, server] = [1, 2].map(|node| bed.pod(node, 1));
        let (from, to) = (at(client.address(), 7200), at(server.address(), 7201));
        let mut talk = UdpTalk::open((client.space(), from), to, (server.space(), to));
        make_fast(&bed, &mut talk);
        let gateway = to_gateway(bed.node(1));
        let tunnel = Tunnel::between(bed.node(2), bed.node(1));
        Self {
            bed,
            talk,
            client: from,
            server: to,
            gateway,
            tunnel,
        }
    }

    /// A packet of the flow as the client's pod sends it.
    fn question(&self, change: impl FnOnce(&mut Ipv4)) -> Frame {
        let mut ip = ip_between(self.client, self.server);
        change(&mut ip);
        let udp = Udp::new(self.client.port(), self.server.port(), b"by hand");
        Frame::udp(self.gateway.clone(), ip, udp)
    }

    /// A packet of the flow as the server's node sends it, inside the tunnel.
    fn answer(&self, change: impl FnOnce(&mut Ipv4)) -> Vec<u8> {
        let mut ip = ip_between(self.server, self.client);
        change(&mut ip);
        let udp = Udp::new(self.server.port(), self.client.port(), b"by hand");
        let frame = Frame::udp(Ethernet::default(), ip, udp);
        self.tunnel.carry(&frame, 0)
    }

    /// Sends `frame` from the client's pod; returns what the server's receives, the node's counters checked: one
    /// packet that the fast path left alone.
    fn send(&self, frame: &[u8]) -> Decoded {
        let mut pod = Capture::start(self.bed.pod(2, 1).space(), "eth0").unwrap();
        let before = self.bed.counters();
        inject(self.bed.pod(1, 1).space(), "eth0", &[frame]).unwrap();
        let arrived = pod.wait_for(1, SHORT, is_by_hand).unwrap();
        let grown = self.bed.growth(&before);
        // ARP and the like are counted, too.
        assert!(grown[0].packets(Reason::PodIneligible) >= 1, "{:?}", grown[0]);
        assert_eq!(grown[0].packets(Reason::EgressFast), 0, "{:?}", grown[0]);
        decode(&arrived[0].bytes).unwrap()
    }

    /// Sends `frame` from the server's node; returns what the client's pod receives.
    fn receive(&self, frame: &[u8]) -> Decoded {
        let mut pod = Capture::start(self.bed.pod(1, 1).space(), "eth0").unwrap();
        let before = self.bed.counters();
        inject(self.bed.node(2).space(), "eth0", &[frame]).unwrap();
        let arrived = pod.wait_for(1, SHORT, is_by_hand).unwrap();
        let grown = self.bed.growth(&before);
        assert_eq!(grown[0].packets(Reason::Accepted), 1, "{:?}", grown[0]);
        assert_eq!(grown[0].packets(Reason::IngressFast), 0, "{:?}", grown[0]);
        decode(&arrived[0].bytes).unwrap()
    }

    /// The flow itself has not left the fast path, and works.
    fn end(mut self) {
        self.talk.drain();
        let fast = fast_packets(&self.bed, &mut self.talk, 20);
        let all = Fast {
            from_pods: 20,
            to_pods: 20,
        };
        assert_eq!(fast, [all, all]);
        drop(self.talk);
        self.bed.end();
    }
}

fn is_by_hand(packet: &Packet) -> bool {
    !packet.outgoing && contains(packet, b"by hand")
}

/// No operation three times, and the end of the options.
const OPTIONS: [u8; 4] = [1, 1, 1, 0];

/// Seen red without the comparison of the IP header's length, and without that of the packet's with the frame's.
#[test]
fn ip_options_and_padding_take_the_stack_both_ways() {
    let scene = Scene::new();
    let with_options = |ip: &mut Ipv4| ip.options = OPTIONS.to_vec();
    let sent = scene.question(with_options);
    let arrived = scene.send(&sent.bytes());
    let ip = arrived.ipv4().unwrap();
    assert_eq!((ip.options.as_slice(), ip.ttl), (&OPTIONS[..], 62));
    let arrived = scene.receive(&scene.answer(with_options));
    let ip = arrived.ipv4().unwrap();
    assert_eq!((ip.options.as_slice(), ip.ttl), (&OPTIONS[..], 63));

    // Bytes behind the packet's end, which the stack cuts off.
    let mut sent = scene.question(|_| ()).bytes();
    let length = sent.len() - 14;
    sent.extend([0xee; 9]);
    let arrived = scene.send(&sent);
    assert_eq!(usize::from(arrived.ipv4().unwrap().total_length), length);
    assert_eq!(arrived.udp().unwrap().payload, b"by hand");
    scene.end();
}

/// Seen red without the look at fragment offset and flags: nothing arrived.
#[test]
fn fragments_of_a_fast_flow_take_the_stack_and_arrive() {
    let mut scene = Scene::new();
    let before = scene.bed.counters();
    scene.talk.size = 4000;
    scene.talk.exchanges(10);
    let grown = scene.bed.growth(&before);
    for node in &grown {
        // 1448 + 1448 + 1132 bytes.
        // ARP and the like are counted, too.
        assert!(node.packets(Reason::PodIneligible) >= 30, "{node:?}");
        assert_eq!(node.packets(Reason::EgressFast), 0, "{node:?}");
        assert_eq!(node.packets(Reason::IngressFast), 0, "{node:?}");
    }
    scene.talk.size = 64;
    scene.end();
}

/// The source of the ICMP "time exceeded" that the client's pod gets for a packet of the flow with this TTL.
fn time_exceeded(scene: &Scene, ttl: u8) -> Ipv4Addr {
    let mut pod = Capture::start(scene.bed.pod(1, 1).space(), "eth0").unwrap();
    let sent = scene.question(|ip| ip.ttl = ttl).bytes();
    inject(scene.bed.pod(1, 1).space(), "eth0", &[sent]).unwrap();
    let is_error = |packet: &Packet| {
        !packet.outgoing
            && packet.bytes.get(12..14) == Some(&[8, 0])
            && packet.bytes[23] == PROTOCOL_ICMP
            && packet.bytes[34..36] == [11, 0]
    };
    let errors = pod.wait_for(1, SHORT, is_error).unwrap();
    let error = decode(&errors[0].bytes).unwrap();
    let ip = error.ipv4().unwrap();
    assert_eq!(ip.destination, *scene.client.ip());
    // It quotes the flow's packet, with the addresses and ports that its sender knows.
    let quoted = &error.icmp().unwrap().payload;
    assert_eq!(quoted[12..16], scene.client.ip().octets());
    assert_eq!(quoted[16..20], scene.server.ip().octets());
    assert_eq!(quoted[20..22], scene.client.port().to_be_bytes());
    ip.source
}

/// Seen red with packets of every TTL on the fast path.
#[test]
fn a_ttl_that_ends_on_the_way_is_answered_by_who_would_without_the_fast_path() {
    let scene = Scene::new();
    let before = scene.bed.counters();
    assert_eq!(time_exceeded(&scene, 1), Ipv4Addr::new(10, 244, 1, 1));
    let grown = scene.bed.growth(&before);
    // ARP and the like are counted, too.
    assert!(grown[0].packets(Reason::PodIneligible) >= 1, "{:?}", grown[0]);
    assert_eq!(grown[0].packets(Reason::EgressFast), 0, "{:?}", grown[0]);
    // This one ends on node 2, where it arrives by the fast path of node 1.
    let before = scene.bed.counters();
    assert_eq!(time_exceeded(&scene, 2), scene.bed.node(2).lease().subnet);
    let grown = scene.bed.growth(&before);
    assert_eq!(grown[0].packets(Reason::EgressFast), 1, "{:?}", grown[0]);
    assert_eq!(grown[1].packets(Reason::IngressFast), 0, "{:?}", grown[1]);
    scene.end();
}
