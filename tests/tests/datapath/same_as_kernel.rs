//! The programs' packets are the kernel device's, byte for byte: only the outer IP identification and the outer UDP
//! checksum may differ.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use overlay_testbed::capture::Packet;
use overlay_testbed::inject::inject;
use overlay_testbed::packet::{Checksum, Frame, Icmp, Ipv4, Layer4, Mac, Tcp, Udp, decode};
use overlay_testbed::{AgentOptions, Capture, Node, Testbed, bound};

use crate::bed::*;

const FROM: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
const TO: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 2);

fn ip() -> Ipv4 {
    let mut ip = Ipv4::new(FROM, TO);
    ip.identification = 0x1234;
    ip
}

/// One packet of every kind that the programs encapsulate.
fn every_kind(node: &Node) -> Vec<Vec<u8>> {
    let eth = to_gateway(node);
    let udp = |ip: Ipv4, udp: Udp| Frame::udp(eth.clone(), ip, udp);
    let tcp = |ip: Ipv4, tcp: Tcp| Frame::tcp(eth.clone(), ip, tcp);
    let mut frames = Vec::new();
    // Flows: every one has its source port.
    for source in [1, 1024, 33_333, 40_000, 65_535] {
        frames.push(udp(ip(), Udp::new(source, PORT, b"datagram")));
        frames.push(tcp(ip(), Tcp::new(source, PORT, b"segment")));
        let echo = Icmp::echo_request(source, 1, b"echo");
        frames.push(Frame::icmp(eth.clone(), ip(), echo));
    }
    // Sizes, from nothing to all that fits.
    for size in [0, 1, 2, 511, 1400, 1422] {
        frames.push(udp(ip(), Udp::new(7, PORT, &vec![0x5a; size])));
    }
    frames.push(tcp(
        ip(),
        Tcp {
            flags: Tcp::SYN,
            options: vec![2, 4, 5, 0xb4],
            ..Tcp::new(9, PORT, b"")
        },
    ));
    frames.push(udp(
        ip(),
        Udp {
            checksum: Checksum::Zero,
            ..Udp::new(8, PORT, b"no checksum")
        },
    ));
    // All ECN codepoints with and without DSCP.
    for dscp in [0, 0b1010_1100, 0b1011_1000, 0b1111_1100] {
        for ecn in 0..4 {
            frames.push(udp(
                Ipv4 {
                    tos: dscp | ecn,
                    ..ip()
                },
                Udp::new(10, PORT, b"marked"),
            ));
        }
    }
    for ttl in [3, 64, 255] {
        frames.push(udp(Ipv4 { ttl, ..ip() }, Udp::new(11, PORT, b"hops")));
    }
    frames.push(udp(
        Ipv4 {
            fragment: Ipv4::DONT_FRAGMENT,
            ..ip()
        },
        Udp::new(12, PORT, b"whole"),
    ));
    frames.push(udp(
        Ipv4 {
            options: vec![1; 4],
            ..ip()
        },
        Udp::new(13, PORT, b"options"),
    ));
    // Inner fragments: first, middle, last.
    frames.push(udp(
        Ipv4 {
            fragment: Ipv4::MORE_FRAGMENTS,
            ..ip()
        },
        Udp {
            length: Some(8 + 48),
            checksum: Checksum::Zero,
            ..Udp::new(14, PORT, &[1; 16])
        },
    ));
    for (fragment, byte) in [(Ipv4::MORE_FRAGMENTS | 3, 2), (5, 3)] {
        let layer4 = Layer4::Raw(17, vec![byte; 16]);
        frames.push(Frame {
            eth: eth.clone(),
            ip: Ipv4 { fragment, ..ip() },
            layer4,
        });
    }
    // Protocols without ports: ESP, SCTP, GRE, one of nobody's.
    for protocol in [50, 132, 47, 253] {
        frames.push(Frame {
            eth: eth.clone(),
            ip: ip(),
            layer4: Layer4::Raw(protocol, vec![0; 24]),
        });
    }
    frames.iter().map(Frame::bytes).collect()
}

