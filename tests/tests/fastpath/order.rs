//! The order of packets: neither probes nor changes of path let one overtake another.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::thread;
use std::time::{Duration, Instant};

use overlay_common::reason::Reason;
use overlay_testbed::flow_tcp::{TcpEnds, TcpFlow, TcpStreamOptions};
use overlay_testbed::flow_udp::{Pace, UdpClient, UdpClientOptions, UdpServer, UdpServerOptions};
use overlay_testbed::node::Protocol;
use overlay_testbed::{Offloads, Space};

use crate::bed::*;

/// Everything runs on one CPU: a veth device has one receive queue, so a flow whose neighbours run elsewhere changes its CPU
/// from packet to packet, and whatever path it takes packets may overtake each other. A network adapter keeps a flow on
/// one queue.
const CPU: usize = 1;
/// Probes of ten minutes at the default of one each second, per flow and direction.
const PROBES: u64 = 600;
/// Those at `--flow-revalidate=100ms`, and some time for the beginnings.
const DURATION: Duration = Duration::from_secs(64);
/// Between two times that the fast path is emptied.
const BETWEEN_BUMPS: Duration = Duration::from_secs(4);
/// Datagrams that fit a pod's MTU exactly, and as many as the kernel takes at once.
const BULK: (usize, u16) = (1422, 45);

