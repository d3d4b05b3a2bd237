//! Packets with somebody else's tuple: they do not get onto that flow's entry.

use std::net::SocketAddrV4;
use std::thread;
use std::time::Duration;

use overlay_common::reason::Reason;
use overlay_testbed::Capture;
use overlay_testbed::capture::Packet;
use overlay_testbed::inject::inject;
use overlay_testbed::node::Protocol;
use overlay_testbed::packet::{Ethernet, Frame, Udp};
use serde_json::Value;

use crate::bed::*;
use crate::talk::*;
use crate::wire::*;

const SPOOFED: usize = 500;

fn ifindex(bed: &Bed, pod: u8) -> u32 {
    let veth = bed.pod(1, pod).host_veth();
    let text = bed.node(1).run(&format!("ip -j link show {veth}")).unwrap();
    let link: Value = serde_json::from_str(&text).unwrap();
    u32::try_from(link[0]["ifindex"].as_u64().unwrap()).unwrap()
}

fn spoofed(eth: &Ethernet, from: SocketAddrV4, to: SocketAddrV4) -> Frame {
    let udp = Udp::new(from.port(), to.port(), b"spoofed");
    Frame::udp(eth.clone(), ip_between(from, to), udp)
}

fn is_spoofed(packet: &Packet) -> bool {
    contains(packet, b"spoofed")
}

/// Node 1's second pod sends what its first pod could have sent, at a time when the node's rules forbid the second pod
/// everything: on the first pod's entry it would get past them. Seen red without the comparison of device indices.
#[test]
fn a_pod_that_sends_by_the_tuple_of_another_does_not_get_onto_its_flow() {
    let bed = Bed::start(&[]);
    let [owner, liar, server] = [bed.pod(1, 1), bed.pod(1, 2), bed.pod(2, 1)];
    let (from, to) = (at(owner.address(), 7600), at(server.address(), 7601));
    let mut talk = UdpTalk::open((owner.space(), from), to, (server.space(), to));
    make_fast(&bed, &mut talk);
    let flow = Flow {
        protocol: Protocol::Udp,
        client: from,
        target: to,
        server: to,
    };
    let (key, _) = flow.keys_at_client();
    let owner_device = ifindex(&bed, 1);
    assert_eq!(bed.maps(1).egress_flow(&key).unwrap().ifindex, owner_device);

    let own = mac_of(liar.space(), "eth0");
    bed.node(1)
        .run(&format!("iptables -I FORWARD -m mac --mac-source {own} -j DROP"))
        .unwrap();
    let mut arrivals = Capture::start(server.space(), "eth0").unwrap();
    let gateway = mac_of(bed.node(1).space(), "cni0");
    let frame = spoofed(&Ethernet::new(own, gateway), from, to).bytes();
    let before = bed.counters();
    // Interleaved with the owner's: each finds the entry as the other has left it.
    for _ in 0..SPOOFED {
        inject(liar.space(), "eth0", &[&frame]).unwrap();
        talk.exchange().unwrap();
    }
    let grown = bed.growth(&before);
    let refused = arrivals.packets().unwrap();
    assert_eq!(refused.iter().filter(|packet| is_spoofed(packet)).count(), 0);
    assert!(
        grown[0].packets(Reason::EgressFast) <= SPOOFED as u64,
        "{:?}",
        grown[0]
    );
    // The owner has lost nothing: the entry is still its own.
    assert_eq!(bed.maps(1).egress_flow(&key).unwrap().ifindex, owner_device);
    assert_eq!(
        grown[0].packets(Reason::EgressFast),
        SPOOFED as u64,
        "{:?}",
        grown[0]
    );
    drop(talk);
    bed.end();
}

/// Without a rule the stack lets the second pod's packets through, as it does without the fast path; the flow's entry
/// goes to nobody who is not its owner for good.
#[test]
fn a_flow_survives_another_pods_packets_on_its_tuple() {
    let bed = Bed::start(&[]);
    let [owner, liar, server] = [bed.pod(1, 1), bed.pod(1, 2), bed.pod(2, 1)];
    let (from, to) = (at(owner.address(), 7600), at(server.address(), 7601));
    let mut talk = UdpTalk::open((owner.space(), from), to, (server.space(), to));
    make_fast(&bed, &mut talk);
    let eth = Ethernet::new(mac_of(liar.space(), "eth0"), mac_of(bed.node(1).space(), "cni0"));
    let frame = spoofed(&eth, from, to).bytes();
    for _ in 0..SPOOFED {
        inject(liar.space(), "eth0", &[&frame]).unwrap();
        thread::sleep(Duration::from_millis(1));
        talk.drain();
        talk.exchange().unwrap();
    }
    thread::sleep(Duration::from_millis(50));
    talk.drain();
    make_fast(&bed, &mut talk);
    drop(talk);
    bed.end();
}

/// A third node sends what the second could have sent, outside with its own address: a flow's entry belongs to the VTEP
/// that it was learned from. Seen red without the comparison of VTEPs.
#[test]
fn a_node_that_sends_by_the_tuple_of_another_does_not_get_onto_its_flow() {
    let bed = Bed::start_on(two_nodes().nodes(3), &[]);
    let [client, server] = [1, 2].map(|node| bed.pod(node, 1));
    let (from, to) = (at(client.address(), 7600), at(server.address(), 7601));
    let mut talk = UdpTalk::open((client.space(), from), to, (server.space(), to));
    make_fast(&bed, &mut talk);
    let mut arrivals = Capture::start(client.space(), "eth0").unwrap();
    let tunnel = Tunnel::between(bed.node(3), bed.node(1));
    let frame = tunnel.carry(&spoofed(&Ethernet::default(), to, from), 0);
    let before = bed.counters();
    for _ in 0..SPOOFED {
        inject(bed.node(3).space(), "eth0", &[&frame]).unwrap();
        talk.exchange().unwrap();
    }
    let grown = bed.growth(&before);
    let arrived = arrivals.packets().unwrap();
    assert_eq!(arrived.iter().filter(|packet| is_spoofed(packet)).count(), 0);
    assert_eq!(grown[0].packets(Reason::SpoofedSource), SPOOFED as u64);
    assert_eq!(grown[0].packets(Reason::IngressFast), SPOOFED as u64);
    drop(talk);
    bed.end();
}
