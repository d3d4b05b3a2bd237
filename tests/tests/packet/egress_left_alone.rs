//! `vtep_egress`: packets that it leaves, unchanged, to the kernel device.

use overlay_common::config::{ABI_VERSION, Config, FIB_LOOKUP_MARK, FLAG_GBP};
use overlay_common::reason::Reason;
use overlay_testbed::packet::{ETHERTYPE_ARP, ETHERTYPE_IPV6, Ethernet, Frame, Ipv4, Layer4, Mac};

use crate::bed::{Bed, Context, FAR, LOST, NARROW, NEAR, UNDERLAY, ip, local_pod, with_bed};
use crate::frames::{ETH, left_to_kernel, ping_to_pod_of, tcp_to_pod_of, to_pod_of};

fn assert_left(bed: &mut Bed, frame: &[u8], context: Context, reason: Reason) {
    assert_eq!(bed.egress(frame, context), left_to_kernel(frame, reason));
}

#[test]
fn nothing_is_touched_before_an_agent_of_this_version_has_configured_it() {
    with_bed(|bed| {
        let frame = to_pod_of(&NEAR).bytes();
        for abi in [0, ABI_VERSION + 1] {
            let config = Config {
                abi,
                ..bed.default_config()
            };
            bed.configure(config);
            assert_left(bed, &frame, Context::default(), Reason::EgressUnconfigured);
        }
    });
}

#[test]
fn no_peer_has_the_destination() {
    with_bed(|bed| {
        for destination in [
            local_pod(9),
            [10, 244, 99, 1].into(),
            [224, 0, 0, 251].into(),
            [255; 4].into(),
        ] {
            let frame = to_pod_of(&NEAR);
            let frame = Frame {
                ip: Ipv4::new(local_pod(5), destination),
                ..frame
            };
            assert_left(bed, &frame.bytes(), Context::default(), Reason::NoSubnet);
        }
    });
}

#[test]
fn what_is_not_ipv4() {
    with_bed(|bed| {
        let frame = tcp_to_pod_of(&NEAR, 100);
        for ether_type in [ETHERTYPE_ARP, ETHERTYPE_IPV6, 0x88cc] {
            let eth = Ethernet {
                ether_type,
                ..frame.eth.clone()
            };
            let bytes = Frame { eth, ..frame.clone() }.bytes();
            assert_left(bed, &bytes, Context::default(), Reason::EgressNotIp);
        }
        let tagged = Frame {
            eth: Ethernet {
                vlan: Some(7),
                ..frame.eth.clone()
            },
            ..frame.clone()
        };
        assert_left(bed, &tagged.bytes(), Context::default(), Reason::EgressNotIp);
        for broken in [
            Ipv4 {
                version: 6,
                ..frame.ip.clone()
            },
            Ipv4 {
                header_words: Some(4),
                ..frame.ip.clone()
            },
            Ipv4 {
                header_words: Some(0),
                ..frame.ip.clone()
            },
        ] {
            let bytes = Frame {
                ip: broken,
                ..frame.clone()
            }
            .bytes();
            assert_left(bed, &bytes, Context::default(), Reason::EgressNotIp);
        }
    });
}

#[test]
fn one_byte_more_than_the_route_allows() {
    with_bed(|bed| {
        let near = tcp_to_pod_of(&NEAR, 1500 - 50 - 40 + 1).bytes();
        assert_left(bed, &near, Context::default(), Reason::TooBig);
        let narrow = tcp_to_pod_of(&NARROW, 1400 - 50 - 40 + 1).bytes();
        assert_left(bed, &narrow, Context::default(), Reason::TooBig);
    });
}

#[test]
fn one_byte_more_than_the_agent_allows() {
    with_bed(|bed| {
        let config = Config {
            max_segment: 1300,
            ..bed.default_config()
        };
        bed.configure(config);
        let frame = tcp_to_pod_of(&NEAR, 1300 - 50 - 40 + 1).bytes();
        assert_left(bed, &frame, Context::default(), Reason::TooBig);
        let gso = Context {
            gso_size: 1300 - 50 - 40 + 1,
            gso_segs: 2,
            ..Context::default()
        };
        assert_left(bed, &tcp_to_pod_of(&NEAR, 2000).bytes(), gso, Reason::TooBig);
    });
}

#[test]
fn segments_are_measured_and_not_the_whole() {
    with_bed(|bed| {
        let gso = |gso_size| Context {
            gso_size,
            gso_segs: 2,
            ..Context::default()
        };
        let (tcp, udp) = (tcp_to_pod_of(&NEAR, 2000).bytes(), {
            let mut frame = to_pod_of(&NEAR);
            if let Layer4::Udp(udp) = &mut frame.layer4 {
                udp.payload = vec![3; 2000];
            }
            frame.bytes()
        });
        // BPF_PROG_TEST_RUN sets no gso_type, so the kernel makes no room even for what fits: the packet stays whole.
        for (frame, fits) in [(&tcp, 1500 - 50 - 40), (&udp, 1500 - 50 - 28)] {
            assert_left(bed, frame, gso(fits), Reason::EncapRefused);
            assert_left(bed, frame, gso(fits + 1), Reason::TooBig);
        }
        let mut options = tcp_to_pod_of(&NEAR, 2000);
        if let Layer4::Tcp(tcp) = &mut options.layer4 {
            tcp.options = vec![1; 12];
        }
        assert_left(bed, &options.bytes(), gso(1500 - 50 - 52), Reason::EncapRefused);
        assert_left(bed, &options.bytes(), gso(1500 - 50 - 51), Reason::TooBig);
    });
}

