//! Another VXLAN device of the node on the same UDP port: it keeps working beside the overlay.

use std::net::Ipv4Addr;

use overlay_testbed::Testbed;
use overlay_testbed::inject::inject;
use overlay_testbed::packet::{Ethernet, Frame, Ipv4, Udp, Vxlan, VxlanFrame};
use overlay_testbed::traffic::{PingOptions, TcpTransfer, ping};

use crate::bed::*;

const OTHER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);

/// A point-to-point overlay with VNI 77 between the two nodes.
fn add_other_device(testbed: &Testbed) {
    for (here, there) in [(1, 2), (2, 1)] {
        let [node, peer] = [here, there].map(|index| testbed.node(index).unwrap());
        let (local, remote) = (node.address(), peer.address());
        node.run(&format!(
            "ip link add other type vxlan id 77 local {local} remote {remote} dev eth0 dstport 8472 nolearning"
        ))
        .unwrap();
        node.run(&format!("ip addr add 172.30.0.{here}/24 dev other"))
            .unwrap();
        node.run("ip link set other up").unwrap();
    }
}

fn both_overlays_work(testbed: &Testbed) {
    let [node, peer] = [1, 2].map(|index| testbed.node(index).unwrap());
    ping(node.space(), OTHER, &PingOptions::default())
        .unwrap()
        .expect_lossless()
        .unwrap();
    TcpTransfer::new(OTHER, PORT, MIB)
        .run(node.space(), peer.space())
        .unwrap();
    let [here, there] = [node, peer].map(|node| node.pod(1).unwrap());
    for (from, to) in [(here, there), (there, here)] {
        TcpTransfer::new(to.address(), PORT, MIB)
            .run(from.space(), to.space())
            .unwrap();
    }
}

/// Sends a packet with VNI 77 from node 2's address; returns which counters of node 1 it made grow.
fn counted_as(testbed: &Testbed) -> String {
    let [node, peer] = [1, 2].map(|index| testbed.node(index).unwrap());
    let before = Counters::of(node);
    let addresses = Ipv4::new(OTHER, Ipv4Addr::new(172, 30, 0, 1));
    let inner = Frame::udp(Ethernet::default(), addresses, Udp::new(1, 2, b"other"));
    let eth = Ethernet::new(mac_of(peer.space(), "eth0"), mac_of(node.space(), "eth0"));
    let mut frame = VxlanFrame::new(eth, Ipv4::new(peer.address(), node.address()), inner.bytes());
    frame.vxlan = Vxlan::new(77);
    inject(peer.space(), "eth0", &[frame.bytes()]).unwrap();
    let mut counted = Vec::new();
    wait_until("the counter", || {
        counted = before
            .growth(node)
            .packets()
            .keys()
            .map(|&reason| reason.to_owned())
            .collect();
        !counted.is_empty()
    });
    counted.join(", ")
}

/// Seen red with `FLAG_PORT_SHARED` never set.
#[test]
fn another_device_on_the_port_keeps_working() {
    let (testbed, agent) = facing_flannel(two_nodes(), &slow_path());
    let node = testbed.node(1).unwrap();
    assert_eq!(counted_as(&testbed), "wrong_vni");
    add_other_device(&testbed);
    wait_until("the shared port", || counted_as(&testbed) == "other_vni");
    let before = Counters::of(node);
    both_overlays_work(&testbed);
    let grown = before.growth(node);
    grown.expect_only(&["accepted", "encapsulated", "other_vni"]);
    node.run("ip link del other").unwrap();
    wait_until("the port for itself", || counted_as(&testbed) == "wrong_vni");
    agent.stop().unwrap();
}

#[test]
fn a_device_that_was_there_first_keeps_working() {
    let testbed = two_nodes().build().unwrap();
    add_other_device(&testbed);
    let agents = testbed.start_agents(&slow_path()).unwrap();
    resolve_neighbours(&testbed);
    let before: Vec<_> = testbed.nodes().map(Counters::of).collect();
    both_overlays_work(&testbed);
    for (node, before) in testbed.nodes().zip(&before) {
        before
            .growth(node)
            .expect_only(&["accepted", "encapsulated", "other_vni"]);
    }
    for agent in agents {
        agent.stop().unwrap();
    }
}
