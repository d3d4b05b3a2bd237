//! The testbed itself: isolated, complete, honest about packets, and gone without a trace.
//!
//! Needs root; it says so otherwise.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test suite panic like its tests"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::time::Duration;

use overlay_testbed::capture::Packet;
use overlay_testbed::footprint::{Footprint, Machine};
use overlay_testbed::inject::inject;
use overlay_testbed::node::Protocol;
use overlay_testbed::packet::{Ethernet, Frame, Ipv4, Tcp, Udp, decode};
use overlay_testbed::traffic::{PingOptions, PingStream, TcpTransfer, UdpEcho, UdpStream, UdpTransfer, ping};
use overlay_testbed::{Builder, Capture, Offloads, PodPlumbing, Testbed, Underlay, detached};

const PORT: u16 = 5000;
const SHORT: Duration = Duration::from_secs(5);
const MIB: u64 = 1 << 20;
/// Payload of a TCP segment with timestamps that fits a pod's MTU of 1450 bytes.
const SEGMENT: u64 = 1398;

/// A testbed with nodes as flannel would leave them.
fn flannel(builder: Builder) -> Testbed {
    let testbed = builder.build().unwrap();
    testbed.configure_like_flannel().unwrap();
    testbed
}

fn two_nodes() -> Builder {
    Testbed::builder().nodes(2).pods_per_node(1)
}

/// Every kind of traffic between the two pods, with every byte accounted for.
fn assert_connected(testbed: &Testbed) {
    let (from, to) = (testbed.pod(1, 1).unwrap(), testbed.pod(2, 1).unwrap());
    for (client, server) in [(from, to), (to, from)] {
        ping(client.space(), server.address(), &PingOptions::default())
            .unwrap()
            .expect_lossless()
            .unwrap();
        let tcp = TcpTransfer::new(server.address(), PORT, 3 * MIB + 7)
            .run(client.space(), server.space())
            .unwrap();
        assert_eq!(tcp.client_seen, client.address());
        UdpTransfer::new(server.address(), PORT, 100, 1400)
            .run(client.space(), server.space())
            .unwrap()
            .expect_perfect()
            .unwrap();
    }
}

#[test]
fn pods_reach_each_other_over_nodes_configured_like_flannel() {
    assert_connected(&flannel(two_nodes()));
}

#[test]
fn pods_reach_each_other_over_a_router() {
    assert_connected(&flannel(two_nodes().underlay(Underlay::Routed)));
}

#[test]
fn pods_reach_each_other_over_one_wire() {
    assert_connected(&flannel(
        two_nodes().underlay(Underlay::Direct).offloads(Offloads::WIRE),
    ));
}

#[test]
fn pods_of_the_cni_plugins_look_like_ours() {
    let by_plugins = flannel(two_nodes().pod_plumbing(PodPlumbing::CniPlugins));
    assert_connected(&by_plugins);
    let by_hand = flannel(two_nodes());
    for command in ["ip route", "ip -br -4 addr show eth0"] {
        let [plugins, hand] = [&by_plugins, &by_hand].map(|testbed| {
            let text = testbed.pod(1, 1).unwrap().run(command).unwrap();
            let words = |line: &str| {
                line.split_whitespace()
                    .filter(|word| !word.starts_with("eth0@"))
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            let mut lines: Vec<_> = text.lines().map(words).collect();
            lines.sort();
            lines
        });
        assert_eq!(plugins, hand, "{command}");
    }
    for fact in ["mtu 1450", "hairpin on", "cni0"] {
        for testbed in [&by_plugins, &by_hand] {
            let node = testbed.node(1).unwrap();
            let veth = node.pod(1).unwrap().host_veth();
            let link = node.run(&format!("ip -d link show {veth}")).unwrap();
            assert!(link.contains(fact), "{fact}: {link}");
        }
    }
}

#[test]
fn the_flannel_device_is_the_one_that_flannel_makes() {
    let testbed = flannel(two_nodes());
    let link = testbed.node(1).unwrap().run("ip -d link show flannel.1").unwrap();
    // Seen on Linux 6.18 after the netlink message that flannel v0.28 sends.
    let expected = [
        "mtu 1450",
        "link/ether 02:00:00:00:00:01",
        "vxlan id 1 local 192.168.0.1 dev eth0 srcport 0 0 dstport 8472 nolearning ttl auto ageing 300 udpcsum",
        "noudp6zerocsumtx noudp6zerocsumrx",
    ];
    for part in expected {
        assert!(link.contains(part), "{part:?} is not in {link}");
    }
    let routes = testbed.node(1).unwrap().run("ip route").unwrap();
    assert!(
        routes.contains("10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink"),
        "{routes}"
    );
}

#[test]
fn two_testbeds_do_not_meet() {
    let (first, second) = (flannel(two_nodes()), flannel(two_nodes()));
    assert_ne!(first.run(), second.run());
    assert_connected(&first);
    assert_connected(&second);
    // The same address belongs to another pod in each, and ending one leaves the other alone.
    let nobody = first.node(2).unwrap().address();
    drop(first);
    ping(second.node(1).unwrap().space(), nobody, &PingOptions::default())
        .unwrap()
        .expect_lossless()
        .unwrap();
    assert_connected(&second);
}

#[test]
fn kill_9_leaves_nothing_behind() {
    let before = Machine::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_hold"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut holders = Vec::new();
    let mut run = None;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let (name, value) = line.split_once(' ').unwrap();
        if name == "ready" {
            run = Some(value.to_owned());
            break;
        }
        holders.push(value.parse().unwrap());
    }
    let run = run.unwrap();
    let footprint = Footprint::of_holders(&run, holders.into_iter(), before);
    assert_eq!(
        footprint.counts(),
        (6, 0),
        "network and mount namespace of two nodes and the fabric"
    );
    assert!(!detached::processes_of(&run).unwrap().is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    footprint.expect_gone(SHORT).unwrap();
}

#[test]
fn a_panic_leaves_nothing_behind() {
    let mut footprint = None;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let testbed = two_nodes().build().unwrap();
        footprint = Some(Footprint::of(&testbed).unwrap());
        panic!("on purpose: the state of the nodes above belongs to this test");
    }));
    assert!(outcome.is_err());
    footprint.unwrap().expect_gone(SHORT).unwrap();
}

