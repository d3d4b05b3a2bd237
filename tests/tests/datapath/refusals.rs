//! The peer check on a real wire: forged tunnel packets from a node that has no lease.
//!
//! The control is the same packets with `--dataplane kernel`: those that the kernel would deliver arrive then.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Stdio;
use std::time::Duration;

use overlay_testbed::inject::inject;
use overlay_testbed::packet::{ETHERTYPE_ARP, Ethernet, Frame, Ipv4, Layer4, Mac, Udp, Vxlan, VxlanFrame};
use overlay_testbed::traffic::{UdpEcho, UdpStream};
use overlay_testbed::{AgentOptions, Capture, Lease, Node, Testbed, agent};

use crate::bed::*;

const VICTIM: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
/// Another local address of the victim's node.
const OTHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 101);
/// How often each packet is sent.
const COPIES: u64 = 3;

/// A forged packet.
struct Forgery {
    /// In its payload, to recognise it.
    marker: String,
    /// What it must be counted as.
    reason: &'static str,
    /// How many of its frames are counted.
    counted: u64,
    /// Whether the kernel alone delivers it.
    kernel_delivers: bool,
    /// One packet, or its fragments.
    frames: Vec<Vec<u8>>,
}

/// Node 1 has the agent, node 2 is a peer, node 3 is the attacker. A fourth peer exists in the leases only.
fn testbed() -> Testbed {
    let testbed = two_nodes().nodes(3).build().unwrap();
    let mut leases = testbed.leases();
    leases.leave("node-3");
    leases.join(Lease::of_node(9, Ipv4Addr::new(192, 168, 0, 9)));
    testbed.publish(&leases).unwrap();
    let peer = testbed.node(2).unwrap();
    peer.configure_like_flannel(leases.entries()).unwrap();
    let victim = testbed.node(1).unwrap();
    victim
        .run(&format!("ip addr add {OTHER_ADDRESS}/32 dev eth0"))
        .unwrap();
    testbed
}

/// A packet that the agent accepts, from the attacker's device: what every forgery changes in one place.
fn honest(testbed: &Testbed, marker: &str) -> (Frame, VxlanFrame) {
    let [victim, peer, rogue] = [1, 2, 3].map(|index| testbed.node(index).unwrap());
    let inner = Frame::udp(
        Ethernet::new(peer.lease().vtep_mac, victim.lease().vtep_mac),
        Ipv4::new(Ipv4Addr::new(10, 244, 2, 2), VICTIM),
        Udp::new(4000, 4001, marker.as_bytes()),
    );
    let eth = Ethernet::new(mac_of(rogue.space(), "eth0"), mac_of(victim.space(), "eth0"));
    let outer = VxlanFrame::new(eth, Ipv4::new(peer.address(), victim.address()), inner.bytes());
    (inner, outer)
}

fn forgeries(testbed: &Testbed) -> Vec<Forgery> {
    let mut all = Vec::new();
    let mut add =
        |reason: &'static str, kernel_delivers: bool, forge: &dyn Fn(&mut Frame, &mut VxlanFrame)| {
            let marker = format!("<{}:{reason}>", all.len());
            let (mut inner, mut outer) = honest(testbed, &marker);
            let original = inner.clone();
            forge(&mut inner, &mut outer);
            if inner != original {
                outer.inner = inner.bytes();
            }
            let frames = vec![outer.bytes()];
            all.push(Forgery {
                marker,
                reason,
                counted: 1,
                kernel_delivers,
                frames,
            });
        };
    let rogue = testbed.node(3).unwrap().address();
    add("unknown_peer", true, &|_, outer| outer.ip.source = rogue);
    add("unknown_peer", true, &|_, outer| {
        outer.ip.source = Ipv4Addr::new(8, 8, 8, 8);
    });
    // A priority tag, which the kernel takes off: it must not hide the packet.
    add("unknown_peer", true, &|_, outer| {
        outer.ip.source = rogue;
        outer.eth.vlan = Some(0);
    });
    // The subnet of another peer, of the victim itself, of nobody; another peer's VTEP, and outside the overlay.
    for source in [
        [10, 244, 9, 2],
        [10, 244, 1, 77],
        [10, 244, 200, 2],
        [192, 168, 0, 9],
        [8, 8, 8, 8],
    ] {
        add("spoofed_source", true, &move |inner, _| {
            inner.ip.source = source.into();
        });
    }
    add("wrong_vni", false, &|_, outer| outer.vxlan = Vxlan::new(2));
    add("wrong_vni", false, &|_, outer| {
        outer.vxlan = Vxlan::new(0x0001_0001);
    });
    add("bad_flags", false, &|_, outer| outer.vxlan.flags = 0);
    add("bad_flags", false, &|_, outer| outer.vxlan.flags = 0x88);
    add("bad_flags", false, &|_, outer| outer.vxlan.reserved = [0, 0, 1]);
    add("bad_flags", false, &|_, outer| outer.vxlan.reserved2 = 1);
    // Not for this node's pods: the kernel forwards it to wherever it likes, here back out to node 2's pod.
    add("not_local", true, &|inner, _| {
        inner.ip.destination = Ipv4Addr::new(10, 244, 2, 2);
    });
    add("not_vtep_address", true, &|_, outer| {
        outer.ip.destination = OTHER_ADDRESS;
    });
    add("outer_options", true, &|_, outer| outer.ip.options = vec![1; 4]);
    add("inner_not_ip", false, &|inner, _| {
        inner.eth.ether_type = ETHERTYPE_ARP;
    });
    all.extend([2, 3].map(|tags| priority_tags(testbed, tags)));
    all.push(fragments(testbed));
    for length in 42..84 {
        all.push(truncated(testbed, length));
    }
    all
}

