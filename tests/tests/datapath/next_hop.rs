//! Which neighbour encapsulated packets go to: routers, empty neighbour tables, moving addresses, changing routes.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use overlay_testbed::traffic::{PingOptions, TcpTransfer, UdpEcho, UdpStream, UdpTransfer, ping};
use overlay_testbed::{Capture, Testbed, Underlay};

use crate::bed::*;

const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 254);

fn assert_connected(testbed: &Testbed) {
    let [here, there] = [1, 2].map(|index| testbed.pod(index, 1).unwrap());
    for (from, to) in [(here, there), (there, here)] {
        TcpTransfer::new(to.address(), PORT, MIB)
            .run(from.space(), to.space())
            .unwrap();
    }
}

/// One datagram from node 1's pod to node 2's, which must arrive; returns the frame on node 1's underlay.
fn one_datagram(testbed: &Testbed) -> Vec<u8> {
    let [from, to] = [1, 2].map(|index| testbed.pod(index, 1).unwrap());
    let node = testbed.node(1).unwrap();
    let before = Counters::of(node);
    let mut wire = Capture::start(node.space(), "eth0").unwrap();
    UdpTransfer::new(to.address(), PORT, 1, 100)
        .run(from.space(), to.space())
        .unwrap()
        .expect_perfect()
        .unwrap();
    before.growth(node).expect_only(&["encapsulated"]);
    let sent = wire
        .wait_for(1, SHORT, |packet| packet.outgoing && is_tunnel(packet))
        .unwrap();
    sent[0].bytes.clone()
}

#[test]
fn a_peer_behind_a_router_is_reached_through_it() {
    let (testbed, agent) = facing_flannel(two_nodes().underlay(Underlay::Routed), &slow_path());
    assert_connected(&testbed);
    let frame = one_datagram(&testbed);
    assert_eq!(frame[..6], mac_of(&testbed.fabric().unwrap(), "br1").0);
    // The route's device stays, its gateway goes and comes back.
    let node = testbed.node(1).unwrap();
    let before = Counters::of(node);
    node.run("ip route del default").unwrap();
    let to = testbed.pod(2, 1).unwrap();
    let unanswered = PingOptions {
        count: 1,
        timeout: Duration::from_millis(300),
        ..PingOptions::default()
    };
    let lost = ping(testbed.pod(1, 1).unwrap().space(), to.address(), &unanswered).unwrap();
    assert_eq!(lost.received, 0);
    // A late segment of the transfers before may share its fate.
    assert!(
        before.growth(node).get("no_route").packets >= 1,
        "left to the kernel, which has no route either"
    );
    node.run("ip route add default via 192.168.1.254").unwrap();
    wait_until("the route", || {
        ping(testbed.pod(1, 1).unwrap().space(), to.address(), &unanswered)
            .unwrap()
            .received
            == 1
    });
    one_datagram(&testbed);
    agent.stop().unwrap();
}

/// The kernel device waits for ARP better than a redirect can: it is left to it, and only it. Seen red with the redirect
/// also when there is no neighbour yet: the packet was lost.
#[test]
fn the_first_packet_waits_for_arp_and_is_not_lost() {
    for underlay in [Underlay::Switch, Underlay::Routed] {
        let (testbed, agent) = facing_flannel(on_a_cable().underlay(underlay), &slow_path());
        let node = testbed.node(1).unwrap();
        let [from, to] = [1, 2].map(|index| testbed.pod(index, 1).unwrap());
        for _ in 0..3 {
            node.run("ip neigh flush dev eth0").unwrap();
            assert_eq!(node.run("ip neigh show dev eth0 nud reachable").unwrap(), "");
            let before = Counters::of(node);
            let mut wire = Capture::start(node.space(), "eth0").unwrap();
            UdpTransfer::new(to.address(), PORT, 1, 100)
                .run(from.space(), to.space())
                .unwrap()
                .expect_perfect()
                .unwrap();
            let packets = wire.packets().unwrap();
            let arp = packets
                .iter()
                .position(|packet| packet.outgoing && packet.bytes[12..14] == [8, 6]);
            let datagram = packets
                .iter()
                .position(|packet| packet.outgoing && is_tunnel(packet));
            assert!(
                arp.is_some() && arp < datagram,
                "{underlay:?}: ARP {arp:?}, datagram {datagram:?}"
            );
            assert_ne!(
                packets[datagram.unwrap()].bytes[40..42],
                [0, 0],
                "the kernel device's checksum"
            );
            let grown = before.growth(node);
            grown.expect_only(&["no_neighbour"]);
            assert_eq!(grown.get("no_neighbour").packets, 1);
            // The next one is the programs'.
            assert_eq!(one_datagram(&testbed)[40..42], [0, 0]);
        }
        agent.stop().unwrap();
    }
}

