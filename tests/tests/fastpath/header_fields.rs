//! TTL, DSCP, ECN: what the fast path writes is what the kernel's device would have written, byte for byte.

use overlay_common::reason::Reason;
use overlay_testbed::capture::Packet;
use overlay_testbed::inject::inject;
use overlay_testbed::node::Protocol;
use overlay_testbed::packet::{Ethernet, Frame, Udp, decode};
use overlay_testbed::{Capture, Node, Offloads};
use std::net::SocketAddrV4;

use crate::bed::*;
use crate::talk::*;
use crate::wire::*;

const CLIENT_PORT: u16 = 7100;
const SERVER_PORT: u16 = 7101;
const TTLS: [u8; 4] = [2, 3, 64, 255];

/// A client on node 1, what it sends to, and the server on node 2.
struct Ends {
    client: SocketAddrV4,
    target: SocketAddrV4,
    server: SocketAddrV4,
}

impl Ends {
    fn talk(&self, bed: &Bed) -> UdpTalk {
        let [client, server] = [1, 2].map(|node| bed.pod(node, 1).space());
        UdpTalk::open((client, self.client), self.target, (server, self.server))
    }

    /// What the client's pod sends: every TOS byte, and every TTL of [`TTLS`].
    fn sent_by_pod(&self, node: &Node) -> Vec<Vec<u8>> {
        let gateway = to_gateway(node);
        let frame = |tos: u8, ttl: u8, number: usize| {
            let mut ip = ip_between(self.client, self.target);
            (ip.tos, ip.ttl) = (tos, ttl);
            ip.identification = u16::try_from(number).unwrap();
            let udp = Udp::new(self.client.port(), self.target.port(), &numbered(number));
            Frame::udp(gateway.clone(), ip, udp).bytes()
        };
        let fields = (0..=255).map(|tos| (tos, 64)).chain(TTLS.map(|ttl| (0, ttl)));
        fields
            .enumerate()
            .map(|(number, (tos, ttl))| frame(tos, ttl, number))
            .collect()
    }

    /// What the server's node sends to the client's: every ECN field outside with every one inside, with and without
    /// DSCP on either, and every TTL of [`TTLS`]; and whether RFC 6040 lets it pass.
    fn sent_by_peer(&self, from: &Node, to: &Node) -> Vec<(Vec<u8>, bool)> {
        let tunnel = Tunnel::between(from, to);
        let mut frames = Vec::new();
        for outer in [0, 1, 2, 3].map(|ecn| [ecn, 0xb8 | ecn]).concat() {
            for inner in [0, 1, 2, 3].map(|ecn| [ecn, 0x28 | ecn]).concat() {
                for ttl in TTLS {
                    let number = frames.len();
                    let mut ip = ip_between(self.server, self.client);
                    (ip.tos, ip.ttl) = (inner, ttl);
                    ip.identification = u16::try_from(number).unwrap();
                    let udp = Udp::new(self.server.port(), self.client.port(), &numbered(number));
                    let frame = Frame::udp(Ethernet::default(), ip, udp);
                    frames.push((tunnel.carry(&frame, outer), outer & 3 != 3 || inner & 3 != 0));
                }
            }
        }
        frames
    }
}

fn numbered(number: usize) -> Vec<u8> {
    format!("header fields {number:04}").into_bytes()
}

fn is_numbered(packet: &Packet) -> bool {
    !packet.outgoing && contains(packet, b"header fields ")
}

/// What a flow's packets look like on the wire, in the server's pod and in the client's.
#[derive(Default)]
struct Seen {
    wire: Vec<Vec<u8>>,
    server: Vec<Vec<u8>>,
    client: Vec<Vec<u8>>,
}

