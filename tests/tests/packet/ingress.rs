//! `underlay_ingress`: packets that it lets pass.

use std::collections::BTreeMap;

use overlay_common::config::{ABI_VERSION, Config, FLAG_GBP, FLAG_PORT_SHARED};
use overlay_common::reason::Reason;
use overlay_testbed::packet::{
    ETHERTYPE_ARP, ETHERTYPE_IPV6, Ethernet, Frame, Ipv4, Mac, Tcp, Udp, Vxlan, VxlanFrame,
};

use crate::bed::{
    Bed, ELSEWHERE, FAR, NEAR, NEAR_MAC, OTHER_LOCAL, Outcome, PASS, UNDERLAY_MAC, VTEP, local_pod, with_bed,
};
use crate::frames::{HEADERS, peer_stats, tunnel, tunnel_with, untouched};

fn assert_accepted(bed: &mut Bed, frame: &VxlanFrame, vtep: std::net::Ipv4Addr) {
    let bytes = frame.bytes();
    let expected = Outcome {
        verdict: PASS,
        bytes: bytes.clone(),
        marked: None,
        priority: None,
        counters: BTreeMap::from([("accepted", (1, bytes.len() as u64))]),
        peers: peer_stats(vtep, [0, 0, 1, (bytes.len() - HEADERS) as u64]),
    };
    assert_eq!(bed.ingress(&bytes), expected);
}

/// Neither changed nor counted.
fn assert_not_ours(bed: &mut Bed, frame: &[u8]) {
    assert_eq!(bed.ingress(frame), untouched(frame, PASS, &[]));
}

#[test]
fn a_tunnel_packet_of_a_peer() {
    with_bed(|bed| {
        assert_accepted(bed, &tunnel(), NEAR.vtep);
        assert_accepted(
            bed,
            &tunnel_with(FAR.vtep, VTEP, FAR.pod(200), local_pod(0)),
            FAR.vtep,
        );
        let host = tunnel_with(NEAR.vtep, VTEP, NEAR.subnet, local_pod(255));
        assert_accepted(bed, &host, NEAR.vtep);
        let node = tunnel_with(NEAR.vtep, VTEP, NEAR.vtep, local_pod(5));
        assert_accepted(bed, &node, NEAR.vtep);
    });
}

#[test]
fn the_udp_checksum_and_the_dont_fragment_bit_are_the_senders_choice() {
    with_bed(|bed| {
        let zero = Udp {
            checksum: overlay_testbed::packet::Checksum::Zero,
            ..Udp::default()
        };
        assert_accepted(
            bed,
            &VxlanFrame {
                udp: zero,
                ..tunnel()
            },
            NEAR.vtep,
        );
        let ip = Ipv4 {
            fragment: Ipv4::DONT_FRAGMENT,
            tos: 3,
            ttl: 1,
            ..tunnel().ip
        };
        assert_accepted(bed, &VxlanFrame { ip, ..tunnel() }, NEAR.vtep);
    });
}

#[test]
fn the_smallest_inner_packet() {
    with_bed(|bed| {
        let mut frame = tunnel();
        frame.inner.truncate(14 + 20);
        assert_accepted(bed, &frame, NEAR.vtep);
    });
}

#[test]
fn group_policy_fields_where_configured() {
    with_bed(|bed| {
        let config = bed.default_config();
        bed.configure(Config {
            flags: config.flags | FLAG_GBP,
            ..config
        });
        assert_accepted(bed, &tunnel(), NEAR.vtep);
        for reserved in [[0, 0, 0], [0x08, 0x12, 0x34], [0x40, 0xff, 0xff]] {
            let vxlan = Vxlan {
                flags: 0x88,
                reserved,
                ..Vxlan::new(1)
            };
            assert_accepted(bed, &VxlanFrame { vxlan, ..tunnel() }, NEAR.vtep);
        }
    });
}

