//! Random lists of leases, one after the other: each is reached in one pass, and nothing foreign is touched.

use std::env;
use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

use overlay_testbed::{Lease, Leases, Mac};

use crate::bed::{
    DEVICE, PINS, Peers, absent, assert_settled, command, options, plan, testbed, wait_for_peers, with_leases,
};
use crate::foreign;

const ROUNDS: u32 = 15;
/// How many nodes may come and go.
const NUMBERS: u8 = 20;
/// Names the seed of a run to repeat.
const SEED: &str = "OVERLAY_TEST_SEED";

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u8) -> u8 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u8::try_from((z ^ (z >> 31)) % u64::from(end)).unwrap()
    }
}

/// Which subnets (21, 61, 101 and so on), MACs and underlay addresses a lease moves among, whatever its node's name.
fn number(lease: &Lease) -> u8 {
    (lease.subnet.octets()[2] - 20) % 40
}

/// The name of a node that has no lease.
fn free_name(leases: &Leases) -> String {
    let is_free = |name: &String| leases.entries().iter().all(|lease| lease.node != *name);
    (1..=NUMBERS)
        .map(|number| format!("absent-{number}"))
        .find(is_free)
        .unwrap()
}

/// Some join, some leave, some get another MAC, underlay address or subnet, some swap places.
fn mutate(leases: &mut Leases, own: &str, random: &mut Random) {
    for _ in 0..=random.below(6) {
        let mut pick = |leases: &Leases| {
            let wanted = 1 + random.below(NUMBERS);
            let mut others = leases.entries().iter().filter(|lease| lease.node != own);
            (wanted, others.find(|lease| number(lease) == wanted).cloned())
        };
        let (wanted, found) = pick(leases);
        let (_, other) = pick(leases);
        let Some(mut lease) = found else {
            let node = free_name(leases);
            leases.join(Lease {
                node,
                ..absent(wanted)
            });
            continue;
        };
        let third = 1 + random.below(3);
        match random.below(5) {
            0 => leases.leave(&lease.node),
            1 => lease.vtep_mac = Mac([0x06, 0, 0, 0, third, wanted]),
            2 => lease.public_ip = Ipv4Addr::new(172, 16, third, wanted),
            3 => lease.subnet = Ipv4Addr::new(10, 244, 40 * third - 20 + wanted, 0),
            _ => {
                if let Some(mut other) = other {
                    std::mem::swap(&mut lease.node, &mut other.node);
                    leases.join(other);
                }
            }
        }
        if leases.entries().iter().any(|entry| entry.node == lease.node) {
            leases.join(lease);
        }
    }
}

// Seen red without the removal of stale forwarding entries, and with `ownership::route` ignoring the protocol.
#[test]
fn random_leases_converge_in_one_pass_and_foreign_objects_survive() {
    let seed = env::var(SEED).ok().map_or_else(
        || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            u64::from(now.subsec_nanos()) ^ now.as_secs()
        },
        |text| text.parse().unwrap(),
    );
    println!("{SEED}={seed} repeats this run");
    let mut random = Random(seed);
    let testbed = testbed(1);
    let (node, mut leases) = with_leases(&testbed, 8);
    let options = options();
    let agent = node.start_agent(&options).unwrap();
    foreign::plant(node);
    wait_for_peers(node, &leases);
    for round in 0..ROUNDS {
        let before = leases.clone();
        // Names alone make no difference to the kernel.
        while Peers::wanted(&leases, node.name()) == Peers::wanted(&before, node.name()) {
            mutate(&mut leases, node.name(), &mut random);
        }
        let line = agent.log().len();
        node.write_leases(&leases).unwrap();
        wait_for_peers(node, &leases);
        assert_settled(node, &[]);
        let log = agent.log();
        let log = &log[line..];
        for word in [" warn ", " error ", "failed"] {
            assert!(!log.contains(word), "round {round}: {log}");
        }
        // A removal of one peer and the programming of another are one line; a second pass would be a second one.
        let passes = log.lines().filter(|line| line.contains(" steps in ")).count();
        assert_eq!(passes, 1, "round {round}: {log}");
        foreign::assert_present(node, true);
    }
    agent.stop().unwrap();
    // What is pinned beside ours is reported, kept, and does not keep the rest from going.
    let said = command(node, &["cleanup"]);
    foreign::assert_present(node, false);
    assert!(!node.run("ip link").unwrap().contains(DEVICE), "{said}");
    assert_eq!(
        node.run(&format!("find {PINS} -mindepth 1")).unwrap().trim(),
        format!("{PINS}/foreign")
    );
    assert!(plan(node, &[]).contains("link add flannel.1"));
}
