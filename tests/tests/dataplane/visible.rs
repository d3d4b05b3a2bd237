//! What an operator sees: bpftool's dumps with named fields, counters, and what the programs log.

use std::sync::{Mutex, Once};
use std::time::Duration;

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use log::{LevelFilter, Log, Metadata, Record};
use overlay_agent::dataplane::{AttachChoice, Capacity, OBJECT_HASH};
use overlay_common::reason::Reason;
use overlay_core::action::Hook;

use crate::sandbox::{self, Sandbox, command};

#[test]
fn bpftool_prints_named_fields() {
    sandbox::run(AttachChoice::Tcx, |sandbox| {
        sandbox.set_up();
        for (map, fields) in [
            ("CONFIG", ["\"vtep_mac\"", "\"underlay_ifindex\"", "\"vni\""]),
            ("SUBNETS", ["\"vtep\"", "\"vtep_mac\"", "\"octets\""]),
            ("PEERS", ["\"subnet\"", "\"stats\"", "\"octets\""]),
            ("PEER_STATS", ["\"tx_packets\"", "\"rx_bytes\"", "\"cpu\""]),
            ("COUNTERS", ["\"packets\"", "\"bytes\"", "\"cpu\""]),
        ] {
            let dump = command(
                "bpftool",
                &format!("map dump pinned {}", sandbox.pin_dir.join(map).display()),
            );
            for field in fields {
                assert!(dump.contains(field), "{map} has no field {field}: {dump}");
            }
        }
    });
}

/// What the `log` crate was given.
static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Capture;

impl Log for Capture {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        LOGGED.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// A tunnel packet for the sandbox's VTEP from an address that is no peer, carrying an IPv4 packet.
fn packet_of_a_stranger() -> Vec<u8> {
    let outer_ip = [
        0x45, 0, 0, 78, 0, 0, 0, 0, 64, 17, 0, 0, // 20 + 8 + 8 + 14 + 28 bytes, UDP
        203, 0, 113, 9, 192, 168, 0, 1,
    ];
    let udp = [0xc0, 0, 0x21, 0x18, 0, 58, 0, 0];
    let vxlan = [8, 0, 0, 0, 0, 0, 1, 0];
    let inner_ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let inner_ip = [
        0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 244, 2, 2, 10, 244, 1, 2,
    ];
    let outer_ethernet = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0];
    [
        &outer_ethernet[..],
        &outer_ip,
        &udp,
        &vxlan,
        &inner_ethernet,
        &inner_ip,
        &[0; 8],
    ]
    .concat()
}

fn run_stranger(sandbox: &Sandbox) {
    let name = Hook::UnderlayIngress.program().name();
    let program = SchedClassifier::from_pin(
        sandbox
            .pin_dir
            .join("programs")
            .join(format!("{name}-{OBJECT_HASH}")),
    )
    .unwrap();
    let packet = packet_of_a_stranger();
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(&packet),
            ..TestRunOptions::default()
        })
        .unwrap();
    assert_eq!(result.return_value, 2, "TC_ACT_SHOT");
}

#[test]
fn refusals_are_counted_and_logged_through_replaced_maps() {
    static LOGGER: Once = Once::new();
    LOGGER.call_once(|| log::set_logger(&Capture).unwrap());
    log::set_max_level(LevelFilter::Info);
    sandbox::run(AttachChoice::Tcx, |sandbox| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let dataplane = sandbox.set_up();
        let logs = dataplane.logs();
        let refused = || {
            LOGGED
                .lock()
                .unwrap()
                .iter()
                .filter(|line| line.contains("refused"))
                .count()
        };
        runtime.block_on(async {
            let follower = tokio::spawn(logs);
            for round in 1..=2 {
                run_stranger(sandbox);
                let counters = dataplane_of(sandbox, round).counters().unwrap();
                let (_, counter) = counters
                    .iter()
                    .find(|(reason, _)| *reason == Reason::UnknownPeer)
                    .copied()
                    .unwrap();
                assert_eq!(counter.packets, 1);
                for _ in 0..1500 {
                    if refused() >= round {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                assert_eq!(refused(), round, "{:?}", LOGGED.lock().unwrap());
                if round == 1 {
                    // Other maps, other programs: the follower finds them.
                    let mut other = dataplane_of(sandbox, 2);
                    sandbox::execute(&mut other, &sandbox::everything());
                }
            }
            follower.abort();
        });
    });
}

/// Each round has maps of another capacity.
fn dataplane_of(sandbox: &Sandbox, round: usize) -> overlay_agent::dataplane::Dataplane {
    let peers = sandbox::CAPACITY.peers * u32::try_from(round).unwrap();
    sandbox.open_for(Capacity {
        peers,
        ..sandbox::CAPACITY
    })
}