/// A stranger's tunnel packet behind more than one tag of VLAN 0.
fn priority_tags(testbed: &Testbed, tags: usize) -> Forgery {
    let marker = format!("<{tags} priority tags>");
    let (_, mut outer) = honest(testbed, &marker);
    outer.ip.source = testbed.node(3).unwrap().address();
    let mut frame = outer.bytes();
    frame.splice(12..12, [0x81, 0, 0, 0].repeat(tags));
    Forgery {
        marker,
        reason: "nested_priority_tag",
        counted: 1,
        kernel_delivers: true,
        frames: vec![frame],
    }
}

/// A tunnel packet in two outer fragments. The first is refused; the second never completes.
fn fragments(testbed: &Testbed) -> Forgery {
    let marker = "<outer fragments>".to_owned();
    let (mut inner, mut outer) = honest(testbed, &marker);
    inner.layer4 = Layer4::Udp(Udp::new(4000, 4001, format!("{marker:.<200}").as_bytes()));
    outer.inner = inner.bytes();
    outer.ip.identification = 0x4321;
    let whole = outer.bytes();
    let (first, rest) = whole[34..].split_at(80);
    let fragment = |fragment: u16, payload: &[u8]| {
        let ip = Ipv4 {
            fragment,
            ..outer.ip.clone()
        };
        Frame {
            eth: outer.eth.clone(),
            ip,
            layer4: Layer4::Raw(17, payload.to_vec()),
        }
        .bytes()
    };
    let frames = vec![fragment(Ipv4::MORE_FRAGMENTS, first), fragment(10, rest)];
    Forgery {
        marker,
        reason: "outer_fragment",
        counted: 1,
        kernel_delivers: true,
        frames,
    }
}

/// A tunnel packet that ends after `length` bytes, with lengths and checksum to match.
fn truncated(testbed: &Testbed, length: usize) -> Forgery {
    let (_, mut outer) = honest(testbed, "");
    let kept = length - 42;
    let payload = [&outer.vxlan.bytes()[..], &outer.inner].concat()[..kept].to_vec();
    outer.udp.payload = payload;
    let frame = Frame::udp(outer.eth, outer.ip, outer.udp);
    // Nothing of it is recognisable: any UDP in the pod from that port would be.
    Forgery {
        marker: format!("<truncated at {length}>"),
        reason: "truncated",
        counted: 1,
        kernel_delivers: false,
        frames: vec![frame.bytes()],
    }
}

/// How often each forgery arrived in a pod, when all are sent [`COPIES`] times.
fn arrivals(testbed: &Testbed, forgeries: &[Forgery]) -> Vec<u64> {
    let rogue = testbed.node(3).unwrap();
    let mut pods = [1, 2].map(|node| Capture::start(testbed.pod(node, 1).unwrap().space(), "eth0").unwrap());
    for copy in 0..COPIES {
        for forgery in forgeries {
            inject(rogue.space(), "eth0", &forgery.frames).unwrap();
        }
        // Sent last, so when it is there everything is.
        let (_, honest) = honest(testbed, &format!("<honest {copy}>"));
        inject(rogue.space(), "eth0", &[honest.bytes()]).unwrap();
    }
    let last = format!("<honest {}>", COPIES - 1);
    pods[0]
        .wait_for(1, SHORT, |packet| contains(packet, last.as_bytes()))
        .unwrap();
    // What the victim's node sends on to node 2 has a longer way.
    std::thread::sleep(Duration::from_millis(100));
    let mut count = |marker: &str| {
        let found = pods.iter_mut().map(|pod| {
            let packets = pod.packets().unwrap().iter();
            // UDP: a pod's complaint about a closed port quotes the marker too.
            let datagrams = packets.filter(|packet| is_received_ip(packet) && packet.bytes[23] == 17);
            datagrams
                .filter(|packet| contains(packet, marker.as_bytes()))
                .count()
        });
        u64::try_from(found.sum::<usize>()).unwrap()
    };
    forgeries.iter().map(|forgery| count(&forgery.marker)).collect()
}

