//! Connections that end, and others that take over their ports at once.
//!
//! Between two connections with the same four numbers the service's backend changes: an entry that outlived its
//! connection would lead the second one to the backend of the first.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener};
use std::thread;
use std::time::Duration;

use overlay_common::reason::Reason;
use overlay_testbed::Node;
use overlay_testbed::node::Protocol;
use overlay_testbed::traffic::TcpTransfer;

use crate::bed::*;
use crate::talk::*;

const CLIENT_PORT: u16 = 7500;
const VIP_PORT: u16 = 80;

/// Two backends in two pods of node 2, one of which a service of node 1 leads to.
struct Service {
    listeners: [TcpListener; 2],
    backends: [SocketAddrV4; 2],
    target: SocketAddrV4,
}

impl Service {
    fn new(bed: &Bed) -> Self {
        let pods = [1, 2].map(|pod| bed.pod(2, pod));
        let backends = pods.map(|pod| at(pod.address(), 7501));
        let listeners = [0, 1].map(|index| listen_at(pods[index].space(), backends[index]));
        let target = bed.service(1, VIP_PORT, Protocol::Tcp, backends[0]);
        Self {
            listeners,
            backends,
            target,
        }
    }

    /// Connections that begin from now on belong to this backend.
    fn lead_to(&self, node: &Node, index: usize) {
        let rule = format!(
            "-d {}/32 -p tcp --dport {VIP_PORT} -j DNAT --to-destination {}",
            SERVICE, self.backends[index]
        );
        // The first rule counts.
        node.run(&format!("iptables -t nat -R PREROUTING 1 {rule}"))
            .unwrap();
    }

    fn flow(&self, client: SocketAddrV4, index: usize) -> Flow {
        Flow {
            protocol: Protocol::Tcp,
            client,
            target: self.target,
            server: self.backends[index],
        }
    }
}

/// Whether any entry of `flow` is left that packets could take.
fn is_remembered(bed: &Bed, flow: &Flow) -> bool {
    let (client, server) = (bed.maps(1), bed.maps(2));
    let ((egress, ingress), (back, there)) = (flow.keys_at_client(), flow.keys_at_server());
    client.egress_flow(&egress).is_some()
        || client.ingress_flow(&ingress).is_some()
        || server.egress_flow(&back).is_some()
        || server.ingress_flow(&there).is_some()
}

/// Connections one after the other from one port to a service; the backend changes after every `between`.
fn reuse_after(how: Ending, between: usize) {
    const CONNECTIONS: usize = 8;
    let bed = Bed::start(&[]);
    let service = Service::new(&bed);
    let client = bed.pod(1, 1);
    let from = at(client.address(), CLIENT_PORT);
    bed.node(1)
        .space()
        .sysctl("netfilter/nf_conntrack_tcp_timeout_close", "1")
        .unwrap();
    let before = bed.counters();
    for number in 0..CONNECTIONS {
        let index = number / between % 2;
        if number % between == 0 {
            service.lead_to(bed.node(1), index);
            if how == Ending::Reset {
                wait_until(SOON, "conntrack's forgetting", || tracked(bed.node(1)) == 0);
            }
        }
        let mut talk = TcpTalk::open((client.space(), from), service.target, &service.listeners[index])
            .unwrap_or_else(|error| panic!("connection {number}: {error:#}"));
        // Its messages, its backend: `exchange` compares them.
        talk.exchanges(30);
        make_fast(&bed, &mut talk);
        talk.end(how).unwrap();
        assert!(
            !is_remembered(&bed, &service.flow(from, index)),
            "connection {number} has left entries"
        );
    }
    let grown = bed.growth(&before);
    for node in &grown {
        let ended = node.packets(Reason::EgressEnded) + node.packets(Reason::IngressEnded);
        assert!(ended >= CONNECTIONS as u64, "{node:?}");
    }
    bed.end();
}

/// Seen red with FIN, RST and SYN that end no entries.
#[test]
fn the_ports_of_a_connection_that_has_ended_are_used_again_at_once() {
    reuse_after(Ending::Fin, 1);
}

/// Conntrack cannot place a RST after data that it has not seen: it keeps the connection, for the time of a closed one
/// (10 s, here 1 s), and leads the next connection with the same numbers to the same backend.
///
/// Seen red with RSTs that end no entries.
#[test]
fn the_ports_of_a_connection_that_was_reset_are_used_again_at_once() {
    reuse_after(Ending::Reset, 2);
}

/// Both ends close at the same moment: each FIN is on its way before the other has arrived. The first of each is lost, so
/// that no timing is needed for that.
///
/// Seen red with FINs that end no entries.
#[test]
fn a_simultaneous_close_ends_the_connection_and_its_entries() {
    let bed = Bed::start(&[]);
    let service = Service::new(&bed);
    let client = bed.pod(1, 1);
    let from = at(client.address(), CLIENT_PORT);
    let mut talk = TcpTalk::open((client.space(), from), service.target, &service.listeners[0]).unwrap();
    make_fast(&bed, &mut talk);
    let lose = "FORWARD -p tcp --tcp-flags FIN FIN -j DROP";
    for node in bed.testbed.nodes() {
        node.run(&format!("iptables -I {lose}")).unwrap();
    }
    let ends = [&talk.client, &talk.server];
    for end in ends {
        end.shutdown(Shutdown::Write).unwrap();
    }
    for node in bed.testbed.nodes() {
        node.run(&format!("iptables -D {lose}")).unwrap();
    }
    for mut end in ends {
        assert_eq!(end.read(&mut [0; 1]).unwrap(), 0, "data instead of the end");
    }
    assert!(!is_remembered(&bed, &service.flow(from, 0)), "entries are left");
    // Both were in the state CLOSING: neither has seen the other's end before its own was sent.
    for space in [client.space(), bed.pod(2, 1).space()] {
        let sockets = space.run("ss -Htan state time-wait").unwrap();
        assert!(
            sockets.contains(&format!(":{CLIENT_PORT}")),
            "{}: {sockets}",
            space.label()
        );
    }
    drop(talk);
    bed.end();
}

