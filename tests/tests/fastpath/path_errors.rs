//! What the network says about packets of flows on the fast path: it is heard, and heeded.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};
use overlay_common::reason::Reason;
use overlay_testbed::Space;
use overlay_testbed::node::Protocol;
use overlay_testbed::traffic::TcpTransfer;

use crate::bed::*;
use crate::talk::*;

/// An established UDP flow to a service whose server ends, after more time than conntrack remembers anything that it
/// does not see.
///
/// Conntrack has to know the flow, or the error would not be translated back: the probes keep it there.
///
/// Seen red with entries that are fresh for ever (the error did not arrive), and without probes (the flow left the fast path).
#[test]
fn a_closed_port_behind_a_service_is_reported_to_the_client_of_a_long_lived_flow() {
    let bed = Bed::start(&[]);
    for node in bed.testbed.nodes() {
        for name in ["udp_timeout", "udp_timeout_stream"] {
            let sysctl = format!("netfilter/nf_conntrack_{name}");
            node.space().sysctl(&sysctl, "3").unwrap();
        }
    }
    let [client, server] = [1, 2].map(|node| bed.pod(node, 1));
    let backend = at(server.address(), 5353);
    let target = bed.service(1, 53, Protocol::Udp, backend);
    let mut talk = UdpTalk::open(
        (client.space(), at(client.address(), 7300)),
        target,
        (server.space(), backend),
    );
    make_fast(&bed, &mut talk);
    let start = Instant::now();
    let before = bed.counters();
    let mut count = 0;
    while start.elapsed() < Duration::from_secs(7) {
        talk.exchanges(10);
        count += 10;
        thread::sleep(Duration::from_millis(20));
    }
    let grown = bed.growth(&before);
    for node in &grown {
        // But for the probes conntrack saw nothing.
        assert_eq!(node.packets(Reason::EgressFast), count, "{node:?}");
    }
    let UdpTalk { client, server, .. } = talk;
    drop(server);
    client.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    client.send(b"anybody there?").unwrap();
    let error = client.recv(&mut [0; 64]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    drop(client);
    bed.end();
}

/// Path MTU that the kernel of `space` knows for `to`.
fn path_mtu(space: &Space, to: SocketAddrV4) -> i32 {
    space
        .enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(to)?;
            Ok(getsockopt(&socket, sockopt::IpMtu)?)
        })
        .unwrap()
}

/// Makes the underlay of both nodes narrower; returns once the overlay's devices have followed.
fn narrow(bed: &Bed) {
    for node in bed.testbed.nodes() {
        node.run("ip link set eth0 mtu 1300").unwrap();
    }
    for node in bed.testbed.nodes() {
        wait_until(SOON, "the overlay's MTU", || {
            node.run("ip link show flannel.1").unwrap().contains("mtu 1250")
        });
    }
}

/// Datagrams may not be fragmented on the way (Linux sets DF): one that is too long is lost, its sender learns why.
///
/// Seen red without the comparison of sizes before encapsulation.
#[test]
fn a_udp_flow_on_the_fast_path_finds_out_that_the_underlay_got_narrower() {
    let bed = Bed::start(&[]);
    let [client, server] = [1, 2].map(|node| bed.pod(node, 1));
    let (from, to) = (at(client.address(), 7400), at(server.address(), 7401));
    let mut talk = UdpTalk::open((client.space(), from), to, (server.space(), to)).of_size(1400);
    make_fast(&bed, &mut talk);
    assert_eq!(path_mtu(client.space(), to), 1450);
    narrow(&bed);
    // Both may have lost what is known of the flow; small datagrams bring it back.
    talk.size = 64;
    make_fast(&bed, &mut talk);
    for (space, peer, sender, target) in [
        (client.space(), to, &talk.client, to),
        (server.space(), from, &talk.server, from),
    ] {
        let before = bed.counters();
        let large = vec![0; 1400];
        wait_until(SOON, "the sender's path MTU", || {
            // send_to on a connected socket, to the same address: the error of an earlier one may show.
            sender.send_to(&large, target).ok();
            path_mtu(space, peer) == 1250
        });
        for node in &bed.growth(&before) {
            assert_eq!(node.packets(Reason::EgressFast), 0, "{node:?}");
        }
    }
    // The same datagrams arrive in fragments, smaller ones by the fast path.
    talk.drain();
    talk.size = 1400;
    talk.exchanges(10);
    talk.size = 1200;
    make_fast(&bed, &mut talk);
    drop(talk);
    bed.end();
}

/// Seen red with entries that outlive the change of the configuration, and TCP of every size on them. Their end alone is enough
/// for TCP, which learns of the path MTU from the stack then and sends nothing that is too long any more.
#[test]
fn a_tcp_transfer_on_the_fast_path_goes_on_when_the_underlay_gets_narrower() {
    let bed = Bed::start(&[]);
    let [client, server] = [1, 2].map(|node| bed.pod(node, 1));
    let to = at(server.address(), 7402);
    let left = thread::scope(|scope| {
        let bulk = scope.spawn(move || {
            let transfer = TcpTransfer {
                timeout: Duration::from_secs(60),
                ..TcpTransfer::new(*to.ip(), to.port(), 384 * MIB)
            };
            let report = transfer.run(client.space(), server.space());
            report.map(|_| Instant::now())
        });
        thread::sleep(Duration::from_millis(300));
        narrow(&bed);
        let changed = Instant::now();
        let before = bed.counters();
        let ended = bulk.join().unwrap().unwrap();
        let grown = bed.growth(&before);
        assert!(
            grown[0].egress_share() > 0.5,
            "shorter segments are not fast: {grown:?}"
        );
        ended.saturating_duration_since(changed)
    });
    assert!(
        left > Duration::from_millis(100),
        "the transfer was over too early for this test: {left:?}"
    );
    assert_eq!(path_mtu(client.space(), to), 1250);
    bed.end();
}
