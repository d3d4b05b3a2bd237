//! Floods of connection attempts: they do not push established flows out of the table.

use std::net::Ipv4Addr;

use overlay_common::flow::FlowKey;
use overlay_common::reason::Reason;
use overlay_testbed::inject::inject;
use overlay_testbed::node::Protocol;
use overlay_testbed::packet::{Ethernet, Frame, Ipv4, Tcp};

use crate::bed::*;
use crate::talk::*;
use crate::wire::*;

const MAX_FLOWS: usize = 1024;
const ESTABLISHED: u16 = 50;
/// Different tuples of a flood in each direction.
const ATTEMPTS: usize = 4 * MAX_FLOWS;
/// SYNs of each, as a client that gets no answer repeats itself.
const REPEATS: usize = 8;

/// SYNs from `from`, of [`ATTEMPTS`] different tuples, each with a port that nobody listens at.
fn attempts(eth: &Ethernet, from: Ipv4Addr, to: Ipv4Addr) -> Vec<Frame> {
    let syn = |number: usize| {
        let (source, destination) = (
            u16::try_from(10_000 + number % 4096).unwrap(),
            u16::try_from(20_000 + number / 4096).unwrap(),
        );
        let tcp = Tcp {
            flags: Tcp::SYN,
            ..Tcp::new(source, destination, b"")
        };
        Frame::tcp(eth.clone(), Ipv4::new(from, to), tcp)
    };
    (0..ATTEMPTS).map(syn).collect()
}

/// Seen red with SYNs that may be followed through the stack: 862 of the 1024 entries were the flood's.
#[test]
fn syn_floods_do_not_push_established_flows_out() {
    let bed = Bed::start(&[&format!("--max-flows={MAX_FLOWS}")]);
    let [client, server] = [1, 2].map(|node| bed.pod(node, 1));
    let listen = at(server.address(), 7701);
    let listener = listen_at(server.space(), listen);
    let mut flows: Vec<_> = (0..ESTABLISHED)
        .map(|number| {
            let from = at(client.address(), 30_000 + number);
            let mut talk = TcpTalk::open((client.space(), from), listen, &listener).unwrap();
            make_fast(&bed, &mut talk);
            let flow = Flow {
                protocol: Protocol::Tcp,
                client: from,
                target: listen,
                server: listen,
            };
            (talk, flow)
        })
        .collect();

    // Without a reply nothing would be established anyway: the pods answer with RST.
    let gateway = to_gateway(bed.node(1));
    let from_pod: Vec<_> = attempts(&gateway, client.address(), server.address())
        .iter()
        .map(Frame::bytes)
        .collect();
    let tunnel = Tunnel::between(bed.node(2), bed.node(1));
    let from_peer: Vec<_> = attempts(&Ethernet::default(), server.address(), client.address())
        .iter()
        .map(|frame| tunnel.carry(frame, 0))
        .collect();
    let before = bed.counters();
    let mut exchanges = 0;
    for _ in 0..REPEATS {
        for part in 0..32 {
            let part = |all: &[Vec<u8>]| all.chunks(ATTEMPTS / 32).nth(part).unwrap().to_vec();
            inject(client.space(), "eth0", &part(&from_pod)).unwrap();
            inject(bed.node(2).space(), "eth0", &part(&from_peer)).unwrap();
            for (talk, _) in &mut flows {
                talk.exchange().unwrap();
                exchanges += 1;
            }
        }
    }
    let grown = bed.growth(&before);
    for node in &grown {
        assert!(
            Fast::of(node).from_pods >= exchanges,
            "{exchanges} exchanges: {node:?}"
        );
        assert!(
            Fast::of(node).to_pods >= exchanges,
            "{exchanges} exchanges: {node:?}"
        );
    }
    let sent = (ATTEMPTS * REPEATS) as u64;
    assert!(grown[0].packets(Reason::PodIneligible) >= sent, "{:?}", grown[0]);
    for (_, flow) in &flows {
        assert!(bed.is_fast(flow), "{flow:?} was pushed out");
    }
    let of_flood = |key: &FlowKey| (10_000..24_096).contains(&u16::from_be_bytes(key.src_port));
    let learned = bed.maps(1).egress_flows();
    let learned = learned.iter().filter(|(key, _)| of_flood(key)).count();
    assert_eq!(learned, 0, "entries of flows that were never established");
    drop(flows);
    bed.end();
}