#[test]
fn other_traffic_of_the_underlay_is_not_even_counted() {
    with_bed(|bed| {
        let eth = tunnel().eth;
        let ip = Ipv4::new(NEAR.vtep, VTEP);
        assert_not_ours(
            bed,
            &Frame::tcp(eth.clone(), ip.clone(), Tcp::new(8472, 8472, b"x")).bytes(),
        );
        assert_not_ours(
            bed,
            &Frame::udp(eth.clone(), ip.clone(), Udp::new(8472, 53, b"x")).bytes(),
        );
        for ether_type in [ETHERTYPE_ARP, ETHERTYPE_IPV6] {
            let eth = Ethernet {
                ether_type,
                ..eth.clone()
            };
            assert_not_ours(bed, &VxlanFrame { eth, ..tunnel() }.bytes());
        }
        let broken = Ipv4 {
            header_words: Some(3),
            ..ip
        };
        assert_not_ours(
            bed,
            &VxlanFrame {
                ip: broken,
                ..tunnel()
            }
            .bytes(),
        );
    });
}

#[test]
fn frames_for_other_hosts_and_other_networks() {
    with_bed(|bed| {
        let stranger = Ethernet::new(Mac(NEAR_MAC), Mac([2, 0xcc, 0, 0, 0, 9]));
        assert_not_ours(
            bed,
            &VxlanFrame {
                eth: stranger,
                ..tunnel()
            }
            .bytes(),
        );
        let tagged = Ethernet {
            vlan: Some(12),
            ..tunnel().eth
        };
        assert_not_ours(
            bed,
            &VxlanFrame {
                eth: tagged,
                ..tunnel()
            }
            .bytes(),
        );
        assert_eq!(tunnel().eth.destination, Mac(UNDERLAY_MAC));
    });
}

#[test]
fn later_fragments_carry_no_port() {
    with_bed(|bed| {
        for fragment in [1, Ipv4::MORE_FRAGMENTS | 1, 0x1fff] {
            let ip = Ipv4 {
                fragment,
                ..tunnel().ip
            };
            assert_not_ours(bed, &VxlanFrame { ip, ..tunnel() }.bytes());
        }
    });
}

#[test]
fn frames_that_end_before_the_udp_header_does() {
    with_bed(|bed| {
        let frame = tunnel().bytes();
        // BPF_PROG_TEST_RUN itself refuses IPv4 frames without a whole IP header.
        for len in 14 + 20..14 + 20 + 8 {
            assert_not_ours(bed, &frame[..len]);
        }
    });
}

#[test]
fn nothing_is_checked_before_an_agent_of_this_version_has_configured_it() {
    with_bed(|bed| {
        for abi in [0, ABI_VERSION + 1] {
            let config = Config {
                abi,
                ..bed.default_config()
            };
            bed.configure(config);
            assert_not_ours(bed, &tunnel().bytes());
        }
    });
}

#[test]
fn a_packet_that_is_only_forwarded() {
    with_bed(|bed| {
        for ip in [
            Ipv4::new(NEAR.vtep, ELSEWHERE),
            Ipv4 {
                fragment: Ipv4::MORE_FRAGMENTS,
                ..Ipv4::new(NEAR.vtep, ELSEWHERE)
            },
        ] {
            let vxlan = Vxlan {
                flags: 0,
                ..Vxlan::new(99)
            };
            let frame = VxlanFrame {
                ip,
                vxlan,
                ..tunnel()
            }
            .bytes();
            assert_eq!(bed.ingress(&frame), untouched(&frame, PASS, &[Reason::InTransit]));
        }
    });
}

#[test]
fn another_network_on_a_shared_port() {
    with_bed(|bed| {
        let config = bed.default_config();
        bed.configure(Config {
            flags: config.flags | FLAG_PORT_SHARED,
            ..config
        });
        let foreign = Vxlan {
            flags: 0x0c,
            ..Vxlan::new(2)
        };
        for ip in [
            tunnel().ip,
            Ipv4::new(ELSEWHERE, OTHER_LOCAL),
            Ipv4 {
                fragment: Ipv4::MORE_FRAGMENTS,
                ..tunnel().ip
            },
            Ipv4 {
                options: vec![1; 8],
                ..tunnel().ip
            },
        ] {
            let frame = VxlanFrame {
                ip,
                vxlan: foreign,
                ..tunnel()
            }
            .bytes();
            assert_eq!(bed.ingress(&frame), untouched(&frame, PASS, &[Reason::OtherVni]));
        }
        assert_accepted(bed, &tunnel(), NEAR.vtep);
    });
}
