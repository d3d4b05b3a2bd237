//! `pod_ingress`: how long an answer of the routing table serves, and for which packets.

use std::thread::sleep;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use overlay_common::addr::Addr;
use overlay_common::config::{Config, FIB_LOOKUP_MARK, FLAG_ROUTES_BY_PORT};
use overlay_common::flow::EgressFlow;
use overlay_common::reason::Reason;
use overlay_testbed::packet::{Frame, Layer4};

use crate::bed::{Bed, FAR, Outcome, REDIRECT, addr};
use crate::flows::{TCP, changed, fast_config, on_pod, with_fast_bed};
use crate::frames::left_to_kernel;

/// Longer than a tick of any kernel.
pub(crate) const TICK: Duration = Duration::from_millis(11);

/// Attempts to do two things within one tick.
const ATTEMPTS: u32 = 200;

/// The clock by which answers are kept.
fn tick() -> i64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("a coarse clock");
    now.tv_sec() * 1_000_000_000 + now.tv_nsec()
}

/// An entry whose way can only be asked for where lookups by mark are known.
fn marked() -> EgressFlow {
    changed(TCP.egress_entry(), |entry| entry.mark = 0x78)
}

/// A node whose kernel answers no question about a mark: whoever asks leaves the packet to the kernel device.
fn deaf(bed: &mut Bed) -> Config {
    let config = fast_config(bed);
    Config {
        fib_flags: config.fib_flags & !FIB_LOOKUP_MARK,
        ..config
    }
}

/// What becomes of `frame` by `entry` in the same tick in which the way of an ordinary packet was asked for, on a node
/// that answers no further question, and whose routes may depend on ports.
fn right_after(bed: &mut Bed, entry: EgressFlow, frame: &Frame) -> Outcome {
    right_after_with(bed, FLAG_ROUTES_BY_PORT, entry, frame)
}

fn right_after_with(bed: &mut Bed, flag: u32, entry: EgressFlow, frame: &Frame) -> Outcome {
    let [hearing, deaf] = [fast_config(bed), deaf(bed)].map(|config| Config {
        flags: config.flags | flag,
        ..config
    });
    for _ in 0..ATTEMPTS {
        sleep(TICK);
        bed.configure(hearing);
        bed.set_egress_flow(&TCP.pod_key(), marked());
        let begin = tick();
        let first = bed.pod_ingress(&TCP.sent_by_pod().bytes(), on_pod());
        assert_eq!(first.verdict, REDIRECT);
        bed.configure(deaf);
        bed.set_egress_flow(&TCP.pod_key(), entry);
        let outcome = bed.pod_ingress(&frame.bytes(), on_pod());
        if tick() == begin {
            return outcome;
        }
    }
    panic!("two packets were never within one tick");
}

fn with_payload(len: usize) -> Frame {
    let mut frame = TCP.sent_by_pod();
    if let Layer4::Tcp(tcp) = &mut frame.layer4 {
        tcp.payload = vec![0x55; len];
    }
    frame
}

/// Seen red without the comparison of ticks (the second packet after the pause went), and without the cache (the first
/// did not).
#[test]
fn an_answer_serves_for_one_tick() {
    with_fast_bed(|bed| {
        let frame = TCP.sent_by_pod();
        let outcome = right_after(bed, marked(), &frame);
        assert_eq!(outcome.verdict, REDIRECT);
        assert_eq!(outcome.counters.keys().collect::<Vec<_>>(), [&"egress_fast"]);
        sleep(TICK);
        assert_eq!(
            bed.pod_ingress(&frame.bytes(), on_pod()),
            left_to_kernel(&frame.bytes(), Reason::PodNoRoute)
        );
    });
}