#[test]
fn a_detached_testbed_lives_until_it_is_cleaned() {
    let testbed = flannel(two_nodes());
    let footprint = Footprint::of(&testbed).unwrap();
    let (space, target) = (
        testbed.pod(1, 1).unwrap().space().clone(),
        testbed.pod(2, 1).unwrap().address(),
    );
    let record = testbed.detach().unwrap();
    ping(&space, target, &PingOptions::default())
        .unwrap()
        .expect_lossless()
        .unwrap();
    assert!(footprint.expect_gone(Duration::ZERO).is_err());
    drop(space);
    let cleaned = detached::clean_one(&record).unwrap();
    assert_eq!(cleaned.ended, ["fabric", "node-1", "node-2"]);
    assert!(cleaned.gone.is_empty());
    footprint.expect_gone(SHORT).unwrap();
    assert!(!record.exists());
}

#[test]
fn cleaning_ends_only_what_is_proven_to_be_a_testbed() {
    let testbed = Testbed::builder().nodes(1).pods_per_node(0).build().unwrap();
    let holder = testbed.identities().last().unwrap().clone();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let record = std::env::temp_dir().join(format!("{}.json", testbed.run()));
    // Right process number, but another start, another testbed, another boot.
    for (run, start_time, boot) in [
        (testbed.run(), holder.start_time + 1, boot.trim()),
        ("another", holder.start_time, boot.trim()),
        (testbed.run(), holder.start_time, "another"),
    ] {
        let text = format!(
            "{{\"run\":{run:?},\"boot\":{boot:?},\"holders\":[{{\"name\":\"n\",\"pid\":{},\"start_time\":{start_time}}}]}}",
            holder.pid
        );
        fs::write(&record, text).unwrap();
        let cleaned = detached::clean_one(&record).unwrap();
        assert_eq!((cleaned.ended.len(), cleaned.gone.len()), (0, 1));
    }
    testbed.node(1).unwrap().run("true").unwrap();
}

#[test]
fn a_command_that_hangs_is_ended_and_named() {
    let testbed = Testbed::builder().nodes(1).pods_per_node(0).build().unwrap();
    let space = testbed.node(1).unwrap().space();
    let error = space
        .output_args(&["sleep", "1234"], None, Duration::from_millis(100))
        .unwrap_err();
    assert!(
        error.to_string().contains("node-1: `sleep 1234` did not end"),
        "{error:#}"
    );
    assert!(!space.run("ps -e").unwrap().contains("sleep"));
    let error = space.run("ip link show nothing").unwrap_err();
    assert!(
        error.to_string().contains("\"nothing\" does not exist"),
        "{error:#}"
    );
}

