//! What the stack would do now takes effect on established flows, within the hard limit of three seconds.

use std::net::SocketAddrV4;
use std::thread;
use std::time::{Duration, Instant};

use overlay_testbed::flow_tcp::{TcpEnds, TcpFlow, TcpStreamOptions};
use overlay_testbed::flow_udp::{UdpClient, UdpClientOptions, UdpServer, UdpServerOptions};
use overlay_testbed::node::Protocol;
use overlay_testbed::traffic::TcpTransfer;

use crate::bed::*;

/// Three times the default of `--flow-revalidate`.
const HARD_LIMIT: Duration = Duration::from_secs(3);
/// For what is under way, and for a busy machine to look at its clock.
const MARGIN: Duration = Duration::from_millis(300);
/// A stream beside which others get something, too.
const RATE: TcpStreamOptions = TcpStreamOptions {
    bytes_per_second: 20 * MIB,
    cpu: None,
    checksum: true,
};

/// A UDP flow and a TCP stream through services of node 1, from its first pod to a pod of node 2.
struct Traffic {
    at_server: UdpServer,
    udp: UdpClient,
    tcp: TcpFlow,
    flows: [Flow; 2],
}

impl Traffic {
    /// The services lead to `server` already.
    fn start(bed: &Bed, servers: [SocketAddrV4; 2], services: [SocketAddrV4; 2]) -> Self {
        let (client, server) = (bed.pod(1, 1), bed.pod(2, 1));
        let at_server = UdpServer::start(server.space(), UdpServerOptions::new(servers[0], 1)).unwrap();
        let udp = UdpClient::start(client.space(), UdpClientOptions::new(services[0], 1)).unwrap();
        let ends = TcpEnds {
            listen: servers[1],
            connect: services[1],
        };
        let tcp = TcpFlow::start(client.space(), server.space(), ends, RATE).unwrap();
        let flow = |index: usize, protocol, client| Flow {
            protocol,
            client,
            target: services[index],
            server: servers[index],
        };
        let flows = [
            flow(0, Protocol::Udp, udp.local()),
            flow(1, Protocol::Tcp, tcp.client()),
        ];
        flows.iter().for_each(|flow| bed.wait_until_fast(flow));
        Self {
            at_server,
            udp,
            tcp,
            flows,
        }
    }
}

/// UDP and TCP sockets of a pod of node 2.
fn sockets(bed: &Bed, pod: u8) -> [SocketAddrV4; 2] {
    let address = bed.pod(2, pod).address();
    [5353, 8080].map(|port| SocketAddrV4::new(address, port))
}

fn services(bed: &Bed, servers: [SocketAddrV4; 2]) -> [SocketAddrV4; 2] {
    [
        bed.service(1, 53, Protocol::Udp, servers[0]),
        bed.service(1, 80, Protocol::Tcp, servers[1]),
    ]
}

/// Seen red with entries that never expire (the age compare in `pod_ingress` and `underlay_ingress` removed): nothing
/// stopped. Each case is about another program: packets of the client on its own node and on the server's, and answers.
fn a_drop_rule_stops_established_flows(node: u8, matched: &str) {
    let bed = Bed::start(&[]);
    let (client, server) = (bed.pod(1, 1), bed.pod(2, 1));
    let servers = sockets(&bed, 1);
    let services = services(&bed, servers);
    let traffic = Traffic::start(&bed, servers, services);
    let rule = matched
        .replace("CLIENT", &client.address().to_string())
        .replace("SERVER", &server.address().to_string());

    bed.node(node)
        .run(&format!("iptables -I FORWARD {rule} -j DROP"))
        .unwrap();
    let end = Instant::now() + HARD_LIMIT + MARGIN;
    thread::sleep(end.saturating_duration_since(Instant::now()));
    let (stream, answers) = (traffic.tcp.received(), traffic.udp.status().answers.received);
    thread::sleep(Duration::from_secs(2));
    let (stream_later, status) = (traffic.tcp.received(), traffic.udp.status());
    assert_eq!(status.answers.received, answers, "datagrams after the hard limit");
    assert_eq!(stream_later, stream, "bytes of the stream after the hard limit");
    assert!(
        status.answers.received > 100 && stream > MIB,
        "nothing was there to stop"
    );

    bed.node(node)
        .run(&format!("iptables -D FORWARD {rule} -j DROP"))
        .unwrap();
    let before = traffic.at_server.clients().len();
    let again = UdpClient::start(client.space(), UdpClientOptions::new(services[0], 2)).unwrap();
    wait_until(SOON, "a new flow", || again.status().answers.received > 100);
    assert_eq!(traffic.at_server.clients().len(), before + 1);
    TcpTransfer::new(*services[1].ip(), services[1].port(), MIB)
        .listening_at(servers[1])
        .run(client.space(), server.space())
        .unwrap();
    bed.end();
}

