//! A TCP stream that changes between the paths over and over, and conntrack's view of it.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::ensure;
use overlay_common::reason::Reason;
use overlay_testbed::flow_tcp::{TcpEnds, TcpFlow, TcpStreamOptions};
use overlay_testbed::node::Protocol;
use overlay_testbed::{Pod, eventually};

use crate::bed::*;

/// Two minutes on a machine that does ten other things.
const PATIENCE: Duration = Duration::from_secs(120);

/// A busy stream from a pod of node 1 through a service to a pod of node 2.
struct Stream {
    tcp: TcpFlow,
    flow: Flow,
}

impl Stream {
    fn start(bed: &Bed, options: TcpStreamOptions) -> Self {
        let (client, server): (&Pod, &Pod) = (bed.pod(1, 1), bed.pod(2, 1));
        let listen = SocketAddrV4::new(server.address(), 8080);
        let connect = bed.service(1, 80, Protocol::Tcp, listen);
        let ends = TcpEnds { listen, connect };
        let tcp = TcpFlow::start(client.space(), server.space(), ends, options).unwrap();
        let flow = Flow {
            protocol: Protocol::Tcp,
            client: tcp.client(),
            target: connect,
            server: listen,
        };
        Self { tcp, flow }
    }

    /// Waits until it is on the fast path, and lets `bytes` pass there.
    fn goes_fast(&self, bed: &Bed, bytes: u64) {
        let what = "fast path for the stream";
        if let Err(error) = eventually(SOON, what, || {
            ensure!(bed.is_fast(&self.flow), "not fast");
            Ok(())
        }) {
            let drops = [1, 2].map(|node| bed.invalid_drops(node));
            let (silence, _) = self.tcp.silence();
            panic!("{error:#}; nothing has arrived for {silence:?}, invalid packets dropped: {drops:?}");
        }
        let before = bed.counters();
        self.tcp.wait_for(bytes, PATIENCE).unwrap();
        let grown = bed.growth(&before);
        let fast = [
            grown[0].get(Reason::EgressFast),
            grown[1].get(Reason::IngressFast),
        ];
        // What the sockets hold when it becomes fast has come by the slow path.
        assert!(
            fast.iter().all(|fast| fast.bytes >= bytes / 2),
            "not fast: {grown:#?}"
        );
    }

    /// `disturb` pushes it off the fast path on the nodes; afterwards it gets back there, and `bytes` pass.
    fn falls_back(&self, bed: &Bed, nodes: &[u8], bytes: u64, disturb: impl FnOnce()) {
        let before = bed.counters();
        disturb();
        let slow = |grown: &Counters| {
            let reasons = [Reason::PodMiss, Reason::PodMarked];
            reasons.map(|reason| grown.packets(reason)).iter().sum::<u64>()
        };
        wait_until(SOON, "packets on the slow path", || {
            let grown = bed.growth(&before);
            nodes.iter().all(|node| slow(&grown[usize::from(*node) - 1]) > 0)
        });
        self.goes_fast(bed, bytes);
    }
}

