//! `pod_ingress`: mark and priority of the packets that it sends into the tunnel.

use std::thread::sleep;

use overlay_common::config::{Config, FIB_LOOKUP_MARK};
use overlay_common::reason::Reason;

use crate::bed::{Context, Outcome, REDIRECT, ip};
use crate::flows::{FOREIGN_MARK, TCP, changed, fast_config, on_pod, with_fast_bed};
use crate::frames::left_to_kernel;
use crate::pod_ingress_hit::sent_fast;
use crate::pod_ingress_route::TICK;

/// What rules of the host have made of the mark of the packet that was learned from, they would make of this one's, too.
#[test]
fn the_mark_is_that_of_the_packet_that_was_learned_from() {
    with_fast_bed(|bed| {
        for (before, after) in [
            (0, 0),
            (FOREIGN_MARK, 0),
            (0, FOREIGN_MARK),
            (FOREIGN_MARK, 0x8000_0001),
        ] {
            let entry = changed(TCP.egress_entry(), |entry| entry.mark = after);
            bed.set_egress_flow(&TCP.pod_key(), entry);
            let context = Context {
                mark: before,
                ..on_pod()
            };
            let frame = TCP.sent_by_pod();
            let outcome = bed.pod_ingress(&frame.bytes(), context);
            let expected = Outcome {
                marked: Some(after).filter(|after| *after != before),
                ..sent_fast(&TCP, &frame, &TCP.at_vtep(), &outcome, 0)
            };
            assert_eq!(outcome, expected);
        }
    });
}

/// As `ip_forward` sets it, whatever the pod's socket said.
#[test]
fn the_priority_follows_from_the_tos() {
    with_fast_bed(|bed| {
        bed.set_egress_flow(&TCP.pod_key(), TCP.egress_entry());
        for (tos, priority) in [(0x00, 0), (0x08, 2), (0x10, 6), (0x18, 4), (0xb8, 4), (0xe3, 0)] {
            let mut frame = TCP.sent_by_pod();
            frame.ip.tos = tos;
            for before in [0, 7] {
                let context = Context {
                    priority: before,
                    ..on_pod()
                };
                let outcome = bed.pod_ingress(&frame.bytes(), context);
                assert_eq!(outcome.verdict, REDIRECT);
                assert_eq!(outcome.priority.unwrap_or(before), priority, "TOS {tos:#x}");
            }
        }
    });
}

/// Policy routing by the mark that the packet will have, as the kernel device asks.
#[test]
fn the_way_is_looked_up_by_the_entrys_mark() {
    with_fast_bed(|bed| {
        ip("route add blackhole default table 77");
        ip("rule add fwmark 0x77 lookup 77");
        let frame = TCP.sent_by_pod();
        let with_mark = |mark| changed(TCP.egress_entry(), |entry| entry.mark = mark);
        let left = left_to_kernel(&frame.bytes(), Reason::PodNoRoute);
        bed.set_egress_flow(&TCP.pod_key(), with_mark(0x77));
        assert_eq!(bed.pod_ingress(&frame.bytes(), on_pod()), left);
        let packets = Context {
            mark: 0x77,
            ..on_pod()
        };
        bed.set_egress_flow(&TCP.pod_key(), with_mark(0x78));
        assert_eq!(bed.pod_ingress(&frame.bytes(), packets).marked, Some(0x78));
        // An answer serves for a tick.
        sleep(TICK);
        // A kernel before 6.10 cannot be asked by mark.
        let config = fast_config(bed);
        bed.configure(Config {
            fib_flags: config.fib_flags & !FIB_LOOKUP_MARK,
            ..config
        });
        assert_eq!(bed.pod_ingress(&frame.bytes(), on_pod()), left);
        bed.set_egress_flow(&TCP.pod_key(), with_mark(0));
        assert_eq!(bed.pod_ingress(&frame.bytes(), packets).marked, Some(0));
    });
}
