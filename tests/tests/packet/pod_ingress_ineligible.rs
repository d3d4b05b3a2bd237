//! `pod_ingress`: packets that never take the fast path, each of a flow that could.

use std::collections::BTreeMap;

use overlay_common::config::{ABI_VERSION, Config, FLAG_FASTPATH};
use overlay_common::flow::ENDPOINT_FAST;
use overlay_common::reason::Reason;
use overlay_testbed::packet::{
    ETHERTYPE_ARP, ETHERTYPE_IPV6, Ethernet, Frame, Ipv4, Layer4, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP,
    Tcp,
};

use crate::bed::{Bed, Context, INSIDE, OTHER_POD, PASS, REDIRECT, ifindex, send_out_of};
use crate::ending::Side;
use crate::flows::{DEVICE_EPOCH, Flow, KINDS, TCP, TCP_SERVICE, UDP, fast_config, on_pod, with_fast_bed};
use crate::frames::{left_to_kernel, untouched};

fn assert_ineligible(bed: &mut Bed, flow: &Flow, frame: &[u8]) {
    Side::Pod.establish(bed, flow);
    let before = bed.memory();
    assert_eq!(
        bed.pod_ingress(frame, on_pod()),
        left_to_kernel(frame, Reason::PodIneligible)
    );
    assert_eq!(bed.memory(), before);
    assert_eq!(bed.retry(&flow.pod_key()), Side::Pod.due(flow));
    assert_eq!(
        bed.pod_ingress(&flow.sent_by_pod().bytes(), on_pod()).verdict,
        REDIRECT,
        "the flow itself is fast"
    );
}

fn with_ip(flow: &Flow, change: impl FnOnce(&mut Ipv4)) -> Vec<u8> {
    let mut frame = flow.sent_by_pod();
    change(&mut frame.ip);
    frame.bytes()
}

fn with_eth(flow: &Flow, change: impl FnOnce(&mut Ethernet)) -> Vec<u8> {
    let mut frame = flow.sent_by_pod();
    change(&mut frame.eth);
    frame.bytes()
}

#[test]
fn protocols_other_than_tcp_and_udp() {
    with_fast_bed(|bed| {
        for protocol in [0, PROTOCOL_ICMP, 2, 50, 132, 136, 255] {
            // As if the ports were there.
            let frame = with_ip(&UDP, |ip| ip.protocol = Some(protocol));
            assert_ineligible(bed, &UDP, &frame);
        }
    });
}

#[test]
fn fragments() {
    with_fast_bed(|bed| {
        for flow in [UDP, TCP] {
            for fragment in [
                Ipv4::MORE_FRAGMENTS,
                Ipv4::MORE_FRAGMENTS | Ipv4::DONT_FRAGMENT,
                Ipv4::MORE_FRAGMENTS | 100,
                1,
                0x1fff,
            ] {
                assert_ineligible(bed, &flow, &with_ip(&flow, |ip| ip.fragment = fragment));
            }
        }
    });
}

#[test]
fn ip_options() {
    with_fast_bed(|bed| {
        for len in [4, 8, 40] {
            assert_ineligible(bed, &UDP, &with_ip(&UDP, |ip| ip.options = vec![1; len]));
        }
    });
}

#[test]
fn headers_that_are_not_plain_ipv4() {
    with_fast_bed(|bed| {
        for (version, words) in [(4, 4), (4, 0), (4, 15), (6, 5), (5, 5), (0, 5)] {
            let frame = with_ip(&UDP, |ip| {
                ip.version = version;
                ip.header_words = Some(words);
            });
            assert_ineligible(bed, &UDP, &frame);
        }
    });
}

#[test]
fn a_ttl_that_ends_here() {
    with_fast_bed(|bed| {
        for ttl in [0, 1] {
            for flow in KINDS {
                assert_ineligible(bed, &flow, &with_ip(&flow, |ip| ip.ttl = ttl));
            }
        }
    });
}

#[test]
fn frames_that_are_not_ipv4() {
    with_fast_bed(|bed| {
        for ether_type in [ETHERTYPE_ARP, ETHERTYPE_IPV6, 0x88cc, 0x0000] {
            assert_ineligible(bed, &UDP, &with_eth(&UDP, |eth| eth.ether_type = ether_type));
        }
        for vlan in [0, 7] {
            assert_ineligible(bed, &UDP, &with_eth(&UDP, |eth| eth.vlan = Some(vlan)));
        }
    });
}

