//! `underlay_ingress`: every refusal, enforced and before the list of peers is complete.

use std::net::Ipv4Addr;

use overlay_common::config::{Config, FLAG_ENFORCE_PEERS, FLAG_GBP, FLAG_PORT_SHARED};
use overlay_common::reason::Reason;
use overlay_testbed::packet::{ETHERTYPE_ARP, ETHERTYPE_IPV6, Ipv4, Vxlan, VxlanFrame};

use crate::bed::{Bed, DROP, FAR, NARROW, NEAR, OTHER_LOCAL, PASS, VTEP, local_pod, with_bed};
use crate::frames::{HEADERS, tunnel, tunnel_with, untouched};

/// Asserts that the frame is dropped for `reason`, and passes, counted twice, while the check is not enforced.
fn assert_refused(bed: &mut Bed, frame: &[u8], config: Config, reason: Reason) {
    bed.configure(config);
    assert_eq!(bed.ingress(frame), untouched(frame, DROP, &[reason]));
    bed.configure(Config {
        flags: config.flags & !FLAG_ENFORCE_PEERS,
        ..config
    });
    assert_eq!(
        bed.ingress(frame),
        untouched(frame, PASS, &[reason, Reason::FailedOpen])
    );
}

fn refused(frames: impl IntoIterator<Item = VxlanFrame> + Send + 'static, reason: Reason) {
    with_bed(move |bed| {
        let config = bed.default_config();
        for frame in frames {
            assert_refused(bed, &frame.bytes(), config, reason);
        }
    });
}

#[test]
fn an_unknown_outer_source() {
    let strangers = [
        [192, 168, 0, 77],
        [8, 8, 8, 8],
        [192, 168, 0, 1],
        [127, 0, 0, 1],
        [0, 0, 0, 0],
    ];
    refused(
        strangers.map(|source| tunnel_with(source.into(), VTEP, NEAR.pod(7), local_pod(5))),
        Reason::UnknownPeer,
    );
}

#[test]
fn a_spoofed_inner_source() {
    let sources = [
        FAR.pod(7),                // another peer's
        local_pod(9),              // ours
        Ipv4Addr::new(8, 8, 8, 8), // nobody's
        FAR.vtep,                  // another peer's underlay address
        VTEP,
        NEAR.vtep.octets().map(|b| b ^ 1).into(),
        Ipv4Addr::new(10, 244, 2, 0).octets().map(|b| b ^ 0x80).into(),
        Ipv4Addr::new(127, 0, 0, 1),
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::UNSPECIFIED,
    ];
    refused(
        sources.map(|source| tunnel_with(NEAR.vtep, VTEP, source, local_pod(5))),
        Reason::SpoofedSource,
    );
}

#[test]
fn an_inner_destination_that_is_not_ours() {
    let destinations = [
        NEAR.pod(7),
        FAR.pod(7),
        VTEP,
        Ipv4Addr::new(10, 244, 0, 255),
        Ipv4Addr::new(10, 245, 1, 5),
        Ipv4Addr::new(224, 0, 0, 251),
        Ipv4Addr::BROADCAST,
    ];
    refused(
        destinations.map(|destination| tunnel_with(NEAR.vtep, VTEP, NEAR.pod(7), destination)),
        Reason::NotLocal,
    );
}

#[test]
fn a_vni_with_any_bit_flipped() {
    refused(
        (0..24).map(|bit| VxlanFrame {
            vxlan: Vxlan::new(1 ^ (1 << bit)),
            ..tunnel()
        }),
        Reason::WrongVni,
    );
}

#[test]
fn flags_with_any_bit_flipped() {
    with_bed(|bed| {
        let config = bed.default_config();
        // The reserved byte after the VNI counts, too.
        for bit in (0..32).chain(56..64) {
            let mut frame = tunnel().bytes();
            frame[42 + bit / 8] ^= 0x80 >> (bit % 8);
            assert_refused(bed, &frame, config, Reason::BadFlags);
        }
    });
}

#[test]
fn group_policy_does_not_open_other_flags() {
    with_bed(|bed| {
        let config = bed.default_config();
        let config = Config {
            flags: config.flags | FLAG_GBP,
            ..config
        };
        for (flags, reserved) in [(0x80, [0; 3]), (0x8c, [0; 3]), (0x08, [0x08, 0, 1]), (0, [0; 3])] {
            let vxlan = Vxlan {
                flags,
                reserved,
                ..Vxlan::new(1)
            };
            assert_refused(
                bed,
                &VxlanFrame { vxlan, ..tunnel() }.bytes(),
                config,
                Reason::BadFlags,
            );
        }
    });
}

#[test]
fn the_first_fragment() {
    refused(
        [Ipv4::MORE_FRAGMENTS, Ipv4::MORE_FRAGMENTS | Ipv4::DONT_FRAGMENT].map(|fragment| VxlanFrame {
            ip: Ipv4 {
                fragment,
                ..tunnel().ip
            },
            ..tunnel()
        }),
        Reason::OuterFragment,
    );
}

#[test]
fn outer_options() {
    refused(
        [4, 8, 40].map(|len| VxlanFrame {
            ip: Ipv4 {
                options: vec![1; len],
                ..tunnel().ip
            },
            ..tunnel()
        }),
        Reason::OuterOptions,
    );
}

#[test]
fn headers_cut_at_every_byte() {
    with_bed(|bed| {
        let config = bed.default_config();
        let frame = tunnel().bytes();
        for len in 42..HEADERS + 20 {
            assert_refused(bed, &frame[..len], config, Reason::Truncated);
        }
    });
}

#[test]
fn a_local_address_that_is_not_the_vteps() {
    refused(
        [
            OTHER_LOCAL,
            Ipv4Addr::new(192, 168, 0, 255),
            Ipv4Addr::new(224, 0, 0, 9),
        ]
        .map(|destination| tunnel_with(NEAR.vtep, destination, NEAR.pod(7), local_pod(5))),
        Reason::NotVtepAddress,
    );
}

#[test]
fn an_inner_frame_that_is_not_ipv4() {
    with_bed(|bed| {
        let config = bed.default_config();
        for ether_type in [ETHERTYPE_ARP, ETHERTYPE_IPV6, 0x8100, 0] {
            let mut frame = tunnel();
            frame.inner[12..14].copy_from_slice(&u16::to_be_bytes(ether_type));
            assert_refused(bed, &frame.bytes(), config, Reason::InnerNotIp);
        }
        for version_and_length in [0x44, 0x65, 0x05, 0x00, 0xff] {
            let mut frame = tunnel();
            frame.inner[14] = version_and_length;
            assert_refused(bed, &frame.bytes(), config, Reason::InnerNotIp);
        }
    });
}

#[test]
fn a_shared_port_opens_only_other_networks() {
    with_bed(|bed| {
        let config = bed.default_config();
        let config = Config {
            flags: config.flags | FLAG_PORT_SHARED,
            ..config
        };
        let spoofed = tunnel_with(NEAR.vtep, VTEP, FAR.pod(7), local_pod(5));
        assert_refused(bed, &spoofed.bytes(), config, Reason::SpoofedSource);
        let stranger = tunnel_with(NARROW.pod(1), VTEP, NEAR.pod(7), local_pod(5));
        assert_refused(bed, &stranger.bytes(), config, Reason::UnknownPeer);
        assert_refused(bed, &tunnel().bytes()[..44], config, Reason::Truncated);
    });
}