/// Shrinks every conntrack timeout of a TCP connection, on both nodes.
fn forget_connections_after(bed: &Bed, seconds: u32) {
    for node in bed.testbed.nodes() {
        for state in [
            "established",
            "fin_wait",
            "close_wait",
            "last_ack",
            "time_wait",
            "close",
            "max_retrans",
            "unacknowledged",
        ] {
            let sysctl = format!("netfilter/nf_conntrack_tcp_timeout_{state}");
            node.space().sysctl(&sysctl, &seconds.to_string()).unwrap();
        }
    }
}

/// How many connections with the client's port node 1's conntrack knows.
fn tracked(node: &Node) -> usize {
    let list = node.run("conntrack -L -p tcp").unwrap();
    list.lines()
        .filter(|line| line.contains(&format!("sport={CLIENT_PORT} ")))
        .count()
}

/// One direction is closed, the other silent for longer than anybody remembers: conntrack, the flow entries, the probes.
/// Then the other one sends. Run with the fast path and without: the same bytes arrive.
fn half_open(fast: bool) {
    const SILENCE: Duration = Duration::from_secs(5);
    let mut bed = Bed::start(&[]);
    if !fast {
        bed.stop_agents();
        bed.start_agents(&["--fastpath=off"]);
    }
    let [client, server] = [1, 2].map(|node| bed.pod(node, 1));
    let (from, to) = (at(client.address(), CLIENT_PORT), at(server.address(), 7501));
    let listener = listen_at(server.space(), to);
    let mut talk = TcpTalk::open((client.space(), from), to, &listener).unwrap();
    talk.exchanges(200);
    if fast {
        make_fast(&bed, &mut talk);
    }
    forget_connections_after(&bed, 1);
    talk.client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(talk.server.read(&mut [0; 1]).unwrap(), 0);
    wait_until(SILENCE, "conntrack's forgetting", || tracked(bed.node(1)) == 0);
    thread::sleep(SILENCE);
    let sent: Vec<u8> = (0..4 * MIB).map(|index| index.to_le_bytes()[1]).collect();
    let received = thread::scope(|scope| {
        let mut server = &talk.server;
        let sent = &sent;
        scope.spawn(move || {
            server.write_all(sent).unwrap();
            server.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        talk.client.read_to_end(&mut received).unwrap();
        received
    });
    assert!(
        received == sent,
        "{} of {} bytes, or others",
        received.len(),
        sent.len()
    );
    drop(talk);
    bed.stop_agents();
}

/// Seen red with FINs that end no entries: conntrack did not see the end of the direction, and forgot nothing. That the rest
/// arrives is the same without the fast path; no guard of it was found whose loss would show here.
#[test]
fn a_half_closed_connection_goes_on_after_everybody_has_forgotten_it() {
    half_open(true);
    half_open(false);
}

/// An open connection that is silent for longer than anybody remembers goes on, and gets fast again. One to a service
/// that is not silent is not forgotten: the probes show it to conntrack.
///
/// Seen red without probes, and with entries that are fresh for ever: conntrack forgot the busy one.
#[test]
fn a_silent_connection_gets_fast_again_and_a_busy_one_is_not_forgotten() {
    let bed = Bed::start(&[]);
    let [client, server] = [1, 2].map(|node| bed.pod(node, 1));
    let (from, to) = (at(client.address(), 7510), at(server.address(), 7511));
    let listener = listen_at(server.space(), to);
    let mut silent = TcpTalk::open((client.space(), from), to, &listener).unwrap();
    let service = Service::new(&bed);
    let from = at(client.address(), CLIENT_PORT);
    let mut busy = TcpTalk::open((client.space(), from), service.target, &service.listeners[0]).unwrap();
    make_fast(&bed, &mut silent);
    forget_connections_after(&bed, 3);
    make_fast(&bed, &mut busy);
    let before = bed.counters();
    let mut count = 0;
    for _ in 0..70 {
        busy.exchanges(5);
        count += 5;
        thread::sleep(Duration::from_millis(100));
        assert_eq!(tracked(bed.node(1)), 1, "conntrack forgot the busy connection");
    }
    let grown = bed.growth(&before);
    for node in &grown {
        assert!(Fast::of(node).from_pods >= count, "{node:?}");
    }
    silent.exchanges(5);
    make_fast(&bed, &mut silent);
    busy.end(Ending::Fin).unwrap();
    silent.end(Ending::Reset).unwrap();
    TcpTransfer::new(*to.ip(), 7512, MIB)
        .run(client.space(), server.space())
        .unwrap();
    bed.end();
}