/// Every way in which a flow leaves the fast path and comes back, on one connection.
///
/// Seen red with `net.netfilter.nf_conntrack_tcp_be_liberal` kept at 0 on the nodes: nothing arrived any more after the
/// first fallback, and the rule for invalid packets had dropped some.
#[test]
fn a_stream_survives_every_change_of_path() {
    let mut bed = Bed::start(&[]);
    let stream = Stream::start(
        &bed,
        TcpStreamOptions {
            // Leaves the machine some time for everything else.
            bytes_per_second: 240 * MIB,
            checksum: true,
            cpu: None,
        },
    );
    stream.goes_fast(&bed, 256 * MIB);
    for node in [1, 2] {
        stream.falls_back(&bed, &[node], 64 * MIB, || bed.maps(node).bump_epoch());
        stream.falls_back(&bed, &[node], 64 * MIB, || {
            assert!(bed.maps(node).evict_flows() >= 2);
        });
    }
    for _ in 0..4 {
        stream.falls_back(&bed, &[1, 2], 64 * MIB, || bed.bump_epochs());
        stream.falls_back(&bed, &[1, 2], 64 * MIB, || {
            assert!(bed.evict_flows() >= 4);
        });
    }

    // Without agents everything goes on, a fallback included.
    bed.kill_agents();
    stream.goes_fast(&bed, 256 * MIB);
    stream.falls_back(&bed, &[1, 2], 64 * MIB, || bed.bump_epochs());
    bed.start_agents(&[]);
    stream.goes_fast(&bed, 128 * MIB);

    // Slow for a long time.
    bed.stop_agents();
    bed.start_agents(&["--fastpath=off"]);
    let before = bed.counters();
    stream.tcp.wait_for(128 * MIB, PATIENCE).unwrap();
    for grown in bed.growth(&before) {
        let fast = [Reason::EgressFast, Reason::IngressFast].map(|reason| grown.packets(reason));
        assert_eq!(fast, [0; 2], "{grown:?}");
    }
    bed.stop_agents();
    bed.start_agents(&[]);
    stream.goes_fast(&bed, 256 * MIB);

    stream
        .tcp
        .wait_for((2 * GIB).saturating_sub(stream.tcp.received()), PATIENCE)
        .unwrap();
    let (_, longest) = stream.tcp.silence();
    assert!(
        longest < Duration::from_secs(2),
        "nothing arrived for {longest:?}"
    );
    let digest = stream.tcp.finish().unwrap();
    assert!(digest.bytes >= 2 * GIB, "{digest:?}");
    for node in [1, 2] {
        assert_eq!(bed.invalid_drops(node), 0, "node {node}");
    }
    bed.end();
}

/// Conntrack has seen nothing of more than 2 GiB when the reset comes: by its memory of what was acknowledged, the
/// reset's sequence number lies in the past.
///
/// Seen red with `net.netfilter.nf_conntrack_tcp_ignore_invalid_rst` kept at 0 on the nodes: the reset never arrived, and the
/// server's connection stayed open.
#[test]
fn a_reset_after_two_gigabytes_past_conntrack_closes_its_entry() {
    let mut bed = Bed::start(&[]);
    // No probe, which would show conntrack where the connection has got to; an agent would set this right.
    bed.stop_agents();
    for node in bed.testbed.nodes() {
        Maps::of(node).change_config(|config| config.revalidate = 300_000_000_000);
        // How long conntrack keeps an entry after a reset.
        let timeout = "netfilter/nf_conntrack_tcp_timeout_close";
        node.space().sysctl(timeout, "1").unwrap();
    }
    let stream = Stream::start(&bed, TcpStreamOptions::default());
    bed.wait_until_fast(&stream.flow);
    let before = bed.counters();
    stream.goes_fast(&bed, 2 * GIB + 256 * MIB);
    for (node, grown) in bed.testbed.nodes().zip(bed.growth(&before)) {
        let seen = [Reason::PodProbe, Reason::IngressProbeSent, Reason::PodMiss];
        let seen = seen.map(|reason| grown.packets(reason));
        assert!(seen[0] == 0 && seen[1] == 0, "{}: {grown:?}", node.name());
    }
    let client = stream.flow.client;
    let entries = |node: u8| {
        let (address, port) = (client.ip(), client.port());
        let list = format!("conntrack -L -p tcp --orig-src {address} --orig-port-src {port}");
        bed.node(node).run(&list).unwrap()
    };
    for node in [1, 2] {
        assert!(entries(node).contains("ESTABLISHED"), "{}", entries(node));
    }
    let digest = stream.tcp.reset().unwrap();
    assert!(digest.bytes > 2 * GIB, "{digest:?}");
    for node in [1, 2] {
        wait_until(Duration::from_secs(5), "end of conntrack's entry", || {
            !entries(node).contains("ESTABLISHED")
        });
        assert_eq!(bed.invalid_drops(node), 0, "node {node}");
    }
    bed.end();
}
