//! Long flows are on the fast path, whichever address the client uses, and nobody sees another address than before.

use std::net::SocketAddrV4;
use std::thread;
use std::time::Duration;

use overlay_common::reason::Reason;
use overlay_testbed::flow_tcp::{TcpEnds, tcp_request_response};
use overlay_testbed::flow_udp::{Pace, UdpClient, UdpClientOptions, UdpServer, UdpServerOptions};
use overlay_testbed::node::Protocol;

use crate::bed::*;

const TRANSACTIONS: u64 = 50_000;
/// More than a flow needs to become fast.
const BEGINNING: u64 = 10_000;
/// Both ends on one CPU, as a node under load would have it: the fastest way to so many transactions.
const CPU: Option<usize> = Some(0);

/// Waits until packets are on the fast path in both directions on both nodes; returns the counters of that time.
fn begin(bed: &Bed, before: &[Counters]) -> Vec<Counters> {
    let fast = |grown: &Counters| {
        let reasons = [Reason::EgressFast, Reason::IngressFast];
        reasons.iter().all(|reason| grown.packets(*reason) > 100)
    };
    wait_until(SOON, "packets on the fast path", || {
        bed.growth(before).iter().all(fast)
    });
    bed.counters()
}

/// At least 99.9 % of all packets since `before`, of every kind and to every pod, went past the stack.
fn expect_fast(bed: &Bed, before: &[Counters]) {
    for (node, grown) in bed.testbed.nodes().zip(bed.growth(before)) {
        let shares = (grown.egress_share(), grown.ingress_share());
        let fast = [Reason::EgressFast, Reason::IngressFast].map(|reason| grown.packets(reason));
        assert!(
            shares.0 >= 0.999 && shares.1 >= 0.999 && fast.iter().all(|packets| *packets >= TRANSACTIONS),
            "{}: {shares:?} of {grown:?}",
            node.name()
        );
    }
}

/// Where the client connects to: the service's address, and the server's own.
fn targets(bed: &Bed, protocol: Protocol, server: SocketAddrV4) -> [SocketAddrV4; 2] {
    [bed.service(1, 80, protocol, server), server]
}

/// Seen red with a node that never marks a packet to learn from it (`retry::is_due` always false).
#[test]
fn tcp_request_response_is_fast_to_services_and_pods() {
    let bed = Bed::start(&[]);
    let (client, server) = (bed.pod(1, 1), bed.pod(2, 1));
    let listen = SocketAddrV4::new(server.address(), 8080);
    for connect in targets(&bed, Protocol::Tcp, listen) {
        let before = bed.counters();
        let spaces = (client.space(), server.space());
        let ends = TcpEnds { listen, connect };
        let (before, report) = thread::scope(|scope| {
            let run = || tcp_request_response(spaces, ends, (TRANSACTIONS + BEGINNING, 64), CPU);
            let running = scope.spawn(run);
            (begin(&bed, &before), running.join().unwrap().unwrap())
        });
        assert_eq!(report.client_seen, report.client, "by way of {connect}");
        assert_eq!(*report.client.ip(), client.address());
        expect_fast(&bed, &before);
    }
    bed.end();
}

/// The client's socket is connected: the kernel gives it only answers from the address that it sends to.
///
/// Seen red as above, and with the source address left alone in `underlay_ingress`: by way of the service no answer arrived
/// that was fast.
#[test]
fn udp_request_response_is_fast_to_services_and_pods() {
    let bed = Bed::start(&[]);
    let (client, server) = (bed.pod(1, 1), bed.pod(2, 1));
    let listen = SocketAddrV4::new(server.address(), 5353);
    for (tag, target) in (1..).zip(targets(&bed, Protocol::Udp, listen)) {
        let mut options = UdpServerOptions::new(listen, 1);
        options.cpu = CPU;
        let at_server = UdpServer::start(server.space(), options).unwrap();
        let before = bed.counters();
        let options = UdpClientOptions {
            pace: Pace::Answered,
            cpu: CPU,
            ..UdpClientOptions::new(target, tag)
        };
        let flow = UdpClient::start(client.space(), options).unwrap();
        let before = begin(&bed, &before);
        let enough = flow.status().sent + TRANSACTIONS + 1;
        wait_until(SOON * 3, "enough transactions", || flow.status().sent > enough);
        let local = flow.local();
        let status = flow.stop().unwrap();
        status.answers.expect_in_order().unwrap();
        assert_eq!(status.answers.received, status.sent, "by way of {target}");
        // The server saw the pod's own address, and every datagram once.
        assert_eq!(at_server.clients(), [local.into()]);
        assert_eq!(*local.ip(), client.address());
        at_server.arrivals(local).expect_in_order().unwrap();
        expect_fast(&bed, &before);
    }
    bed.end();
}

/// Aggregates of datagrams go past the stack whole on the sender's node, and arrive cut up, all of them.
///
/// Seen red with aggregates handed to the pod by `underlay_ingress`: they still counted as tunnel packets, so that the
/// pod's stack could not cut them up and dropped every one without a trace.
#[test]
fn segmented_datagrams_arrive() {
    let bed = Bed::start(&[]);
    let (client, server) = (bed.pod(1, 1), bed.pod(2, 1));
    let listen = SocketAddrV4::new(server.address(), 5353);
    for (tag, target) in (1..).zip(targets(&bed, Protocol::Udp, listen)) {
        let mut options = UdpServerOptions::new(listen, 1);
        options.cpu = CPU;
        let at_server = UdpServer::start(server.space(), options).unwrap();
        let before = bed.counters();
        let options = UdpClientOptions {
            size: 1400,
            segments: 40,
            pace: Pace::Every(Duration::from_millis(5)),
            cpu: CPU,
            ..UdpClientOptions::new(target, tag)
        };
        let flow = UdpClient::start(client.space(), options).unwrap();
        let grown = || bed.growth(&before)[0].get(Reason::EgressFast);
        wait_until(SOON, "aggregates on the fast path", || grown().packets > 200);
        assert!(grown().bytes > 200 * 40 * 1400, "{:?}", grown());
        let local = flow.local();
        let status = flow.stop().unwrap();
        let arrivals = at_server.arrivals(local);
        assert_eq!(
            (arrivals.received, status.answers.received),
            (status.sent, status.sent),
            "{target}"
        );
        arrivals.expect_in_order().unwrap();
        status.answers.expect_in_order().unwrap();
    }
    bed.end();
}