#[test]
fn a_drop_rule_for_the_client_stops_its_flows_within_the_hard_limit() {
    a_drop_rule_stops_established_flows(1, "-s CLIENT");
}

#[test]
fn a_drop_rule_for_the_server_stops_its_flows_within_the_hard_limit() {
    a_drop_rule_stops_established_flows(2, "-d SERVER");
}

#[test]
fn a_drop_rule_for_answers_stops_them_within_the_hard_limit() {
    a_drop_rule_stops_established_flows(1, "-s SERVER -d CLIENT");
}

/// Replaces a service as kube-proxy does: rules first, then conntrack's entries of UDP.
fn retarget(bed: &Bed, old: [SocketAddrV4; 2], new: Option<[SocketAddrV4; 2]>) {
    let node = bed.node(1);
    for (index, (protocol, port)) in [("udp", 53), ("tcp", 80)].into_iter().enumerate() {
        for chain in ["PREROUTING", "OUTPUT"] {
            let rule =
                format!("{chain} -d {SERVICE}/32 -p {protocol} --dport {port} -j DNAT --to-destination");
            node.run(&format!("iptables -t nat -D {rule} {}", old[index]))
                .unwrap();
            if let Some(new) = new {
                node.run(&format!("iptables -t nat -A {rule} {}", new[index]))
                    .unwrap();
            }
        }
    }
    // It fails when there is no entry, which is no failure.
    node.space()
        .output(&format!(
            "conntrack -D -p udp --orig-dst {SERVICE} --orig-port-dst 53"
        ))
        .unwrap();
}

/// Seen red with entries that never expire, as above.
#[test]
fn a_changed_service_moves_udp_within_the_hard_limit_and_leaves_tcp() {
    let bed = Bed::start(&[]);
    let (client, other) = (bed.pod(1, 1), bed.pod(2, 2));
    let (old, new) = (sockets(&bed, 1), sockets(&bed, 2));
    let services = services(&bed, old);
    let at_other = UdpServer::start(other.space(), UdpServerOptions::new(new[0], 2)).unwrap();
    let traffic = Traffic::start(&bed, old, services);

    retarget(&bed, old, Some(new));
    let limit = Instant::now() + HARD_LIMIT + MARGIN;
    wait_until(SOON, "answers from the new server", || {
        traffic.udp.status().by_server.contains_key(&2)
    });
    thread::sleep((limit + MARGIN).saturating_duration_since(Instant::now()));
    let [moved, stayed] = traffic.flows;
    bed.wait_until_fast(&Flow {
        server: new[0],
        ..moved
    });
    bed.wait_until_fast(&stayed);
    let status = traffic.udp.status();
    assert!(
        status.by_server[&1].1 < limit,
        "the old server answered after the hard limit"
    );
    assert!(status.by_server[&2].0 > 100, "{status:?}");
    assert_eq!(status.answers.corrupted, 0, "{status:?}");
    assert!(at_other.arrivals(traffic.udp.local()).received > 100);
    // The established connection stays where it is, new ones go to the new server.
    traffic.tcp.wait_for(20 * MIB, SOON).unwrap();
    TcpTransfer::new(*services[1].ip(), services[1].port(), MIB)
        .listening_at(new[1])
        .run(client.space(), other.space())
        .unwrap();

    // Without the service there is nobody to answer.
    retarget(&bed, new, None);
    let limit = Instant::now() + HARD_LIMIT + MARGIN;
    thread::sleep((limit + MARGIN).saturating_duration_since(Instant::now()));
    let before = traffic.udp.status().by_server;
    assert!(
        before.values().all(|(_, last)| *last < limit),
        "answered after the hard limit"
    );
    thread::sleep(Duration::from_secs(1));
    assert_eq!(traffic.udp.status().by_server, before);
    traffic.tcp.wait_for(20 * MIB, SOON).unwrap();
    traffic.tcp.finish().unwrap();
    bed.end();
}