/// Everything of `ends`, once.
fn send_all(bed: &Bed, ends: &Ends) -> Seen {
    let [near, far] = [1, 2].map(|index| bed.node(index));
    let [client, server] = [1, 2].map(|index| bed.pod(index, 1));
    let bytes = |packets: Vec<Packet>| packets.into_iter().map(|packet| packet.bytes).collect();

    let mut wire = Capture::start(far.space(), "eth0").unwrap();
    let mut pod = Capture::start(server.space(), "eth0").unwrap();
    let frames = ends.sent_by_pod(near);
    inject(client.space(), "eth0", &frames).unwrap();
    // The last hop of a TTL of 2 is node 2, which answers.
    let arriving = frames.len() - 1;
    let mut seen = Seen {
        wire: bytes(wire.wait_for(frames.len(), SHORT, is_numbered).unwrap()),
        server: bytes(pod.wait_for(arriving, SHORT, is_numbered).unwrap()),
        ..Seen::default()
    };

    let mut pod = Capture::start(client.space(), "eth0").unwrap();
    let tunnel = ends.sent_by_peer(far, near);
    let frames: Vec<_> = tunnel.iter().map(|(frame, _)| frame).collect();
    inject(far.space(), "eth0", &frames).unwrap();
    let arriving = tunnel.iter().filter(|(_, passes)| *passes).count();
    seen.client = bytes(pod.wait_for(arriving, SHORT, is_numbered).unwrap());
    seen
}

/// Without what may differ: the outer identification with its checksum, the outer UDP source port (a socket's packets
/// have another hash than injected ones) and checksum.
fn comparable(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for field in [18..20, 24..26, 34..36, 40..42] {
        frame[field].fill(0);
    }
    frame
}

fn compare(service: bool) {
    let mut bed = Bed::start_on(two_nodes().offloads(Offloads::CABLE), &[]);
    bed.stop_agents();
    bed.start_agents(&["--dataplane=kernel"]);
    let [client, server] = [1, 2].map(|node| bed.pod(node, 1).address());
    let (client, server) = (at(client, CLIENT_PORT), at(server, SERVER_PORT));
    let target = if service {
        bed.service(1, 80, Protocol::Udp, server)
    } else {
        server
    };
    let ends = Ends {
        client,
        target,
        server,
    };
    let mut talk = ends.talk(&bed);
    talk.exchanges(3);
    let by_kernel = send_all(&bed, &ends);
    drop(talk);

    bed.stop_agents();
    bed.start_agents(&[]);
    bed.wait_for_endpoints();
    let mut talk = ends.talk(&bed);
    make_fast(&bed, &mut talk);
    let before = bed.counters();
    let fast = send_all(&bed, &ends);
    let grown = bed.growth(&before);

    for (what, kernel, fast, wire) in [
        ("wire", &by_kernel.wire, &fast.wire, true),
        ("server", &by_kernel.server, &fast.server, false),
        ("client", &by_kernel.client, &fast.client, false),
    ] {
        assert_eq!(kernel.len(), fast.len(), "{what}");
        for (kernel, fast) in kernel.iter().zip(fast) {
            let [from_kernel, from_fast] = [kernel, fast].map(|frame| decode(frame).unwrap());
            let same = if wire {
                comparable(kernel) == comparable(fast)
            } else {
                kernel == fast
            };
            assert!(
                same,
                "{what}: the kernel's\n{from_kernel:?}\nthe fast path's\n{from_fast:?}"
            );
        }
    }
    // It was the fast path: everything but what RFC 6040 wants dropped, and a TTL that ends at node 2.
    let sent = ends.sent_by_pod(bed.node(1)).len() as u64;
    let tunnel = ends.sent_by_peer(bed.node(2), bed.node(1));
    let passing = tunnel.iter().filter(|(_, passes)| *passes).count() as u64;
    assert_eq!(grown[0].packets(Reason::EgressFast), sent, "{:?}", grown[0]);
    assert!(grown[0].packets(Reason::IngressFast) >= passing, "{:?}", grown[0]);
    assert!(
        grown[1].packets(Reason::IngressFast) >= sent - 1,
        "{:?}",
        grown[1]
    );
    drop(talk);
    bed.end();
}

/// Seen red with an inner ECN field that is delivered as it is.
#[test]
fn ttl_dscp_and_ecn_are_the_kernels() {
    compare(false);
}

#[test]
fn ttl_dscp_and_ecn_of_a_translated_flow_are_the_kernels() {
    compare(true);
}
