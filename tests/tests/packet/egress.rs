//! `vtep_egress`: packets that it encapsulates.

use std::collections::{BTreeMap, BTreeSet};

use overlay_common::config::{Config, FIB_LOOKUP_MARK, FLAG_GBP};
use overlay_testbed::packet::{Ethernet, Frame, Ipv4, Layer4, Mac, Udp, decode};

use crate::bed::{
    Bed, Context, FAR, NARROW, NEAR, Outcome, Peer, REDIRECT, UNDERLAY, VTEP_MAC, ip, local_pod, with_bed,
};
use crate::frames::{ETH, HEADERS, encapsulated, peer_stats, ping_to_pod_of, tcp_to_pod_of, to_pod_of};

/// Asserts that `frame` leaves encapsulated for `peer`, to the byte, and counted.
fn assert_encapsulated(bed: &mut Bed, frame: &Frame, peer: &Peer, tos: u8) -> Vec<u8> {
    let inner = frame.bytes();
    let outcome = bed.egress(&inner, Context::default());
    let expected = Outcome {
        verdict: REDIRECT,
        bytes: encapsulated(&inner, peer, &outcome.bytes, tos),
        marked: None,
        priority: None,
        counters: BTreeMap::from([("encapsulated", (1, inner.len() as u64))]),
        peers: peer_stats(peer.vtep, [1, (inner.len() - ETH) as u64, 0, 0]),
    };
    assert_eq!(outcome, expected);
    outcome.bytes
}

fn source_port(sent: &[u8]) -> u16 {
    u16::from_be_bytes([sent[34], sent[35]])
}

#[test]
fn every_kind_of_inner_packet() {
    with_bed(|bed| {
        let datagram = to_pod_of(&NEAR);
        let with = |ip: Ipv4| Frame {
            ip,
            ..datagram.clone()
        };
        let ip = &datagram.ip;
        for frame in [
            datagram.clone(),
            tcp_to_pod_of(&NEAR, 100),
            tcp_to_pod_of(&NEAR, 0),
            ping_to_pod_of(&NEAR),
            with(Ipv4 {
                options: vec![0x94, 0x04, 0, 0],
                ..ip.clone()
            }),
            with(Ipv4 {
                fragment: Ipv4::MORE_FRAGMENTS,
                ..ip.clone()
            }),
            with(Ipv4 {
                fragment: 100,
                ..ip.clone()
            }),
            with(Ipv4 {
                fragment: Ipv4::DONT_FRAGMENT,
                ttl: 1,
                ..ip.clone()
            }),
            Frame {
                layer4: Layer4::Raw(132, vec![7; 20]),
                ..datagram.clone()
            },
            Frame {
                layer4: Layer4::Raw(59, vec![]),
                ..datagram.clone()
            },
        ] {
            let sent = assert_encapsulated(bed, &frame, &NEAR, 0);
            assert_eq!(
                sent[HEADERS..],
                frame.bytes()[ETH..],
                "the inner packet is carried unchanged"
            );
        }
    });
}

