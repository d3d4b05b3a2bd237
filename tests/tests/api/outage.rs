//! The API server is away, comes back, or has forgotten: no packet is lost, and nobody lists more than needed.

use std::net::SocketAddrV4;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::ensure;
use overlay_testbed::traffic::{PingStream, UdpEcho, UdpStream};
use overlay_testbed::{Lease, Mac, Node, eventually};

use crate::agent::{KubeAgent, RETRIED};
use crate::bed::{Bed, DEVICE, absent};
use crate::peers::{AT_ONCE, wait_peers};

const OUTAGE: Duration = Duration::from_secs(60);
const PORT: u16 = 5001;

/// The lease that the agent on `node` has published.
fn lease(node: &Node) -> Lease {
    let text = node.run(&format!("cat /sys/class/net/{DEVICE}/address")).unwrap();
    let mut octets = text
        .trim()
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).unwrap());
    Lease {
        vtep_mac: Mac(std::array::from_fn(|_| octets.next().unwrap())),
        ..node.lease()
    }
}

/// Everything about the overlay that the kernel has. IPv6 addresses of the devices become valid meanwhile.
fn tables(node: &Node) -> String {
    let commands = [
        format!("ip -d link show dev {DEVICE}"),
        "ip -4 route show table all".to_owned(),
        format!("ip -4 neigh show dev {DEVICE}"),
        format!("bridge fdb show dev {DEVICE}"),
    ];
    commands.map(|command| node.run(&command).unwrap()).join("\n")
}

/// Traffic between two pods, in both directions.
struct Traffic {
    pings: [PingStream; 2],
    datagrams: [UdpStream; 2],
    _echoes: [UdpEcho; 2],
}

impl Traffic {
    fn start(nodes: [&Node; 2]) -> Self {
        let pods = nodes.map(|node| node.pod(1).unwrap());
        let [first, second] = pods;
        let target = |pod: &overlay_testbed::Pod| SocketAddrV4::new(pod.address(), PORT);
        let echoes = pods.map(|pod| UdpEcho::start(pod.space(), target(pod)).unwrap());
        let interval = Duration::from_millis(20);
        let both = [(first, second), (second, first)];
        Self {
            pings: both.map(|(from, to)| PingStream::start(from.space(), to.address(), interval).unwrap()),
            datagrams: both
                .map(|(from, to)| UdpStream::start(from.space(), target(to), interval, 200).unwrap()),
            _echoes: echoes,
        }
    }

    fn expect_perfect(self) {
        for pings in self.pings {
            pings.stop().unwrap().expect_lossless().unwrap();
        }
        for datagrams in self.datagrams {
            datagrams.stop().unwrap().expect_perfect().unwrap();
        }
    }
}

/// A minute without the API server: traffic flows, tables stay byte for byte, the agents say it once and stay ready; then they go
/// on where they were, without a list, and what changed meanwhile is right.
///
/// Seen red with a source that lists again after every failed watch.
#[test]
fn an_outage_of_a_minute_changes_nothing() {
    let mut bed = Bed::start();
    let (one, two) = (bed.machine(), bed.machine());
    bed.create_absent(&absent(1));
    let agents = [KubeAgent::start(&one), KubeAgent::start(&two)];
    let both = [&one, &two];
    wait_peers(&one, &[absent(1), lease(&two)], AT_ONCE);
    wait_peers(&two, &[absent(1), lease(&one)], AT_ONCE);
    let before = both.map(tables);
    let traffic = Traffic::start(both);
    let patches = both.map(|node| bed.count(node, "patch", "nodes/status"));

    let since = Instant::now();
    bed.server.cut().unwrap();
    bed.create_absent(&absent(2));
    bed.server.delete_node(&absent(1).node).unwrap();
    while since.elapsed() < OUTAGE {
        sleep(Duration::from_secs(5));
        assert_eq!(both.map(tables), before);
        agents.iter().for_each(|agent| agent.ready().unwrap());
    }
    bed.server.reconnect().unwrap();

    wait_peers(&one, &[absent(2), lease(&two)], RETRIED);
    wait_peers(&two, &[absent(2), lease(&one)], RETRIED);
    traffic.expect_perfect();
    for (node, agent) in both.into_iter().zip(agents) {
        assert_eq!(bed.count(node, "list", "nodes"), 1, "{:#?}", bed.requests(node));
        let complaints = agent.lines(&["stay in force"]);
        // None, when TCP had not given up by then.
        assert!(complaints.len() <= 3, "{}", agent.log());
        assert_eq!(
            agent.lines(&["answers again"]).is_empty(),
            complaints.is_empty(),
            "{}",
            agent.log()
        );
        agent.stop();
    }
    let after = both.map(|node| bed.count(node, "patch", "nodes/status"));
    assert_eq!(after, patches, "nothing that was published had changed");
}