#[test]
fn nodes_come_and_go_while_others_talk() {
    let mut testbed = flannel(Testbed::builder().nodes(3).pods_per_node(1));
    let (from, to) = (
        testbed.pod(1, 1).unwrap().clone(),
        testbed.pod(2, 1).unwrap().clone(),
    );
    let target = SocketAddrV4::new(to.address(), PORT);
    let echo = UdpEcho::start(to.space(), target).unwrap();
    let pace = Duration::from_millis(5);
    let pings = PingStream::start(from.space(), to.address(), pace).unwrap();
    let datagrams = UdpStream::start(from.space(), target, pace, 100).unwrap();
    testbed.add_node().unwrap();
    testbed.remove_node(3).unwrap();
    let joined = testbed.node(4).unwrap();
    joined.configure_like_flannel(testbed.leases().entries()).unwrap();
    for index in [1, 2] {
        let peers = [joined.lease()];
        testbed
            .node(index)
            .unwrap()
            .add_flannel_peers(overlay_testbed::node::FlannelDevice::default(), &peers)
            .unwrap();
    }
    ping(
        joined.pod(1).unwrap().space(),
        to.address(),
        &PingOptions::default(),
    )
    .unwrap()
    .expect_lossless()
    .unwrap();
    assert!(testbed.node(3).is_err());
    assert!(datagrams.stop().unwrap().expect_perfect().unwrap().sent > 10);
    assert!(pings.stop().unwrap().expect_lossless().unwrap().sent > 10);
    drop(echo);
}

#[test]
fn loss_is_seen() {
    let testbed = flannel(two_nodes());
    let (from, to) = (testbed.pod(1, 1).unwrap(), testbed.pod(2, 1).unwrap());
    // The statistic module drops every fourth packet towards the pod.
    testbed
        .node(2)
        .unwrap()
        .run("iptables -I FORWARD -d 10.244.2.2 -p udp -m statistic --mode nth --every 4 --packet 0 -j DROP")
        .unwrap();
    let report = UdpTransfer::new(to.address(), PORT, 100, 64)
        .run(from.space(), to.space())
        .unwrap();
    assert_eq!((report.sent, report.received, report.corrupted), (100, 75, 0));
    testbed
        .node(2)
        .unwrap()
        .run("iptables -I FORWARD -d 10.244.2.2 -p icmp -m statistic --mode nth --every 4 --packet 0 -j DROP")
        .unwrap();
    let report = ping(
        from.space(),
        to.address(),
        &PingOptions {
            count: 8,
            ..PingOptions::default()
        },
    )
    .unwrap();
    assert_eq!((report.sent, report.received), (8, 6));
    assert!(report.expect_lossless().is_err());
    let nobody = Ipv4Addr::new(10, 244, 2, 99);
    let unreachable = TcpTransfer {
        timeout: Duration::from_millis(300),
        ..TcpTransfer::new(nobody, PORT, 1)
    }
    .listening_at(SocketAddrV4::new(to.address(), PORT))
    .run(from.space(), to.space())
    .unwrap_err();
    assert!(
        format!("{unreachable:#}").contains("10.244.2.99"),
        "{unreachable:#}"
    );
}

#[test]
fn a_service_address_leads_to_its_backend() {
    let testbed = flannel(two_nodes());
    let (from, to) = (testbed.pod(1, 1).unwrap(), testbed.pod(2, 1).unwrap());
    let (vip, backend) = (
        Ipv4Addr::new(10, 96, 0, 10),
        SocketAddrV4::new(to.address(), 8080),
    );
    let node = testbed.node(1).unwrap();
    node.service(vip, 80, Protocol::Tcp, backend).unwrap();
    for client in [from.space(), node.space()] {
        TcpTransfer::new(vip, 80, MIB)
            .listening_at(backend)
            .run(client, to.space())
            .unwrap();
    }
    let flows = node.run("conntrack -L -d 10.96.0.10").unwrap();
    assert!(flows.contains("src=10.244.2.2"), "{flows}");
}

#[test]
fn flannels_masquerading_spares_pod_addresses_only_inside_the_overlay() {
    let testbed = flannel(two_nodes());
    for node in testbed.nodes() {
        node.flannel_masquerade().unwrap();
    }
    let (pod, node) = (testbed.pod(1, 1).unwrap(), testbed.node(2).unwrap());
    assert_connected(&testbed);
    let outside = TcpTransfer::new(node.address(), PORT, 100)
        .run(pod.space(), node.space())
        .unwrap();
    assert_eq!(outside.client_seen, testbed.node(1).unwrap().address());
}