/// On a device the kernel takes the tag off before the hook. (`BPF_PROG_TEST_RUN` does not.)
#[test]
fn a_tag_that_the_kernel_has_taken_off() {
    with_fast_bed(|bed| {
        Side::Pod.establish(bed, &UDP);
        bed.attach_pod_ingress();
        for vlan in [7, 0] {
            let frame = with_eth(&UDP, |eth| eth.vlan = Some(vlan));
            let (counters, peers) = bed.count_until(Reason::PodIneligible, |_| send_out_of(INSIDE, &frame));
            let len = UDP.sent_by_pod().bytes().len() as u64;
            assert_eq!(counters, BTreeMap::from([("pod_ineligible", (1, len))]));
            assert!(peers.is_empty());
        }
        let frame = UDP.sent_by_pod().bytes();
        let (counters, _) = bed.count_until(Reason::EgressFast, |_| send_out_of(INSIDE, &frame));
        let fast = BTreeMap::from([("egress_fast", (1, frame.len() as u64))]);
        assert_eq!(counters, fast, "the flow itself is fast");
    });
}

#[test]
fn a_length_that_is_not_the_frames() {
    with_fast_bed(|bed| {
        for flow in [UDP, TCP] {
            let whole = u16::from_be_bytes([flow.sent_by_pod().bytes()[16], flow.sent_by_pod().bytes()[17]]);
            for length in [0, 20, whole - 1, whole + 1, u16::MAX] {
                assert_ineligible(bed, &flow, &with_ip(&flow, |ip| ip.total_length = Some(length)));
            }
            let mut padded = flow.sent_by_pod().bytes();
            padded.push(0);
            assert_ineligible(bed, &flow, &padded);
            padded.extend([0; 17]);
            assert_ineligible(bed, &flow, &padded);
        }
    });
}

#[test]
fn transport_headers_cut_short() {
    with_fast_bed(|bed| {
        for (flow, protocol, whole) in [(UDP, PROTOCOL_UDP, 8), (TCP, PROTOCOL_TCP, 14)] {
            let header = &flow.sent_by_pod().bytes()[34..];
            for len in 0..whole {
                let frame = Frame {
                    layer4: Layer4::Raw(protocol, header[..len].to_vec()),
                    ..flow.sent_by_pod()
                };
                assert_ineligible(bed, &flow, &frame.bytes());
            }
        }
    });
}

/// A header that ends before itself means nothing, whatever its flags are.
#[test]
fn tcp_headers_that_are_too_short() {
    with_fast_bed(|bed| {
        for words in 0..5 {
            for flags in [Tcp::ACK, Tcp::SYN, Tcp::RST] {
                let mut frame = Side::Pod.with_flags(&TCP, flags);
                frame[46] = words << 4;
                assert_ineligible(bed, &TCP, &frame);
            }
        }
    });
}

/// What a pod claims with another's address concerns no one.
///
/// Seen red without the comparison of devices in `end::by_pod`.
#[test]
fn the_end_of_a_flow_by_another_device() {
    with_fast_bed(|bed| {
        // Nothing but the device is wrong.
        bed.set_endpoint(ifindex(OTHER_POD), Some(ENDPOINT_FAST));
        bed.set_device_epoch(ifindex(OTHER_POD), DEVICE_EPOCH);
        let there = Context {
            ifindex: ifindex(OTHER_POD),
            ..Context::default()
        };
        for flow in [TCP, TCP_SERVICE] {
            Side::Pod.establish(bed, &flow);
            let before = bed.memory();
            for flags in [Tcp::SYN, Tcp::FIN | Tcp::ACK, Tcp::RST] {
                let frame = Side::Pod.with_flags(&flow, flags);
                assert_eq!(
                    bed.pod_ingress(&frame, there),
                    left_to_kernel(&frame, Reason::PodIneligible)
                );
                assert_eq!(bed.memory(), before);
                assert_eq!(bed.retry(&flow.pod_key()), Side::Pod.due(&flow));
            }
            Side::Pod.assert_ends(bed, &flow, Tcp::RST);
        }
    });
}

#[test]
fn a_udp_payload_is_no_tcp_header() {
    with_fast_bed(|bed| {
        Side::Pod.establish(bed, &UDP);
        let mut frame = UDP.sent_by_pod();
        if let Layer4::Udp(udp) = &mut frame.layer4 {
            udp.payload = vec![0xff; 40];
        }
        assert_eq!(bed.pod_ingress(&frame.bytes(), on_pod()).verdict, REDIRECT);
    });
}

#[test]
fn nothing_is_even_counted_while_the_fast_path_is_off() {
    with_fast_bed(|bed| {
        let on = fast_config(bed);
        Side::Pod.establish(bed, &TCP);
        let before = bed.memory();
        for config in [
            Config {
                flags: on.flags & !FLAG_FASTPATH,
                ..on
            },
            Config { abi: 0, ..on },
            Config {
                abi: ABI_VERSION - 1,
                ..on
            },
        ] {
            bed.configure(config);
            for frame in [TCP.sent_by_pod().bytes(), Side::Pod.with_flags(&TCP, Tcp::SYN)] {
                assert_eq!(bed.pod_ingress(&frame, on_pod()), untouched(&frame, PASS, &[]));
            }
            assert_eq!(bed.memory(), before);
        }
    });
}
