//! `underlay_ingress`: packets of flows with a usable entry that do not take the fast path.

use std::collections::BTreeMap;

use overlay_common::config::{Config, FLAG_ENFORCE_PEERS, FLAG_FASTPATH, FLAG_PORT_SHARED};
use overlay_common::flow::{FLOW_SHORTCUT, IngressFlow};
use overlay_common::reason::Reason;
use overlay_testbed::packet::{
    ETHERTYPE_ARP, Frame, Ipv4, Layer4, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, Tcp, Vxlan, VxlanFrame,
};

use crate::bed::{
    Bed, Context, DROP, FAR, NEAR, OTHER_LOCAL, Outcome, PASS, REDIRECT, VTEP, addr, send_out_of,
};
use crate::ending::Side;
use crate::flows::{FOREIGN_MARK, Flow, TCP, TCP_SERVICE, UDP, fast_config, mark, tunnelled, with_fast_bed};
use crate::frames::{HEADERS, accepted, untouched};

/// Asserts the outcome, that nothing was written, and that the flow itself is fast.
fn assert_slow(bed: &mut Bed, flow: &Flow, tunnel: &[u8], expected: &Outcome) {
    Side::Peer.establish(bed, flow);
    let before = bed.memory();
    assert_eq!(bed.ingress(tunnel), *expected);
    assert_eq!(bed.memory(), before);
    assert_eq!(bed.retry(&flow.peer_key()), Side::Peer.due(flow));
    assert_eq!(bed.ingress(&flow.sent_by_peer().bytes()).verdict, REDIRECT);
}

fn assert_accepted(bed: &mut Bed, flow: &Flow, change: impl FnOnce(&mut Frame)) {
    let mut inner = flow.inside_tunnel();
    change(&mut inner);
    let tunnel = tunnelled(&NEAR, &inner).bytes();
    assert_slow(bed, flow, &tunnel, &accepted(&tunnel, &NEAR));
}

fn assert_refused(bed: &mut Bed, tunnel: &VxlanFrame, verdict: i32, reason: Reason) {
    let tunnel = tunnel.bytes();
    assert_slow(bed, &UDP, &tunnel, &untouched(&tunnel, verdict, &[reason]));
}

#[test]
fn inner_packets_that_never_take_the_fast_path() {
    with_fast_bed(|bed| {
        for protocol in [PROTOCOL_ICMP, 132] {
            assert_accepted(bed, &UDP, |frame| frame.ip.protocol = Some(protocol));
        }
        for fragment in [Ipv4::MORE_FRAGMENTS, Ipv4::MORE_FRAGMENTS | 5, 5] {
            assert_accepted(bed, &UDP, |frame| frame.ip.fragment = fragment);
        }
        assert_accepted(bed, &UDP, |frame| frame.ip.options = vec![1; 4]);
        assert_accepted(bed, &UDP, |frame| frame.ip.header_words = Some(6));
        for ttl in [0, 1] {
            assert_accepted(bed, &UDP, |frame| frame.ip.ttl = ttl);
            assert_accepted(bed, &TCP, |frame| frame.ip.ttl = ttl);
        }
        let whole = u16::from_be_bytes([UDP.inside_tunnel().bytes()[16], UDP.inside_tunnel().bytes()[17]]);
        for length in [0, whole - 1, whole + 1] {
            assert_accepted(bed, &UDP, |frame| frame.ip.total_length = Some(length));
        }
        let mut padded = UDP.sent_by_peer();
        padded.inner.push(0);
        let padded = padded.bytes();
        assert_slow(bed, &UDP, &padded, &accepted(&padded, &NEAR));
    });
}

#[test]
fn inner_transport_headers_cut_short() {
    with_fast_bed(|bed| {
        for (flow, protocol, whole) in [(UDP, PROTOCOL_UDP, 8), (TCP, PROTOCOL_TCP, 14)] {
            let header = flow.inside_tunnel().bytes()[34..].to_vec();
            for len in 0..whole {
                assert_accepted(bed, &flow, |frame| {
                    frame.layer4 = Layer4::Raw(protocol, header[..len].to_vec());
                });
            }
        }
    });
}

/// A header that ends before itself means nothing, whatever its flags are.
#[test]
fn inner_tcp_headers_that_are_too_short() {
    with_fast_bed(|bed| {
        for words in 0..5 {
            for flags in [Tcp::ACK, Tcp::SYN, Tcp::RST] {
                let mut tunnel = Side::Peer.with_flags(&TCP, flags);
                tunnel[HEADERS + 32] = words << 4;
                assert_slow(bed, &TCP, &tunnel, &accepted(&tunnel, &NEAR));
            }
        }
    });
}

/// The kernel device would not take it in: it is for another device, or for none.
#[test]
fn an_inner_frame_to_another_device() {
    with_fast_bed(|bed| {
        for at in 0..6 {
            assert_accepted(bed, &UDP, |frame| frame.eth.destination.0[at] ^= 0x80);
            assert_accepted(bed, &TCP, |frame| frame.eth.destination.0[at] ^= 1);
        }
        assert_accepted(bed, &UDP, |frame| frame.eth.destination.0 = [0xff; 6]);
    });
}