#[test]
fn a_peer_that_announces_a_new_mac_address_is_followed() {
    let (testbed, agent) = facing_flannel(two_nodes(), &slow_path());
    let peer = testbed.node(2).unwrap();
    let old = mac_of(peer.space(), "eth0");
    assert_eq!(one_datagram(&testbed)[..6], old.0);
    peer.space().sysctl("ipv4/conf/eth0/arp_notify", "1").unwrap();
    // Neighbour entries are locked for a second after a change.
    std::thread::sleep(Duration::from_millis(1100));
    peer.run("ip link set eth0 address 02:aa:00:00:00:02").unwrap();
    wait_until("the new address in node 1's neighbour table", || {
        let neighbours = testbed.node(1).unwrap().run("ip neigh show dev eth0").unwrap();
        neighbours.contains("02:aa:00:00:00:02")
    });
    assert_eq!(one_datagram(&testbed)[..6], [2, 0xaa, 0, 0, 0, 2]);
    agent.stop().unwrap();
}

/// Without an announcement only the kernel's own probing finds out: it must be kept alive by the programs' packets.
#[test]
fn a_peer_with_a_new_mac_address_is_found_again_without_an_announcement() {
    let (testbed, agent) = facing_flannel(two_nodes(), &slow_path());
    let [node, peer] = [1, 2].map(|index| testbed.node(index).unwrap());
    for (name, value) in [
        ("base_reachable_time_ms", "300"),
        ("delay_first_probe_time", "1"),
        ("retrans_time_ms", "50"),
    ] {
        node.space()
            .sysctl(&format!("ipv4/neigh/eth0/{name}"), value)
            .unwrap();
    }
    // What is resolved from now on has these times.
    node.run("ip neigh flush dev eth0").unwrap();
    resolve_neighbours(&testbed);
    one_datagram(&testbed);
    let to = testbed.pod(2, 1).unwrap();
    let target = SocketAddrV4::new(to.address(), PORT + 1);
    let echo = UdpEcho::start(to.space(), target).unwrap();
    let pace = Duration::from_millis(10);
    let stream = UdpStream::start(testbed.pod(1, 1).unwrap().space(), target, pace, 100).unwrap();
    peer.run("ip link set eth0 address 02:bb:00:00:00:02").unwrap();
    wait_until("the new address in node 1's neighbour table", || {
        node.run("ip neigh show dev eth0")
            .unwrap()
            .contains("02:bb:00:00:00:02")
    });
    let report = stream.stop().unwrap();
    assert!(report.received > 0 && report.corrupted == 0, "{report:?}");
    drop(echo);
    assert_eq!(one_datagram(&testbed)[..6], [2, 0xbb, 0, 0, 0, 2]);
    agent.stop().unwrap();
}

#[test]
fn a_changed_route_is_followed_with_the_next_packet() {
    let (testbed, agent) = facing_flannel(two_nodes(), &slow_path());
    let [node, peer] = [1, 2].map(|index| testbed.node(index).unwrap());
    let router = mac_of(&testbed.fabric().unwrap(), "br0");
    // No redirects: they would undo the detour.
    testbed
        .fabric()
        .unwrap()
        .sysctl("ipv4/conf/all/send_redirects", "0")
        .unwrap();
    testbed
        .fabric()
        .unwrap()
        .sysctl("ipv4/conf/br0/send_redirects", "0")
        .unwrap();
    let direct = mac_of(peer.space(), "eth0");
    let once = PingOptions {
        count: 1,
        ..PingOptions::default()
    };
    ping(node.space(), ROUTER, &once)
        .unwrap()
        .expect_lossless()
        .unwrap();
    let route = format!("{}/32 via {} dev eth0", peer.address(), ROUTER);
    for _ in 0..2 {
        assert_eq!(one_datagram(&testbed)[..6], direct.0);
        node.run(&format!("ip route add {route}")).unwrap();
        assert_eq!(one_datagram(&testbed)[..6], router.0);
        node.run(&format!("ip route del {route}")).unwrap();
    }
    assert_connected(&testbed);
    agent.stop().unwrap();
}