/// Seen red with each of these left out: the comparison of the owner with the outer source, the lookup of the peer, the
/// check of the inner destination, of fragments, of the outer destination, of VNI and flags.
fn refuses(options: &AgentOptions) {
    let testbed = testbed();
    let node = testbed.node(1).unwrap();
    let forgeries = forgeries(&testbed);

    // The control: without the programs the kernel delivers what it is said to.
    let agent = node.start_agent(&kernel_path()).unwrap();
    for (forgery, arrived) in forgeries.iter().zip(arrivals(&testbed, &forgeries)) {
        let expected = if forgery.kernel_delivers { COPIES } else { 0 };
        assert_eq!(arrived, expected, "{} by the kernel", forgery.marker);
    }
    agent.stop().unwrap();

    let agent = node.start_agent(options).unwrap();
    let before = Counters::of(node);
    let honest_traffic = HonestTraffic::start(&testbed);
    for (forgery, arrived) in forgeries.iter().zip(arrivals(&testbed, &forgeries)) {
        assert_eq!(arrived, 0, "{} got through", forgery.marker);
    }
    let honest = honest_traffic.stop() + COPIES;
    let grown = before.growth(node);
    let mut expected = std::collections::BTreeMap::new();
    for forgery in &forgeries {
        *expected.entry(forgery.reason).or_insert(0) += forgery.counted * COPIES;
    }
    expected.insert("accepted", honest);
    let mut seen = grown.packets();
    // Answers, and what the victim says about the honest packets' closed port.
    seen.remove("encapsulated");
    assert_eq!(seen, expected);
    agent.stop().unwrap();
}

/// Datagrams between pods of known nodes, all of which must come back.
struct HonestTraffic {
    echo: UdpEcho,
    stream: UdpStream,
}

impl HonestTraffic {
    fn start(testbed: &Testbed) -> Self {
        let target = SocketAddrV4::new(VICTIM, PORT);
        let echo = UdpEcho::start(testbed.pod(1, 1).unwrap().space(), target).unwrap();
        let from = testbed.pod(2, 1).unwrap();
        let stream = UdpStream::start(from.space(), target, Duration::from_millis(2), 200).unwrap();
        Self { echo, stream }
    }

    /// How many there were, if none was lost.
    fn stop(self) -> u64 {
        let report = self.stream.stop().unwrap().expect_perfect().unwrap();
        drop(self.echo);
        report.sent
    }
}

#[test]
fn forged_packets_are_refused_and_counted() {
    refuses(&slow_path());
}

#[test]
fn by_clsact_forged_packets_are_refused_and_counted() {
    refuses(&clsact());
}

/// Packets of a peer whose lease has not been read yet must not be lost: without a list there is no check.
#[test]
fn there_is_no_check_before_the_first_list() {
    let testbed = testbed();
    let node = testbed.node(1).unwrap();
    let leases = node.read_file(AgentOptions::LEASES).unwrap();
    node.run(&format!("rm {}", node.path(AgentOptions::LEASES).display()))
        .unwrap();
    node.configure_like_flannel(testbed.leases().entries()).unwrap();
    node.write_file(AgentOptions::NET_CONF, &AgentOptions::default().net_conf)
        .unwrap();
    let mut words = vec![agent::binary().unwrap().display().to_string(), "run".to_owned()];
    for (flag, file) in [
        ("--leases", AgentOptions::LEASES),
        ("--net-config-path", AgentOptions::NET_CONF),
    ] {
        words.extend([flag.to_owned(), node.path(file).display().to_string()]);
    }
    words.extend(["--node".to_owned(), node.name().to_owned()]);
    let log = std::fs::File::create(node.path_from_outside(AgentOptions::LOG)).unwrap();
    let running = node
        .space()
        .spawn(&words, Stdio::from(log.try_clone().unwrap()), Stdio::from(log))
        .unwrap();
    wait_until("the complaint about the missing lease file", || {
        node.read_file(AgentOptions::LOG)
            .unwrap()
            .contains(AgentOptions::LEASES)
    });
    std::thread::sleep(Duration::from_millis(300));
    let stranger: Vec<_> = forgeries(&testbed).into_iter().take(1).collect();
    assert_eq!(stranger[0].reason, "unknown_peer");
    assert_eq!(arrivals(&testbed, &stranger), [COPIES]);

    node.write_file(AgentOptions::LEASES, &leases).unwrap();
    wait_until("the peer check", || {
        let status = node.agent_command(&["status", "--json"]).unwrap();
        // Until the maps are pinned there is none.
        let status = serde_json::from_str::<serde_json::Value>(&status.stdout);
        status.is_ok_and(|status| status["config"]["enforcePeers"] == true)
    });
    let before = Counters::of(node);
    assert_eq!(arrivals(&testbed, &stranger), [0]);
    assert_eq!(before.growth(node).get("unknown_peer").packets, COPIES);
    drop(running);
}

