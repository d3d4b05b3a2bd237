//! Packets that do not fit: the overlay's MTU, a route's smaller MTU, and an underlay with a larger one.

use std::net::Ipv4Addr;

use overlay_testbed::capture::Packet;
use overlay_testbed::inject::inject;
use overlay_testbed::packet::{Frame, Ipv4, PROTOCOL_ICMP, Udp, decode};
use overlay_testbed::traffic::{PingOptions, TcpTransfer, UdpTransfer, ping};
use overlay_testbed::{Capture, Offloads, Testbed};

use crate::bed::*;

/// ICMP "fragmentation needed" (RFC 1191).
fn is_too_big(packet: &Packet) -> bool {
    is_received_ip(packet) && packet.bytes[23] == PROTOCOL_ICMP && packet.bytes[34..36] == [3, 4]
}

/// Lets node 1's pod send packets as long as the underlay's.
fn widen_pod(testbed: &Testbed) {
    let node = testbed.node(1).unwrap();
    let pod = node.pod(1).unwrap();
    for device in ["cni0", pod.host_veth()] {
        node.run(&format!("ip link set {device} mtu 1500")).unwrap();
    }
    pod.run("ip link set eth0 mtu 1500").unwrap();
}

fn large_ping(size: u16) -> PingOptions {
    PingOptions {
        size,
        dont_fragment: true,
        ..PingOptions::default()
    }
}

#[test]
fn a_pod_whose_packet_may_not_be_fragmented_learns_the_overlays_mtu() {
    let (testbed, agent) = facing_flannel(on_a_cable(), &slow_path());
    widen_pod(&testbed);
    let node = testbed.node(1).unwrap();
    let [from, to] = [1, 2].map(|index| testbed.pod(index, 1).unwrap());
    let mut pod = Capture::start(from.space(), "eth0").unwrap();
    // Exactly as large as fits: 1422 + 28 = 1450.
    let before = Counters::of(node);
    ping(from.space(), to.address(), &large_ping(1422))
        .unwrap()
        .expect_lossless()
        .unwrap();
    assert_eq!(before.growth(node).get("encapsulated").packets, 3);
    // One byte more.
    let before = Counters::of(node);
    let mut frame = Frame::udp(
        to_gateway(node),
        Ipv4::new(from.address(), to.address()),
        Udp::new(1, PORT, &[7; 1423]),
    );
    frame.ip.fragment = Ipv4::DONT_FRAGMENT;
    inject(from.space(), "eth0", &[frame.bytes()]).unwrap();
    let answer = pod.wait_for(1, SHORT, is_too_big).unwrap();
    assert_eq!(answer[0].bytes[40..42], 1450_u16.to_be_bytes());
    assert_eq!(
        decode(&answer[0].bytes).unwrap().ipv4().unwrap().destination,
        from.address()
    );
    // It quotes the packet that did not fit: header and ports.
    assert_eq!(answer[0].bytes[42 + 12..42 + 24], frame.bytes()[26..38]);
    let report = ping(from.space(), to.address(), &large_ping(1472)).unwrap();
    assert_eq!(report.received, 0);
    assert!(
        before.growth(node).packets().is_empty(),
        "nothing of it entered the overlay"
    );
    // The same pod's connections adapt.
    TcpTransfer::new(to.address(), PORT, MIB)
        .run(from.space(), to.space())
        .unwrap();
    let report = ping(node.space(), to.address(), &large_ping(1423)).unwrap();
    assert_eq!(
        report.received, 0,
        "the node's own packets are bound by the MTU too"
    );
    agent.stop().unwrap();
}

#[test]
fn what_may_be_fragmented_arrives_in_inner_fragments() {
    let (testbed, agent) = facing_flannel(on_a_cable(), &slow_path());
    widen_pod(&testbed);
    let node = testbed.node(1).unwrap();
    let [from, to] = [1, 2].map(|index| testbed.pod(index, 1).unwrap());
    // 4028 bytes: from the pod in 1500 + 1500 + 1068, each of the large ones cut in two by the node; from the node in
    // 1444 + 1444 + 1180.
    for (client, fragments) in [(from.space(), 5), (node.space(), 3)] {
        let before = Counters::of(node);
        let mut wire = Capture::start(testbed.node(2).unwrap().space(), "eth0").unwrap();
        UdpTransfer::new(to.address(), PORT, 20, 4000)
            .run(client, to.space())
            .unwrap()
            .expect_perfect()
            .unwrap();
        let grown = before.growth(node);
        grown.expect_only(&["encapsulated"]);
        assert_eq!(grown.get("encapsulated").packets, 20 * fragments);
        let tunnel = wire
            .wait_for(
                usize::try_from(20 * fragments).unwrap(),
                SHORT,
                is_received_tunnel,
            )
            .unwrap();
        // The fragments of one datagram share a source port, so they stay in order.
        for packet in &tunnel {
            let outer = decode(&packet.bytes).unwrap();
            assert!(
                packet.bytes.len() <= 1514 && !outer.ipv4().unwrap().more_fragments,
                "{outer:?}"
            );
            let inner = outer.vxlan().unwrap().frame;
            let inner = inner.ipv4().unwrap();
            assert!(inner.more_fragments || inner.fragment_offset > 0, "{inner:?}");
        }
        let port = |packet: &Packet| packet.bytes[34..36].to_vec();
        assert!(tunnel.iter().all(|packet| port(packet) == port(&tunnel[0])));
    }
    agent.stop().unwrap();
}