/// Each seen red without its comparison in `to_peer_within`.
#[test]
fn an_answer_serves_only_for_the_same_question() {
    with_fast_bed(|bed| {
        let plain = TCP.sent_by_pod();
        // The outer header carries the ECN field alone.
        let mut capable = plain.clone();
        capable.ip.tos |= 0x02;
        let entries: [(&str, EgressFlow, Frame); 5] = [
            (
                "mark",
                changed(marked(), |entry| entry.mark = 0x79),
                plain.clone(),
            ),
            (
                "source port",
                changed(marked(), |entry| {
                    let [high, low] = entry.source_port;
                    entry.source_port = [high, low ^ 1];
                }),
                plain.clone(),
            ),
            (
                // The same slot.
                "source port, other bits",
                changed(marked(), |entry| {
                    let [high, low] = entry.source_port;
                    entry.source_port = [high ^ 1, low];
                }),
                plain.clone(),
            ),
            (
                "VTEP",
                changed(marked(), |entry| entry.vtep = addr(FAR.vtep)),
                plain.clone(),
            ),
            ("length", marked(), with_payload(200)),
        ];
        for (what, entry, frame) in entries {
            assert_eq!(
                right_after(bed, entry, &frame),
                left_to_kernel(&frame.bytes(), Reason::PodNoRoute),
                "{what}"
            );
        }
        assert_eq!(
            right_after(bed, marked(), &capable),
            left_to_kernel(&capable.bytes(), Reason::PodNoRoute),
            "TOS"
        );
        let shorter = with_payload(1);
        assert_eq!(right_after(bed, marked(), &shorter).verdict, REDIRECT);
    });
}

/// Seen red with a port that counts in any case, with slots by port, and without the comparison of VTEPs or of marks.
#[test]
fn where_ports_have_no_say_an_answer_serves_all_flows_to_a_peer() {
    with_fast_bed(|bed| {
        let plain = TCP.sent_by_pod();
        let other_port = changed(marked(), |entry| {
            let [high, low] = entry.source_port;
            entry.source_port = [high ^ 1, low ^ 1];
        });
        let outcome = right_after_with(bed, 0, other_port, &plain);
        assert_eq!(outcome.verdict, REDIRECT);
        assert_eq!(outcome.counters.keys().collect::<Vec<_>>(), [&"egress_fast"]);
        let mut capable = plain.clone();
        capable.ip.tos |= 0x02;
        let same_slot = |entry: &mut EgressFlow| {
            let [a, b, c, d] = entry.vtep.low_v4();
            entry.vtep = Addr::from_v4([a, b, c ^ 1, d]);
        };
        for (what, entry, frame) in [
            ("mark", changed(marked(), |entry| entry.mark ^= 0x100), &plain),
            ("VTEP", changed(marked(), same_slot), &plain),
            ("TOS", marked(), &capable),
            ("length", marked(), &with_payload(200)),
        ] {
            assert_eq!(
                right_after_with(bed, 0, entry, frame),
                left_to_kernel(&frame.bytes(), Reason::PodNoRoute),
                "{what}"
            );
        }
    });
}

/// A new configuration may name another underlay.
#[test]
fn an_answer_serves_only_within_its_epoch() {
    with_fast_bed(|bed| {
        let (hearing, deaf) = (fast_config(bed), deaf(bed));
        let frame = TCP.sent_by_pod().bytes();
        for _ in 0..ATTEMPTS {
            sleep(TICK);
            bed.configure(hearing);
            bed.set_egress_flow(&TCP.pod_key(), marked());
            let begin = tick();
            assert_eq!(bed.pod_ingress(&frame, on_pod()).verdict, REDIRECT);
            bed.configure(Config {
                epoch: hearing.epoch.wrapping_add(1),
                ..deaf
            });
            let entry = changed(marked(), |entry| entry.epoch = entry.epoch.wrapping_add(1));
            bed.set_egress_flow(&TCP.pod_key(), entry);
            let outcome = bed.pod_ingress(&frame, on_pod());
            if tick() == begin {
                assert_eq!(outcome, left_to_kernel(&frame, Reason::PodNoRoute));
                return;
            }
        }
        panic!("two packets were never within one tick");
    });
}