/// As long as not every peer is known (the agent could not add one) the check counts what it would refuse, and lets it
/// pass. Seen red with the check always closed.
#[test]
fn an_open_check_counts_and_lets_pass() {
    let testbed = testbed();
    let node = testbed.node(1).unwrap();
    let stranger: Vec<_> = forgeries(&testbed).into_iter().take(1).collect();
    node.start_agent(&slow_path()).unwrap().stop().unwrap();
    let before = Counters::of(node);
    assert_eq!(arrivals(&testbed, &stranger), [0]);
    open_check(node);
    assert_eq!(arrivals(&testbed, &stranger), [COPIES]);
    let grown = before.growth(node);
    assert_eq!(grown.get("failed_open").packets, COPIES);
    assert_eq!(grown.get("unknown_peer").packets, 2 * COPIES);
    // An agent that knows its peers closes it.
    let agent = node.start_agent(&slow_path()).unwrap();
    assert_eq!(arrivals(&testbed, &stranger), [0]);
    agent.stop().unwrap();
}

/// Clears `FLAG_ENFORCE_PEERS` in the pinned configuration.
fn open_check(node: &Node) {
    let path = format!("{}/CONFIG", AgentOptions::PIN_DIRECTORY);
    let entries = node.map_entries("CONFIG").unwrap();
    let bytes = entries[0]["value"].as_array().unwrap().iter();
    let mut bytes: Vec<_> = bytes.map(|byte| byte.as_str().unwrap().to_owned()).collect();
    // The second word, in which it is the lowest bit, has no other.
    assert_eq!(bytes[4..8], ["0x01", "0x00", "0x00", "0x00"]);
    bytes[4] = "0x00".to_owned();
    let bytes = bytes.join(" ");
    node.run(&format!(
        "bpftool map update pinned {path} key 0 0 0 0 value {bytes}"
    ))
    .unwrap();
}

/// Whoever leaves is a stranger at once, whoever joins is a peer.
#[test]
fn the_check_follows_the_leases() {
    let testbed = testbed();
    let node = testbed.node(1).unwrap();
    let agent = node.start_agent(&slow_path()).unwrap();
    let packet = |marker: &str| {
        let (mut inner, mut outer) = honest(&testbed, marker);
        inner.ip.source = Ipv4Addr::new(10, 244, 3, 2);
        inner.eth.source = Mac([2, 0, 0, 0, 0, 3]);
        outer.ip.source = testbed.node(3).unwrap().address();
        outer.inner = inner.bytes();
        outer.bytes()
    };
    let mut pod = Capture::start(testbed.pod(1, 1).unwrap().space(), "eth0").unwrap();
    let send = |marker: &str| inject(testbed.node(3).unwrap().space(), "eth0", &[packet(marker)]).unwrap();
    let known = |node: &Node| status(node)["peers"].to_string().contains("192.168.0.3\"");
    send("<stranger>");
    let mut leases = testbed.leases();
    node.write_leases(&leases).unwrap();
    wait_until("node 3 as a peer", || known(node));
    send("<joined>");
    pod.wait_for(1, SHORT, |packet| contains(packet, b"<joined>"))
        .unwrap();
    leases.leave("node-3");
    node.write_leases(&leases).unwrap();
    wait_until("node 3 as a stranger", || !known(node));
    let before = Counters::of(node);
    send("<left>");
    wait_until("the refusal", || {
        before.growth(node).get("unknown_peer").packets == 1
    });
    let packets = pod.packets().unwrap();
    assert!(
        !packets
            .iter()
            .any(|packet| contains(packet, b"<stranger>") || contains(packet, b"<left>"))
    );
    agent.stop().unwrap();
}
