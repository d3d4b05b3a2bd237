//! Real traffic between a node with an agent and one as flannel leaves it: each understands the other, and the wire
//! carries valid VXLAN packets only.

use std::net::Ipv4Addr;

use overlay_testbed::packet::decode;
use overlay_testbed::traffic::{PingOptions, TcpTransfer, UdpTransfer, ping};
use overlay_testbed::{AgentOptions, Capture, Space, Testbed};

use crate::bed::*;

/// Ping, TCP and UDP from `client` to `server`, which owns `address`.
fn exchange(client: &Space, server: &Space, address: Ipv4Addr) {
    ping(client, address, &PingOptions::default())
        .unwrap()
        .expect_lossless()
        .unwrap();
    TcpTransfer::new(address, PORT, 300_007)
        .run(client, server)
        .unwrap();
    UdpTransfer::new(address, PORT, 40, 1400)
        .run(client, server)
        .unwrap()
        .expect_perfect()
        .unwrap();
}

/// All pairs of pod and host, both ways, but host to host, which is not the overlay's.
fn exchange_all(testbed: &Testbed) {
    for (here, there) in [(1, 2), (2, 1)] {
        let (from, to) = (testbed.node(here).unwrap(), testbed.node(there).unwrap());
        let [from_pod, to_pod] = [from, to].map(|node| node.pod(1).unwrap());
        let gateway = Ipv4Addr::new(10, 244, there, 1);
        let device = Ipv4Addr::new(10, 244, there, 0);
        exchange(from_pod.space(), to_pod.space(), to_pod.address());
        exchange(from.space(), to_pod.space(), to_pod.address());
        exchange(from_pod.space(), to.space(), gateway);
        exchange(from_pod.space(), to.space(), device);
    }
}

/// Seen red with the segments of an aggregate counted after `bpf_skb_adjust_room`, which resets their number.
fn each_decodes_the_other(options: &AgentOptions) {
    let (testbed, agent) = facing_flannel(on_a_cable(), options);
    let [ours, flannels] = [1, 2].map(|index| testbed.node(index).unwrap());
    let before = Counters::of(ours);
    let mut wire = Capture::start(flannels.space(), "eth0").unwrap();
    exchange_all(&testbed);
    let grown = before.growth(ours);
    grown.expect_only(&["accepted", "encapsulated"]);

    let (mut sent, mut received) = (0, Count::default());
    for packet in wire.packets().unwrap().iter().filter(|packet| is_tunnel(packet)) {
        assert!(
            packet.bytes.len() <= 1514,
            "{} bytes on the wire",
            packet.bytes.len()
        );
        // Verifies every checksum, outer and inner.
        let outer = decode(&packet.bytes).unwrap();
        let inner = outer.vxlan().unwrap();
        assert_eq!(inner.vxlan.header, [8, 0, 0, 0, 0, 0, 1, 0]);
        let (from, to) = if packet.outgoing {
            (flannels, ours)
        } else {
            (ours, flannels)
        };
        let ip = outer.ipv4().unwrap();
        assert_eq!((ip.source, ip.destination), (from.address(), to.address()));
        let macs = (inner.frame.source, inner.frame.destination);
        assert_eq!(macs, (from.lease().vtep_mac, to.lease().vtep_mac));
        let inner = inner.frame.ipv4().unwrap();
        assert_eq!(inner.source.octets()[..3], from.lease().subnet.octets()[..3]);
        assert_eq!(inner.destination.octets()[..3], to.lease().subnet.octets()[..3]);
        // The path: the kernel device writes a UDP checksum, the programs do not.
        assert_eq!(outer.udp().unwrap().checksum != 0, packet.outgoing, "{outer:?}");
        if packet.outgoing {
            received.packets += 1;
            received.bytes += u64::from(inner.total_length);
        } else {
            sent += 1;
        }
    }
    // Nothing on the wire that was not counted, and nothing counted that was not on the wire.
    assert_eq!(grown.sent_to(flannels.address()).packets, sent);
    assert_eq!(grown.received_from(flannels.address()), received);
    agent.stop().unwrap();
}

#[test]
fn each_decodes_the_other_with_every_checksum() {
    each_decodes_the_other(&slow_path());
}

#[test]
fn by_clsact_each_decodes_the_other_with_every_checksum() {
    each_decodes_the_other(&clsact());
}

/// Without masquerading a pod's packet to another node's underlay address goes there directly, and the answer comes
/// through the tunnel, from that address.
#[test]
fn a_node_answers_pods_from_its_underlay_address() {
    let (testbed, agent) = facing_flannel(on_a_cable(), &slow_path());
    let [ours, flannels] = [1, 2].map(|index| testbed.node(index).unwrap());
    for (from, to) in [(ours, flannels), (flannels, ours)] {
        let before = Counters::of(ours);
        let pod = from.pod(1).unwrap();
        ping(pod.space(), to.address(), &PingOptions::default())
            .unwrap()
            .expect_lossless()
            .unwrap();
        let answers = if from.index() == 1 {
            "accepted"
        } else {
            "encapsulated"
        };
        let grown = before.growth(ours);
        grown.expect_only(&[answers]);
        assert_eq!(grown.get(answers).packets, 3);
    }
    agent.stop().unwrap();
}