/// On a device the kernel takes the tag off before the hook. (`BPF_PROG_TEST_RUN` does not.)
#[test]
fn a_priority_tag() {
    with_fast_bed(|bed| {
        bed.attach_underlay_ingress();
        let mut tagged = UDP.sent_by_peer();
        tagged.eth.vlan = Some(0);
        let tagged = tagged.bytes();
        Side::Peer.establish(bed, &UDP);
        let (counters, _) = bed.count_until(Reason::Accepted, |_| send_out_of("wire0", &tagged));
        let plain = UDP.sent_by_peer().bytes();
        let accepted = BTreeMap::from([("accepted", (1, plain.len() as u64))]);
        assert_eq!(counters, accepted);
        let (counters, _) = bed.count_until(Reason::IngressFast, |_| send_out_of("wire0", &plain));
        let fast = BTreeMap::from([("ingress_fast", (1, plain.len() as u64))]);
        assert_eq!(counters, fast, "the flow itself is fast");
    });
}

/// A stranger must not be able to end a flow.
#[test]
fn a_refused_packet_ends_nothing() {
    with_fast_bed(|bed| {
        Side::Peer.establish(bed, &TCP);
        let before = bed.memory();
        let mut inner = TCP.inside_tunnel();
        if let Layer4::Tcp(tcp) = &mut inner.layer4 {
            tcp.flags = Tcp::RST;
        }
        let mut spoofed = tunnelled(&FAR, &inner);
        for (source, reason) in [
            (FAR.vtep, Reason::SpoofedSource),
            (OTHER_LOCAL, Reason::UnknownPeer),
        ] {
            spoofed.ip.source = source;
            let bytes = spoofed.bytes();
            assert_eq!(bed.ingress(&bytes), untouched(&bytes, DROP, &[reason]));
            assert_eq!(bed.memory(), before);
            assert_eq!(bed.retry(&TCP.peer_key()), Side::Peer.due(&TCP));
        }
    });
}

#[test]
fn the_same_flow_from_another_vtep() {
    with_fast_bed(|bed| {
        let spoofed = tunnelled(&FAR, &UDP.inside_tunnel());
        assert_refused(bed, &spoofed, DROP, Reason::SpoofedSource);
        let mut stranger = UDP.sent_by_peer();
        stranger.ip.source = OTHER_LOCAL;
        assert_refused(bed, &stranger, DROP, Reason::UnknownPeer);
        // The entry may also be what is out of date.
        let mut entry = UDP.ingress_entry();
        entry.vtep = addr(FAR.vtep);
        bed.set_ingress_flow(&UDP.peer_key(), entry);
        bed.set_retry(&UDP.peer_key(), Side::Peer.due(&UDP));
        let before = bed.memory();
        let tunnel = UDP.sent_by_peer().bytes();
        assert_eq!(bed.ingress(&tunnel), accepted(&tunnel, &NEAR));
        assert_eq!(bed.memory(), before);
        assert_eq!(bed.retry(&UDP.peer_key()), Side::Peer.due(&UDP));
    });
}