#[test]
fn segmentation_of_something_else() {
    with_bed(|bed| {
        let gso = Context {
            gso_size: 100,
            gso_segs: 2,
            ..Context::default()
        };
        assert_left(bed, &ping_to_pod_of(&NEAR).bytes(), gso, Reason::GsoUnsupported);
        let cut = &tcp_to_pod_of(&NEAR, 0).bytes()[..ETH + 20 + 12];
        assert_left(bed, cut, gso, Reason::GsoUnsupported);
    });
}

#[test]
fn the_kernel_knows_no_way() {
    with_bed(|bed| {
        assert_left(
            bed,
            &to_pod_of(&LOST).bytes(),
            Context::default(),
            Reason::NoRoute,
        );
        for kind in ["unreachable", "blackhole", "prohibit"] {
            ip(&format!("route replace {kind} {}/32", NEAR.vtep));
            assert_left(
                bed,
                &to_pod_of(&NEAR).bytes(),
                Context::default(),
                Reason::NoRoute,
            );
            ip(&format!("route del {kind} {}/32", NEAR.vtep));
        }
        let config = Config {
            underlay_ifindex: 4711,
            ..bed.default_config()
        };
        bed.configure(config);
        assert_left(
            bed,
            &to_pod_of(&NEAR).bytes(),
            Context::default(),
            Reason::NoRoute,
        );
    });
}

#[test]
fn the_stack_sends_the_frame_to_another_device() {
    with_bed(|bed| {
        let frame = to_pod_of(&NEAR);
        for destination in [FAR.mac, [0xff; 6], [0x01, 0, 0x5e, 0, 0, 1]] {
            let eth = Ethernet {
                destination: Mac(destination),
                ..frame.eth.clone()
            };
            let bytes = Frame { eth, ..frame.clone() }.bytes();
            assert_left(bed, &bytes, Context::default(), Reason::OtherNextHop);
        }
    });
}

#[test]
fn the_next_hop_is_not_resolved() {
    with_bed(|bed| {
        ip(&format!("neigh del {} dev {UNDERLAY}", NEAR.vtep));
        assert_left(
            bed,
            &to_pod_of(&NEAR).bytes(),
            Context::default(),
            Reason::NoNeighbour,
        );
        ip(&format!("neigh add {} dev {UNDERLAY} nud failed", NEAR.vtep));
        assert_left(
            bed,
            &to_pod_of(&NEAR).bytes(),
            Context::default(),
            Reason::NoNeighbour,
        );
    });
}

#[test]
fn the_way_leads_out_of_another_device() {
    with_bed(|bed| {
        ip("link add other0 type veth peer name other1");
        ip("link set other0 up");
        ip("link set other1 up");
        ip("addr add 172.16.0.1/24 dev other0");
        ip(&format!("route add {}/32 dev other0", LOST.vtep));
        assert_left(
            bed,
            &to_pod_of(&LOST).bytes(),
            Context::default(),
            Reason::NoRoute,
        );
    });
}

#[test]
fn a_node_that_does_not_forward() {
    with_bed(|bed| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("net.ipv4.ip_forward");
        assert_left(
            bed,
            &to_pod_of(&NEAR).bytes(),
            Context::default(),
            Reason::NoRoute,
        );
    });
}

#[test]
fn a_mark_that_policy_routing_stops() {
    with_bed(|bed| {
        ip("rule add fwmark 0x7 table 77");
        ip("route add blackhole default table 77");
        let frame = to_pod_of(&NEAR).bytes();
        let marked = Context {
            mark: 7,
            ..Context::default()
        };
        assert_left(bed, &frame, marked, Reason::NoRoute);
    });
}

#[test]
fn a_mark_that_an_older_kernel_cannot_route_by() {
    with_bed(|bed| {
        let config = bed.default_config();
        bed.configure(Config {
            fib_flags: config.fib_flags & !FIB_LOOKUP_MARK,
            ..config
        });
        let marked = Context {
            mark: 0x4000,
            ..Context::default()
        };
        assert_left(bed, &to_pod_of(&NEAR).bytes(), marked, Reason::NoRoute);
    });
}

#[test]
fn group_policy_with_a_mark() {
    with_bed(|bed| {
        let config = bed.default_config();
        bed.configure(Config {
            flags: config.flags | FLAG_GBP,
            ..config
        });
        let marked = Context {
            mark: 0x123,
            ..Context::default()
        };
        assert_left(bed, &to_pod_of(&NEAR).bytes(), marked, Reason::GbpMark);
    });
}