#[test]
fn a_decoder_written_from_the_rfc_reads_it_back() {
    with_bed(|bed| {
        let sent = assert_encapsulated(bed, &tcp_to_pod_of(&NEAR, 333), &NEAR, 0);
        // `decode` refuses frames with a wrong checksum, outside and inside.
        let outer = decode(&sent).expect("a frame");
        let inner = outer.vxlan().expect("a VXLAN packet");
        assert_eq!(inner.vxlan.header, [0x08, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(inner.frame.tcp().expect("TCP").payload, vec![0x55; 333]);
        assert_eq!(
            (inner.frame.source, inner.frame.destination),
            (Mac(VTEP_MAC), Mac(NEAR.mac))
        );
    });
}

#[test]
fn the_congestion_bits_are_carried_outside_and_the_class_is_not() {
    with_bed(|bed| {
        for (inner, outer) in [(0xb8, 0), (0xb9, 1), (0xba, 2), (0x03, 2), (0xbb, 2)] {
            let frame = to_pod_of(&NEAR);
            let frame = Frame {
                ip: Ipv4 {
                    tos: inner,
                    ..frame.ip.clone()
                },
                ..frame
            };
            assert_encapsulated(bed, &frame, &NEAR, outer);
        }
    });
}

#[test]
fn a_peer_behind_a_router_and_one_behind_a_narrow_route() {
    with_bed(|bed| {
        assert_encapsulated(bed, &to_pod_of(&FAR), &FAR, 0);
        assert_encapsulated(bed, &to_pod_of(&NARROW), &NARROW, 0);
    });
}

#[test]
fn a_next_hop_that_is_due_for_confirmation() {
    with_bed(|bed| {
        ip(&format!(
            "neigh replace {} lladdr 02:bb:00:00:00:02 dev {UNDERLAY} nud stale",
            NEAR.vtep
        ));
        assert_encapsulated(bed, &to_pod_of(&NEAR), &NEAR, 0);
    });
}

#[test]
fn the_longest_prefix_wins() {
    with_bed(|bed| {
        bed.add_subnet(NEAR.pod(0), 28, &FAR);
        let to_owner = Frame {
            eth: to_pod_of(&FAR).eth,
            ..to_pod_of(&NEAR)
        };
        let inner = to_owner.bytes();
        let sent = bed.egress(&inner, Context::default());
        assert_eq!(
            sent.peers,
            peer_stats(FAR.vtep, [1, (inner.len() - ETH) as u64, 0, 0])
        );
        assert_eq!(
            sent.bytes[50..56],
            FAR.mac,
            "the inner frame is for the owner's device"
        );
        let other = Frame {
            ip: Ipv4::new(local_pod(5), NEAR.pod(16)),
            ..to_pod_of(&NEAR)
        };
        assert_encapsulated(bed, &other, &NEAR, 0);
    });
}

#[test]
fn the_configuration_shows_in_the_headers() {
    with_bed(|bed| {
        let config = Config {
            ttl: 17,
            port: 4789u16.to_be_bytes(),
            vni: [0x12, 0x34, 0x56],
            vtep_mac: [2, 9, 9, 9, 9, 9],
            source_port_min: 5000,
            source_port_max: 5000,
            ..bed.default_config()
        };
        bed.configure(config);
        let sent = bed.egress(&to_pod_of(&NEAR).bytes(), Context::default()).bytes;
        assert_eq!(sent[22], 17, "TTL");
        assert_eq!(sent[36..38], 4789u16.to_be_bytes(), "port");
        assert_eq!(sent[46..49], [0x12, 0x34, 0x56], "VNI");
        assert_eq!(sent[56..62], [2, 9, 9, 9, 9, 9], "inner source");
        assert_eq!(source_port(&sent), 5000, "an empty range");
    });
}

#[test]
fn a_flow_keeps_its_source_port_and_flows_differ() {
    with_bed(|bed| {
        let port_of = |bed: &mut Bed, source: u16| {
            let frame = Frame::udp(
                Ethernet::new(Mac(VTEP_MAC), Mac(NEAR.mac)),
                Ipv4::new(local_pod(5), NEAR.pod(7)),
                Udp::new(source, 53, b"x"),
            );
            source_port(&bed.egress(&frame.bytes(), Context::default()).bytes)
        };
        assert_eq!(port_of(bed, 1000), port_of(bed, 1000));
        let ports: BTreeSet<_> = (1000..1100).map(|source| port_of(bed, source)).collect();
        assert!(ports.len() > 90, "{} ports for 100 flows", ports.len());
        assert!(
            ports.iter().all(|port| (32_768..60_999).contains(port)),
            "{ports:?}"
        );
    });
}

#[test]
fn the_identification_is_not_repeated() {
    with_bed(|bed| {
        let frame = to_pod_of(&NEAR).bytes();
        let ids: BTreeSet<_> = (0..64)
            .map(|_| bed.egress(&frame, Context::default()).bytes[18..20].to_vec())
            .collect();
        assert!(ids.len() > 60, "{} identifications for 64 packets", ids.len());
    });
}

/// The kernel counts on when it cuts a packet into segments. Seen red with a step of one, and with random ones.
#[test]
fn as_many_identifications_are_taken_as_there_are_segments() {
    with_bed(|bed| {
        let frame = to_pod_of(&NEAR).bytes();
        let mut id_of = |gso_segs| {
            let context = Context {
                gso_segs,
                ..Context::default()
            };
            let bytes = bed.egress(&frame, context).bytes;
            u16::from_be_bytes([bytes[18], bytes[19]])
        };
        let follows = |(segments, step): (u32, u16), id_of: &mut dyn FnMut(u32) -> u16| {
            let first = id_of(segments);
            id_of(0) == first.wrapping_add(step)
        };
        for packet in [(0, 1), (1, 1), (5, 5)] {
            // Each CPU has its own, and this thread may be moved.
            let found = (0..20).any(|_| follows(packet, &mut id_of));
            assert!(found, "{packet:?}");
        }
    });
}

#[test]
fn a_marked_packet_is_routed_by_its_mark() {
    with_bed(|bed| {
        assert!(
            bed.default_config().fib_flags & FIB_LOOKUP_MARK != 0,
            "this kernel is new enough"
        );
        let frame = to_pod_of(&NEAR).bytes();
        let context = Context {
            mark: 0x4000,
            ..Context::default()
        };
        assert_eq!(bed.egress(&frame, context).verdict, REDIRECT);
    });
}

#[test]
fn group_policy_without_a_mark() {
    with_bed(|bed| {
        let config = bed.default_config();
        bed.configure(Config {
            flags: config.flags | FLAG_GBP,
            ..config
        });
        assert_encapsulated(bed, &to_pod_of(&NEAR), &NEAR, 0);
    });
}

#[test]
fn the_largest_packet_of_each_route() {
    with_bed(|bed| {
        // 50 bytes of headers; 20 of IP and 20 of TCP are inside.
        assert_encapsulated(bed, &tcp_to_pod_of(&NEAR, 1500 - 50 - 40), &NEAR, 0);
        assert_encapsulated(bed, &tcp_to_pod_of(&NARROW, 1400 - 50 - 40), &NARROW, 0);
    });
}
