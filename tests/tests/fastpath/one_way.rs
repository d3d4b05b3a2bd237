//! Flows that cannot be on the fast path: they stay slow, lose nothing, and are not marked over and over.

use std::net::SocketAddrV4;
use std::time::Duration;

use overlay_common::reason::Reason;
use overlay_testbed::flow_udp::{Pace, UdpClient, UdpClientOptions, UdpServer, UdpServerOptions, UdpStatus};

use crate::bed::*;

/// Packets of each flow, over two seconds.
const PACKETS: u64 = 20_000;
const PACE: Pace = Pace::Every(Duration::from_micros(100));
/// Waiting times between two tries double from 20 ms to 10 s: this many tries fit into a minute. A marked packet costs the
/// kernel device its route cache and this machine a slot.
const MARKS: u64 = 16;

/// Sends [`PACKETS`] datagrams from node 1 to node 2, whose server answers as told. All of them arrive.
fn send(bed: &Bed, answer_every: u64) -> UdpStatus {
    let (client, server) = (bed.pod(1, 1), bed.pod(2, 1));
    let listen = SocketAddrV4::new(server.address(), 5353);
    let options = UdpServerOptions {
        answer_every,
        ..UdpServerOptions::new(listen, 1)
    };
    let at_server = UdpServer::start(server.space(), options).unwrap();
    let options = UdpClientOptions {
        pace: PACE,
        ..UdpClientOptions::new(listen, 1)
    };
    let flow = UdpClient::start(client.space(), options).unwrap();
    wait_until(SOON * 2, "enough datagrams", || flow.status().sent >= PACKETS);
    let local = flow.local();
    let status = flow.stop().unwrap();
    wait_until(SOON, "arrival of every datagram", || {
        at_server.arrivals(local).received >= status.sent
    });
    let arrivals = at_server.arrivals(local);
    assert_eq!(arrivals.corrupted, 0, "{arrivals:?}");
    status
}

/// Nothing was fast in this direction, and marked packets were few.
fn expect_slow(grown: &Counters, node: u8, fast: Reason, marked: Reason) {
    assert_eq!(grown.packets(fast), 0, "node {node}: {grown:?}");
    assert!(grown.packets(marked) <= MARKS, "node {node}: {grown:?}");
}

const EGRESS: (Reason, Reason) = (Reason::EgressFast, Reason::PodMarked);
const INGRESS: (Reason, Reason) = (Reason::IngressFast, Reason::IngressMarked);

fn expect_all_slow(bed: &Bed, before: &[Counters]) {
    for (node, grown) in (1..).zip(bed.growth(before)) {
        for (fast, marked) in [EGRESS, INGRESS] {
            expect_slow(&grown, node, fast, marked);
        }
    }
}

/// Seen red without `RETRIES` (every packet that missed was marked), and with egress entries active from the start: the
/// flow became fast, which conntrack does not survive if it is TCP.
#[test]
fn one_way_datagrams_stay_slow() {
    let bed = Bed::start(&[]);
    let before = bed.counters();
    send(&bed, 0);
    expect_all_slow(&bed, &before);
    bed.end();
}

/// The answers come unencapsulated over the underlay, by a route of somebody else's on the server's node.
///
/// Seen red as above.
#[test]
fn flows_whose_answers_come_another_way_stay_slow() {
    let bed = Bed::start(&[]);
    let route = format!("{}/32 via {}", bed.pod(1, 1).address(), bed.node(1).address());
    bed.node(2).run(&format!("ip route add {route}")).unwrap();
    let before = bed.counters();
    let status = send(&bed, 1);
    assert_eq!(status.answers.received, status.sent, "{status:?}");
    expect_all_slow(&bed, &before);
    bed.end();
}

/// The server answers, its node sends the answers, and the client's node drops them: fast on the server's node, which has
/// seen both directions, slow on the client's.
///
/// Seen red as above.
#[test]
fn flows_whose_answers_are_dropped_at_the_client_stay_slow_there() {
    let bed = Bed::start(&[]);
    let client = bed.pod(1, 1).address();
    bed.node(1)
        .run(&format!("iptables -I FORWARD -d {client} -p udp -j DROP"))
        .unwrap();
    let before = bed.counters();
    let status = send(&bed, 1);
    assert_eq!(status.answers.received, 0, "{status:?}");
    let grown = bed.growth(&before);
    for (fast, marked) in [EGRESS, INGRESS] {
        expect_slow(&grown[0], 1, fast, marked);
    }
    assert!(
        grown[1].packets(Reason::EgressFast) > PACKETS / 2,
        "{:?}",
        grown[1]
    );
    bed.end();
}

/// Policy of the server's node drops what the server answers.
///
/// Seen red as above.
#[test]
fn flows_whose_answers_are_dropped_at_the_server_stay_slow() {
    let bed = Bed::start(&[]);
    let server = bed.pod(2, 1).address();
    bed.node(2)
        .run(&format!("iptables -I FORWARD -s {server} -p udp -j DROP"))
        .unwrap();
    let before = bed.counters();
    let status = send(&bed, 1);
    assert_eq!(status.answers.received, 0, "{status:?}");
    expect_all_slow(&bed, &before);
    bed.end();
}