/// What the TCP senders and receivers of a pod have noticed, by the kernel's names.
fn tcp_counters(space: &Space) -> BTreeMap<String, u64> {
    let read = |name| space.enter(|| Ok(std::fs::read_to_string(format!("/proc/thread-self/net/{name}"))?));
    let tables = ["netstat", "snmp"].map(|name| read(name).unwrap());
    let lines: Vec<_> = tables
        .iter()
        .flat_map(|table| table.lines())
        .filter(|line| line.starts_with("Tcp"))
        .collect();
    let pairs = lines.chunks(2).flat_map(|pair| {
        let [names, values] = [pair[0], pair[1]].map(|line| line.split_whitespace().skip(1));
        names.zip(values)
    });
    let wanted = |name: &str| OVERTAKEN.contains(&name) || ["TCPOFOQueue", "RetransSegs"].contains(&name);
    pairs
        .filter(|(name, _)| wanted(name))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// How a TCP sender notices that a segment arrived behind one that was sent after it: a hole was filled without a
/// retransmission.
const OVERTAKEN: [&str; 3] = ["TCPSACKReorder", "TCPTSReorder", "TCPRenoReorder"];

/// A numbered flow with numbered answers, every thread of it on one CPU: from several CPUs, packets overtake each other
/// on veth devices.
struct Numbered {
    server: UdpServer,
    client: UdpClient,
    flow: Flow,
}

impl Numbered {
    fn start(bed: &Bed, port: u16, cpu: usize, options: UdpClientOptions) -> Self {
        let (client, server) = (bed.pod(1, 1), bed.pod(2, 1));
        let listen = SocketAddrV4::new(server.address(), port);
        let at_server = UdpServerOptions {
            answer_every: options.segments.into(),
            cpu: Some(cpu),
            ..UdpServerOptions::new(listen, 1)
        };
        let target = bed.service(1, port, Protocol::Udp, listen);
        let at_server = UdpServer::start(server.space(), at_server).unwrap();
        let options = UdpClientOptions {
            target,
            cpu: Some(cpu),
            ..options
        };
        let udp = UdpClient::start(client.space(), options).unwrap();
        let flow = Flow {
            protocol: Protocol::Udp,
            client: udp.local(),
            target,
            server: listen,
        };
        Self {
            server: at_server,
            client: udp,
            flow,
        }
    }

    /// Neither end saw a datagram before one that was sent before it, or twice.
    fn expect_in_order(self) {
        let status = self.client.stop().unwrap();
        let arrivals = self.server.arrivals(self.flow.client);
        status.answers.expect_in_order().unwrap();
        arrivals.expect_in_order().unwrap();
        // Whatever gets lost on a machine without time to spare is far less than this.
        assert!(
            arrivals.received > status.sent / 100 * 99,
            "{} of {} arrived",
            arrivals.received,
            status.sent
        );
    }
}

fn small() -> UdpClientOptions {
    UdpClientOptions {
        pace: Pace::Every(Duration::from_micros(200)),
        ..UdpClientOptions::new(SocketAddrV4::new(SERVICE, 0), 1)
    }
}

fn bulk() -> UdpClientOptions {
    UdpClientOptions {
        size: BULK.0,
        segments: BULK.1,
        pace: Pace::Every(Duration::from_millis(4)),
        ..UdpClientOptions::new(SocketAddrV4::new(SERVICE, 0), 2)
    }
}

/// A flow of 64-byte datagrams, one of bursts of full-size ones, and a TCP stream, each with as many probes as it would have in
/// ten minutes at the default interval: in CI they come every 100 ms, for a minute. Every few seconds the fast path is
/// emptied, so that the flows change to the slow path and back besides.
///
/// Seen red with probes that are not absorbed where they come out: they arrived as duplicates.
#[test]
fn no_packet_overtakes_another_across_ten_minutes_of_probes() {
    let bed = Bed::start_on(two_nodes().offloads(Offloads::WIRE), &["--flow-revalidate=100ms"]);
    let (client, server) = (bed.pod(1, 2), bed.pod(2, 2));
    let before = bed.counters();
    let flows = [
        Numbered::start(&bed, 5001, CPU, small()),
        Numbered::start(&bed, 5002, CPU, bulk()),
    ];
    let listen = SocketAddrV4::new(server.address(), 8080);
    let ends = TcpEnds {
        listen,
        connect: listen,
    };
    let options = TcpStreamOptions {
        bytes_per_second: 16 * MIB,
        cpu: Some(CPU),
        checksum: true,
    };
    let stream = TcpFlow::start(client.space(), server.space(), ends, options).unwrap();
    let end = Instant::now() + DURATION;
    while Instant::now() < end {
        flows
            .iter()
            .for_each(|numbered| bed.wait_until_fast(&numbered.flow));
        thread::sleep(BETWEEN_BUMPS);
        bed.bump_epochs();
    }
    let grown = bed.growth(&before);
    stream.finish().unwrap();
    let noticed = [client, server].map(|pod| tcp_counters(pod.space()));
    let overtaken = OVERTAKEN.map(|name| noticed[0][name]);
    assert_eq!(overtaken, [0; 3], "of the stream: {noticed:?}");
    // What was lost on a machine without time to spare arrives late, too.
    let (late, again) = (noticed[1]["TCPOFOQueue"], noticed[0]["RetransSegs"]);
    assert!(late == 0 || again > 0, "of the stream: {noticed:?}");
    flows.into_iter().for_each(Numbered::expect_in_order);
    for (node, grown) in bed.testbed.nodes().zip(&grown) {
        // Sent, and absorbed where they came out: three flows in both directions, but for the time that each is slow.
        let probes = [
            Reason::PodProbe,
            Reason::EgressProbe,
            Reason::IngressProbeSent,
            Reason::IngressProbe,
        ];
        for reason in probes {
            let count = grown.packets(reason);
            assert!(
                count >= 2 * PROBES,
                "{}: {} in {grown:?}",
                node.name(),
                reason.label()
            );
        }
    }
    bed.end();
}

/// A flow begins slow and becomes fast while it runs, many times. Its datagrams come in bursts, cut up by the sender's node:
/// when the first of a burst teaches the receiving node the way, the others are still in the queues of the stack.
///
/// Seen red with ingress entries that are active as soon as they are learned (`has_settled` of `underlay_ingress` always
/// true).
#[test]
fn no_packet_overtakes_another_when_a_flow_becomes_fast() {
    let bed = Bed::start_on(two_nodes().offloads(Offloads::CABLE), &[]);
    for round in 0..20 {
        let options = UdpClientOptions {
            segments: 32,
            pace: Pace::Every(Duration::from_millis(1)),
            ..small()
        };
        let flow = Numbered::start(&bed, 5001 + round, 0, options);
        bed.wait_until_fast(&flow.flow);
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(20));
            bed.bump_epochs();
            bed.wait_until_fast(&flow.flow);
        }
        thread::sleep(Duration::from_millis(20));
        flow.expect_in_order();
    }
    bed.end();
}