#[test]
fn a_cable_carries_valid_vxlan_packets() {
    let testbed = flannel(two_nodes().offloads(Offloads::CABLE).ipv6(false));
    let (from, to) = (testbed.pod(1, 1).unwrap(), testbed.pod(2, 1).unwrap());
    let mut wire = Capture::start(testbed.node(2).unwrap().space(), "eth0").unwrap();
    TcpTransfer::new(to.address(), PORT, MIB)
        .run(from.space(), to.space())
        .unwrap();
    UdpTransfer::new(to.address(), PORT, 90, 1400)
        .segmented()
        .run(from.space(), to.space())
        .unwrap()
        .expect_perfect()
        .unwrap();
    ping(from.space(), to.address(), &PingOptions::default())
        .unwrap()
        .expect_lossless()
        .unwrap();
    let tunnel = |packet: &Packet| packet.bytes.get(36..38) == Some(&[0x21, 0x18]);
    let packets = wire
        .wait_for(usize::try_from(MIB / SEGMENT).unwrap() + 90 + 6, SHORT, tunnel)
        .unwrap();
    let mut kinds = [0; 3];
    for packet in &packets {
        assert!(
            packet.bytes.len() <= 1514,
            "{} bytes on the wire",
            packet.bytes.len()
        );
        let outer = decode(&packet.bytes).unwrap();
        let inner = outer.vxlan().unwrap();
        assert_eq!(inner.vxlan.header, [8, 0, 0, 0, 0, 0, 1, 0]);
        let direction = if packet.outgoing { (2, 1) } else { (1, 2) };
        let ends = |ip: &overlay_testbed::packet::DecodedIpv4| {
            (
                ip.source.octets()[if ip.source.octets()[0] == 10 { 2 } else { 3 }],
                ip.destination.octets()[if ip.source.octets()[0] == 10 { 2 } else { 3 }],
            )
        };
        assert_eq!(ends(outer.ipv4().unwrap()), direction);
        assert_eq!(ends(inner.frame.ipv4().unwrap()), direction);
        kinds[0] += usize::from(inner.frame.tcp().is_ok());
        kinds[1] += usize::from(inner.frame.udp().is_ok());
        kinds[2] += usize::from(inner.frame.icmp().is_ok());
    }
    assert_eq!((kinds[1], kinds[2]), (90, 6), "{kinds:?}");
    let file = std::env::temp_dir().join(format!("{}.pcap", testbed.run()));
    wire.save(&file).unwrap();
    let size = fs::metadata(&file).unwrap().len();
    fs::remove_file(&file).unwrap();
    assert!(size > MIB, "{size}");
}

#[test]
fn large_packets_cross_whole_by_default_and_are_put_together_again_on_a_wire() {
    for (offloads, underlay) in [
        (Offloads::DEFAULT, Underlay::Switch),
        (Offloads::WIRE, Underlay::Direct),
    ] {
        let testbed = flannel(two_nodes().underlay(underlay).offloads(offloads));
        let (from, to) = (testbed.pod(1, 1).unwrap(), testbed.pod(2, 1).unwrap());
        let mut capture = Capture::start(testbed.node(2).unwrap().space(), "eth0").unwrap();
        TcpTransfer::new(to.address(), PORT, 8 * MIB)
            .run(from.space(), to.space())
            .unwrap();
        let largest = capture
            .packets()
            .unwrap()
            .iter()
            .map(|packet| packet.bytes.len())
            .max()
            .unwrap();
        assert!(largest > 10_000, "{offloads:?}: {largest}");
    }
}

#[test]
fn injected_frames_arrive_unchanged() {
    let testbed = Testbed::builder()
        .nodes(2)
        .pods_per_node(0)
        .ipv6(false)
        .build()
        .unwrap();
    let (from, to) = (testbed.node(1).unwrap(), testbed.node(2).unwrap());
    let mut capture = Capture::start(to.space(), "eth0").unwrap();
    let ip = Ipv4::new(from.address(), to.address());
    let frames = [
        Frame::udp(Ethernet::default(), ip.clone(), Udp::new(1, 2, b"one")).bytes(),
        Frame::tcp(Ethernet::default(), ip.clone(), Tcp::new(3, 4, &[7; 1400])).bytes(),
        Frame::udp(Ethernet::default(), ip, Udp::new(5, 6, b"three")).bytes(),
    ];
    inject(from.space(), "eth0", &frames).unwrap();
    let seen = capture
        .wait_for(3, SHORT, |packet| {
            packet.bytes.get(6..12) == Some(&[2, 0, 0, 0, 0, 0x50])
        })
        .unwrap();
    let seen: Vec<_> = seen.into_iter().map(|packet| packet.bytes).collect();
    assert_eq!(seen, frames);
}