/// Sends `frames` from node 1's pod and returns what came over the wire and into node 2's pod.
fn send(testbed: &Testbed, frames: &[Vec<u8>]) -> (Vec<Packet>, Vec<Packet>) {
    let (from, to) = (testbed.pod(1, 1).unwrap(), testbed.pod(2, 1).unwrap());
    let mut wire = Capture::start(testbed.node(2).unwrap().space(), "eth0").unwrap();
    let mut pod = Capture::start(to.space(), "eth0").unwrap();
    inject(from.space(), "eth0", frames).unwrap();
    let wire = wire.wait_for(frames.len(), SHORT, is_received_tunnel).unwrap();
    let pod = pod.wait_for(frames.len(), SHORT, is_received_ip).unwrap();
    (wire, pod)
}

/// The frame with the fields that may differ set to zero.
fn comparable(frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    for field in [18..20, 24..26, 40..42] {
        bytes[field].fill(0);
    }
    bytes
}

/// The IP packet with `hops` routers behind it taken back.
fn before_hops(ip: &[u8], hops: u8) -> Vec<u8> {
    let mut bytes = ip.to_vec();
    bytes[8] += hops;
    bytes[10..12].fill(0);
    bytes
}

/// Seen red with the ECN of CE not mapped to ECT(0), with another flow hash, and with DF set on the outer
/// header.
fn compare(options: &AgentOptions) {
    let (testbed, agent) = facing_flannel(on_a_cable(), &kernel_path());
    let node = testbed.node(1).unwrap();
    let frames = every_kind(node);
    let (by_kernel, arrived_by_kernel) = send(&testbed, &frames);
    agent.stop().unwrap();
    let agent = node.start_agent(options).unwrap();
    let before = Counters::of(node);
    let (by_programs, arrived) = send(&testbed, &frames);
    // Replies come back as long as they like; what went out is exact.
    let grown = before.growth(node);
    let count = u64::try_from(frames.len()).unwrap();
    assert_eq!(grown.get("encapsulated").packets, count, "{:?}", grown.packets());
    assert!(
        grown
            .packets()
            .keys()
            .all(|reason| ["encapsulated", "accepted"].contains(reason)),
        "{grown:?}"
    );
    assert_eq!(grown.sent_to(testbed.node(2).unwrap().address()).packets, count);
    let inner_bytes: usize = frames.iter().map(|frame| frame.len() - 14).sum();
    assert_eq!(
        grown.sent_to(testbed.node(2).unwrap().address()).bytes,
        u64::try_from(inner_bytes).unwrap()
    );

    let mut ports = Vec::new();
    for (index, sent) in frames.iter().enumerate() {
        let (kernel, programs) = (&by_kernel[index].bytes, &by_programs[index].bytes);
        let [from_kernel, from_programs] = [kernel, programs].map(|frame| decode(frame).unwrap());
        assert_eq!(
            comparable(kernel),
            comparable(programs),
            "packet {index}: {from_kernel:?} {from_programs:?}"
        );
        // Which path it was: the kernel device writes UDP checksums, the programs cannot.
        assert_ne!(from_kernel.udp().unwrap().checksum, 0, "packet {index}");
        assert_eq!(from_programs.udp().unwrap().checksum, 0, "packet {index}");
        assert_rfc_7348(&testbed, programs, sent);
        for (pod, node) in [(&arrived_by_kernel, "kernel"), (&arrived, "programs")] {
            let (pod, sent) = (&pod[index].bytes[14..], &sent[14..]);
            assert_eq!(
                before_hops(pod, 2),
                before_hops(sent, 0),
                "packet {index} by the {node}"
            );
        }
        ports.push(from_programs.udp().unwrap().source_port);
    }
    ports.sort_unstable();
    ports.dedup();
    assert!(ports.len() > 10, "flows share source ports: {ports:?}");
    agent.stop().unwrap();
}