#[test]
fn outer_headers_that_are_refused() {
    with_fast_bed(|bed| {
        let with_ip = |change: fn(&mut Ipv4)| {
            let mut tunnel = UDP.sent_by_peer();
            change(&mut tunnel.ip);
            tunnel
        };
        let fragment = with_ip(|ip| ip.fragment = Ipv4::MORE_FRAGMENTS);
        assert_refused(bed, &fragment, DROP, Reason::OuterFragment);
        let options = with_ip(|ip| ip.options = vec![1; 4]);
        assert_refused(bed, &options, DROP, Reason::OuterOptions);
        let other = with_ip(|ip| ip.destination = OTHER_LOCAL);
        assert_refused(bed, &other, DROP, Reason::NotVtepAddress);
        let transit = with_ip(|ip| ip.destination = crate::bed::ELSEWHERE);
        assert_refused(bed, &transit, PASS, Reason::InTransit);
        let with_vxlan = |vxlan| VxlanFrame {
            vxlan,
            ..UDP.sent_by_peer()
        };
        assert_refused(bed, &with_vxlan(Vxlan::new(2)), DROP, Reason::WrongVni);
        let flags = Vxlan {
            flags: 0x0c,
            ..Vxlan::new(1)
        };
        assert_refused(bed, &with_vxlan(flags), DROP, Reason::BadFlags);
        let mut not_ip = UDP.sent_by_peer();
        not_ip.inner[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
        assert_refused(bed, &not_ip, DROP, Reason::InnerNotIp);
        let mut version = UDP.sent_by_peer();
        version.inner[14] = 0x65;
        assert_refused(bed, &version, DROP, Reason::InnerNotIp);
        assert_eq!(UDP.sent_by_peer().ip.destination, VTEP);

        let config = fast_config(bed);
        bed.configure(Config {
            flags: config.flags | FLAG_PORT_SHARED,
            ..config
        });
        assert_refused(bed, &with_vxlan(Vxlan::new(2)), PASS, Reason::OtherVni);
    });
}

#[test]
fn an_inner_destination_that_is_not_ours() {
    with_fast_bed(|bed| {
        let flow = Flow {
            pod: (NEAR.pod(9), 80),
            ..UDP
        };
        let tunnel = flow.sent_by_peer().bytes();
        assert_eq!(
            bed.ingress(&tunnel),
            untouched(&tunnel, DROP, &[Reason::NotLocal])
        );
        assert!(bed.memory().pending.is_empty());
    });
}

#[test]
fn mark_bits_that_somebody_else_uses() {
    with_fast_bed(|bed| {
        Side::Peer.establish(bed, &TCP);
        let before = bed.memory();
        for (number, tunnel) in [
            (0, TCP.sent_by_peer().bytes()),
            (100, TCP.sent_by_peer().bytes()),
            (254, Side::Peer.with_flags(&TCP, Tcp::RST)),
        ] {
            let context = Context {
                mark: mark(number),
                ..Context::default()
            };
            assert_eq!(bed.ingress_with(&tunnel, context), accepted(&tunnel, &NEAR));
        }
        assert_eq!(bed.memory(), before);
    });
}

/// It has been counted when the original came, but it is checked like every packet.
#[test]
fn a_probe_goes_by_and_is_not_counted_for_the_peer() {
    with_fast_bed(|bed| {
        Side::Peer.establish(bed, &TCP);
        let slot = bed.first_slot() + 2;
        let mut pending = TCP.ingress_pending(bed);
        bed.set_ticket(slot, pending);
        let before = bed.memory();
        let context = Context {
            mark: mark(slot) | FOREIGN_MARK,
            ..Context::default()
        };
        let tunnel = TCP.sent_by_peer().bytes();
        assert_eq!(
            bed.ingress_with(&tunnel, context),
            untouched(&tunnel, PASS, &[Reason::IngressProbeSent])
        );
        let spoofed = tunnelled(&FAR, &TCP.inside_tunnel()).bytes();
        assert_eq!(
            bed.ingress_with(&spoofed, context),
            untouched(&spoofed, DROP, &[Reason::SpoofedSource])
        );
        assert_eq!(bed.memory(), before);
        // The slot has been used again since: the mark is not that of this packet.
        pending.generation += 1;
        bed.set_ticket(slot, pending);
        assert_eq!(bed.ingress_with(&tunnel, context), accepted(&tunnel, &NEAR));
    });
}

#[test]
fn a_flow_that_the_kernel_device_decapsulates() {
    with_fast_bed(|bed| {
        let mut entry: IngressFlow = TCP.ingress_entry();
        entry.state |= FLOW_SHORTCUT;
        bed.set_ingress_flow(&TCP.peer_key(), entry);
        bed.set_retry(&TCP.peer_key(), Side::Peer.due(&TCP));
        let before = bed.memory();
        let tunnel = TCP.sent_by_peer().bytes();
        assert_eq!(bed.ingress(&tunnel), accepted(&tunnel, &NEAR));
        assert_eq!(bed.memory(), before);
        assert_eq!(bed.retry(&TCP.peer_key()), Side::Peer.due(&TCP));
    });
}

#[test]
fn an_entry_is_not_used_while_the_fast_path_is_off() {
    with_fast_bed(|bed| {
        let config = fast_config(bed);
        bed.configure(Config {
            flags: config.flags & !FLAG_FASTPATH,
            ..config
        });
        Side::Peer.establish(bed, &TCP);
        let before = bed.memory();
        for tunnel in [TCP.sent_by_peer().bytes(), Side::Peer.with_flags(&TCP, Tcp::RST)] {
            assert_eq!(bed.ingress(&tunnel), accepted(&tunnel, &NEAR));
        }
        assert_eq!(bed.memory(), before);
    });
}

/// The headers are changed before it turns out that there is no checksum to mend.
#[test]
fn a_segment_that_ends_before_its_checksum() {
    with_fast_bed(|bed| {
        Side::Peer.establish(bed, &TCP_SERVICE);
        let header = TCP_SERVICE.inside_tunnel().bytes()[34..].to_vec();
        let config = fast_config(bed);
        // It was not refused, so that it is not let through while refused packets are.
        let open = Config {
            flags: config.flags & !FLAG_ENFORCE_PEERS,
            ..config
        };
        for (len, config) in [(14, config), (17, config), (17, open)] {
            bed.configure(config);
            let mut inner = TCP_SERVICE.inside_tunnel();
            inner.layer4 = Layer4::Raw(PROTOCOL_TCP, header[..len].to_vec());
            let tunnel = tunnelled(&NEAR, &inner).bytes();
            let outcome = bed.ingress(&tunnel);
            let expected = Outcome {
                bytes: outcome.bytes.clone(),
                ..untouched(&tunnel, DROP, &[Reason::DecapFailed])
            };
            assert_eq!(outcome, expected);
        }
    });
}
