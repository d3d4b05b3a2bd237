//! Service addresses and flannel's masquerading: translated packets over the overlay.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use overlay_testbed::Capture;
use overlay_testbed::node::Protocol;
use overlay_testbed::traffic::{TcpTransfer, UdpEcho, UdpStream};

use crate::bed::*;

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// Both ends check their peers, so a reply or a first packet with the wrong source would be refused.
#[test]
fn services_of_remote_pods_work_from_the_first_packet_on() {
    let testbed = two_nodes().build().unwrap();
    let agents = testbed.start_agents(&slow_path()).unwrap();
    resolve_neighbours(&testbed);
    let [node, remote] = [1, 2].map(|index| testbed.node(index).unwrap());
    let [client, backend] = [node, remote].map(|node| node.pod(1).unwrap());
    let [tcp, udp] = [8080, 5353].map(|port| SocketAddrV4::new(backend.address(), port));
    node.service(SERVICE, 80, Protocol::Tcp, tcp).unwrap();
    node.service(SERVICE, 53, Protocol::Udp, udp).unwrap();
    for node in testbed.nodes() {
        node.flannel_masquerade().unwrap();
    }
    let before: Vec<_> = testbed.nodes().map(Counters::of).collect();
    let mut pod = Capture::start(backend.space(), "eth0").unwrap();
    let echo = UdpEcho::start(backend.space(), udp).unwrap();
    let mut datagrams = 0;
    for (space, seen) in [
        (client.space(), IpAddr::V4(client.address())),
        // The node's own packets leave with the underlay's address unless they are masqueraded.
        (node.space(), IpAddr::V4(node.lease().subnet)),
    ] {
        let target = SocketAddrV4::new(SERVICE, 53);
        let stream = UdpStream::start(space, target, Duration::from_millis(2), 700).unwrap();
        let transfer = TcpTransfer::new(SERVICE, 80, 16 * MIB).listening_at(tcp);
        assert_eq!(transfer.run(space, backend.space()).unwrap().client_seen, seen);
        datagrams += stream.stop().unwrap().expect_perfect().unwrap().sent;
    }
    drop(echo);
    // Every datagram, the first included, went through the programs of both nodes, there and back.
    let replies = pod.packets().unwrap().iter();
    let replies = replies
        .filter(|packet| packet.outgoing && packet.bytes[23] == 17)
        .count();
    assert_eq!(u64::try_from(replies).unwrap(), datagrams);
    for (node, before) in testbed.nodes().zip(&before) {
        let grown = before.growth(node);
        grown.expect_only(&["accepted", "encapsulated"]);
        assert!(grown.get("encapsulated").packets > datagrams, "{grown:?}");
        assert!(grown.get("accepted").packets > datagrams, "{grown:?}");
    }
    for agent in agents {
        agent.stop().unwrap();
    }
}

/// A reply that is translated back on the way in, from a node that is not ours.
#[test]
fn services_work_against_a_node_without_agent_both_ways() {
    let (testbed, agent) = facing_flannel(two_nodes(), &slow_path());
    let before = Counters::of(testbed.node(1).unwrap());
    for (here, there) in [(1, 2), (2, 1)] {
        let (node, backend) = (testbed.node(here).unwrap(), testbed.pod(there, 1).unwrap());
        let listen = SocketAddrV4::new(backend.address(), 8080);
        node.service(SERVICE, 80, Protocol::Tcp, listen).unwrap();
        node.flannel_masquerade().unwrap();
        for client in [node.pod(1).unwrap().space(), node.space()] {
            TcpTransfer::new(SERVICE, 80, 4 * MIB)
                .listening_at(listen)
                .run(client, backend.space())
                .unwrap();
        }
    }
    before
        .growth(testbed.node(1).unwrap())
        .expect_only(&["accepted", "encapsulated"]);
    agent.stop().unwrap();
}