/// An agent that starts without an API server does not know its Node. What it knows is what the one before has left.
///
/// Seen red with pods that are looked after once the Node is known.
#[test]
fn an_agent_that_starts_in_an_outage_looks_after_pods() {
    let mut bed = Bed::start();
    let mut node = bed.machine();
    KubeAgent::start(&node).stop();
    bed.server.cut().unwrap();
    let agent = KubeAgent::spawn(&node, &[]);
    let device = node.add_pod().unwrap().host_veth().to_owned();
    let ifindex = node.run(&format!("cat /sys/class/net/{device}/ifindex")).unwrap();
    let ifindex: u64 = ifindex.trim().parse().unwrap();
    eventually(AT_ONCE, "the fast path for a new pod", || {
        let endpoints = node.map_entries("ENDPOINTS")?;
        let known = endpoints.iter().any(|entry| entry["formatted"]["key"] == ifindex);
        ensure!(known, "{endpoints:?}");
        Ok(())
    })
    .unwrap();
    agent.wait_not_ready(&[], AT_ONCE);
    bed.server.reconnect().unwrap();
    agent.wait_ready(RETRIED);
    agent.stop();
}

/// The server restarts: connections end at once, and it may have forgotten where watches were. At most one list each, and
/// changes are followed again. Then it forgets for certain (compaction): one list, and deletions in the gap are followed.
///
/// Seen red with a source that goes on watching from the version that is too old.
#[test]
fn restart_and_compaction() {
    let mut bed = Bed::start();
    let node = bed.machine();
    (1..=3).for_each(|number| bed.create_absent(&absent(number)));
    let agent = KubeAgent::start(&node);
    wait_peers(&node, &[absent(1), absent(2), absent(3)], AT_ONCE);

    bed.server.kill_all().unwrap();
    bed.server.resume().unwrap();
    bed.create_absent(&absent(4));
    wait_peers(&node, &[absent(1), absent(2), absent(3), absent(4)], RETRIED);
    let lists = bed.count(&node, "list", "nodes");
    assert!(lists <= 2, "{:#?}", bed.requests(&node));

    // First without its old connections: the kernel would still deliver what a killed server has written.
    bed.server.cut().unwrap();
    bed.server.kill_server().unwrap();
    bed.server.resume().unwrap();
    bed.server.delete_node(&absent(2).node).unwrap();
    bed.create_absent(&absent(5));
    bed.server.kill_server().unwrap();
    bed.server.compact().unwrap();
    bed.server.resume().unwrap();
    let before = tables(&node);
    bed.server.reconnect().unwrap();
    wait_peers(&node, &[absent(1), absent(3), absent(4), absent(5)], RETRIED);
    assert_eq!(
        bed.count(&node, "list", "nodes"),
        lists + 1,
        "{:#?}
{}",
        bed.requests(&node),
        agent.log()
    );
    assert_ne!(tables(&node), before);
    let gone = bed
        .requests(&node)
        .iter()
        .filter(|request| request.code == 410)
        .count();
    assert!(gone <= 1, "{gone} answers 410");
    // And it watches again.
    bed.server.delete_node(&absent(5).node).unwrap();
    wait_peers(&node, &[absent(1), absent(3), absent(4)], AT_ONCE);
    agent.stop();
}

/// A server that hangs (SIGSTOP) keeps its connections, and nothing comes over them.
///
/// Seen red with a watch that is given up after 2 s of silence, and a list after each watch.
#[test]
fn a_server_that_hangs_is_waited_for() {
    let mut bed = Bed::start();
    let node = bed.machine();
    bed.create_absent(&absent(1));
    let agent = KubeAgent::start(&node);
    wait_peers(&node, &[absent(1)], AT_ONCE);
    bed.server.freeze().unwrap();
    sleep(Duration::from_secs(5));
    agent.ready().unwrap();
    bed.server.thaw().unwrap();
    bed.create_absent(&absent(2));
    wait_peers(&node, &[absent(1), absent(2)], AT_ONCE);
    assert_eq!(bed.count(&node, "list", "nodes"), 1, "{:#?}", bed.requests(&node));
    agent.stop();
}