/// The route to the peer is narrower than the device: the kernel device knows what to do.
fn narrow_route(offloads: Offloads, route_first: bool) {
    let testbed = two_nodes().offloads(offloads).build().unwrap();
    let leases = testbed.leases();
    testbed.publish(&leases).unwrap();
    let [node, peer] = [1, 2].map(|index| testbed.node(index).unwrap());
    peer.configure_like_flannel(leases.entries()).unwrap();
    let narrow = || {
        node.run(&format!("ip route add {}/32 dev eth0 mtu 1300", peer.address()))
            .unwrap();
    };
    let [from, to] = [node, peer].map(|node| node.pod(1).unwrap());
    if route_first {
        narrow();
    }
    let agent = node.start_agent(&slow_path()).unwrap();
    resolve_neighbours(&testbed);
    if !route_first {
        ping(from.space(), to.address(), &large_ping(1422))
            .unwrap()
            .expect_lossless()
            .unwrap();
        narrow();
        // The largest segment of the programs: until it is set they would send longer ones.
        wait_until("the new route in the configuration", || {
            max_segment(&testbed) == 1300
        });
    }
    let mut wire = Capture::start(&testbed.fabric().unwrap(), "n1").unwrap();
    let before = Counters::of(node);
    // Exactly what fits goes by the programs.
    let fitting = large_ping(1222);
    ping(from.space(), to.address(), &fitting)
        .unwrap()
        .expect_lossless()
        .unwrap();
    let grown = before.growth(node);
    assert_eq!(grown.get("encapsulated").packets, 3, "{:?}", grown.packets());
    // Longer ones, of all kinds.
    let before = Counters::of(node);
    for _ in 0..2 {
        UdpTransfer::new(to.address(), PORT, 20, 1400)
            .run(node.space(), to.space())
            .unwrap()
            .expect_perfect()
            .unwrap();
        TcpTransfer::new(to.address(), PORT, 4 * MIB)
            .run(from.space(), to.space())
            .unwrap();
        TcpTransfer::new(to.address(), PORT, 4 * MIB)
            .run(node.space(), to.space())
            .unwrap();
    }
    let grown = before.growth(node);
    assert!(grown.get("too_big").packets > 0, "{:?}", grown.packets());
    assert_eq!(grown.get("encap_failed").packets, 0);
    let sizes = wire.packets().unwrap().iter();
    let sizes = sizes
        .filter(|packet| !packet.outgoing)
        .map(|packet| packet.bytes.len());
    let largest = sizes.max().unwrap();
    assert!(largest <= 1314, "{largest} bytes on a wire for 1300");
    agent.stop().unwrap();
}

fn max_segment(testbed: &Testbed) -> u64 {
    let config = testbed.node(1).unwrap().ebpf_config().unwrap();
    config["max_segment"].as_u64().unwrap()
}

/// Seen red with `max_segment` always the device's MTU.
#[test]
fn nothing_longer_than_a_routes_mtu_leaves() {
    narrow_route(Offloads::CABLE, true);
}

#[test]
fn a_routes_mtu_is_heeded_as_soon_as_it_is_there() {
    narrow_route(Offloads::CABLE, false);
}

#[test]
fn an_underlay_with_jumbo_frames_carries_jumbo_packets() {
    let (testbed, agent) = facing_flannel(on_a_cable().mtu(9000), &slow_path());
    let node = testbed.node(1).unwrap();
    assert_eq!(max_segment(&testbed), 9000);
    assert!(node.run("ip link show flannel.1").unwrap().contains("mtu 8950"));
    let [from, to] = [1, 2].map(|index| testbed.pod(index, 1).unwrap());
    let mut wire = Capture::start(testbed.node(2).unwrap().space(), "eth0").unwrap();
    let before = Counters::of(node);
    ping(from.space(), to.address(), &large_ping(8922))
        .unwrap()
        .expect_lossless()
        .unwrap();
    assert_eq!(before.growth(node).get("encapsulated").packets, 3);
    let longest = wire
        .wait_for(3, SHORT, |packet| {
            is_received_tunnel(packet) && packet.bytes.len() == 9014
        })
        .unwrap();
    assert_eq!(decode(&longest[0].bytes).unwrap().udp().unwrap().checksum, 0);
    TcpTransfer::new(to.address(), PORT, 16 * MIB)
        .run(from.space(), to.space())
        .unwrap();
    TcpTransfer::new(from.address(), PORT, 16 * MIB)
        .run(to.space(), from.space())
        .unwrap();
    before.growth(node).expect_only(&["accepted", "encapsulated"]);
    let gateway = Ipv4Addr::new(10, 244, 2, 1);
    assert_eq!(
        ping(from.space(), gateway, &large_ping(8923)).unwrap().received,
        0
    );
    agent.stop().unwrap();
}