/// RFC 7348, section 5, and what flannel's device puts around it.
fn assert_rfc_7348(testbed: &Testbed, frame: &[u8], sent: &[u8]) {
    let [from, to] = [1, 2].map(|index| testbed.node(index).unwrap());
    let outer = decode(frame).unwrap();
    assert_eq!(outer.source, mac_of_underlay(from));
    assert_eq!(outer.destination, mac_of_underlay(to));
    let ip = outer.ipv4().unwrap();
    assert_eq!((ip.source, ip.destination), (from.address(), to.address()));
    assert_eq!(
        (ip.ttl, ip.protocol, ip.dont_fragment, ip.more_fragments),
        (64, 17, false, false)
    );
    assert_eq!((ip.fragment_offset, ip.options.len()), (0, 0));
    assert_eq!(usize::from(ip.total_length), frame.len() - 14);
    // DSCP is not copied, ECN is, but CE becomes ECT(0) (RFC 3168, section 9.1.1).
    let ecn = sent[15] & 3;
    assert_eq!(ip.tos, if ecn == 3 { 2 } else { ecn });
    let udp = outer.udp().unwrap();
    assert_eq!(udp.destination_port, 8472);
    assert!((32_768..61_000).contains(&udp.source_port), "{}", udp.source_port);
    assert_eq!(usize::from(udp.length), frame.len() - 34);
    let inner = outer.vxlan().unwrap();
    assert_eq!(inner.vxlan.header, [8, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(
        (inner.frame.source, inner.frame.destination),
        (from.lease().vtep_mac, to.lease().vtep_mac)
    );
    assert_eq!(before_hops(&inner.bytes[14..], 1), before_hops(&sent[14..], 0));
}

fn mac_of_underlay(node: &Node) -> Mac {
    mac_of(node.space(), "eth0")
}

#[test]
fn every_kind_of_packet_is_encapsulated_as_the_kernel_does() {
    compare(&slow_path());
}

#[test]
fn by_clsact_every_kind_of_packet_is_encapsulated_as_the_kernel_does() {
    compare(&clsact());
}

/// The node's own packets: never seen by a veth, with checksums and source address left to the stack.
#[test]
fn the_nodes_own_packets_are_encapsulated_as_the_kernel_does() {
    let (testbed, agent) = facing_flannel(on_a_cable(), &kernel_path());
    let node = testbed.node(1).unwrap();
    let send = || {
        let mut wire = Capture::start(testbed.node(2).unwrap().space(), "eth0").unwrap();
        node.space()
            .enter(|| {
                for source in 20_000..20_010 {
                    // Not connected: a connected socket has a random hash of its own.
                    let socket = bound(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, source)))?;
                    socket.send_to(b"from the node", SocketAddrV4::new(TO, PORT))?;
                }
                Ok(())
            })
            .unwrap();
        wire.wait_for(10, SHORT, is_received_tunnel).unwrap()
    };
    let by_kernel = send();
    agent.stop().unwrap();
    let agent = node.start_agent(&slow_path()).unwrap();
    let before = Counters::of(node);
    let by_programs = send();
    assert_eq!(before.growth(node).get("encapsulated").packets, 10);
    for (kernel, programs) in by_kernel.iter().zip(&by_programs) {
        let [mut kernel_bytes, mut program_bytes] =
            [kernel, programs].map(|packet| comparable(&packet.bytes));
        // The stack numbers its own packets: inner identification and header checksum.
        for bytes in [&mut kernel_bytes, &mut program_bytes] {
            bytes[INNER_IP + 4..INNER_IP + 6].fill(0);
            bytes[INNER_IP + 10..INNER_IP + 12].fill(0);
        }
        assert_eq!(kernel_bytes, program_bytes);
        let outer = decode(&programs.bytes).unwrap();
        assert_eq!(outer.udp().unwrap().checksum, 0);
        let inner = outer.vxlan().unwrap().frame;
        assert_eq!(inner.ipv4().unwrap().source, node.lease().subnet);
        assert_eq!(inner.udp().unwrap().payload, b"from the node");
    }
    agent.stop().unwrap();
}
