//! The agent killed with -9 in the middle of a plan.

use std::fs;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use aya::maps::{LpmTrie, Map, MapData};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use overlay_common::addr::Addr;
use overlay_common::maps::SubnetEntry;
use overlay_testbed::{Agent, AgentOptions, Lease, Leases, Mac, Node};
use serde_json::json;

use crate::bed::{DEVICE, PINS, Peers, assert_settled, testbed};

const CROWD: u16 = 400;

/// When to kill.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So many routes out of our device have changed.
    Routes(usize),
    /// So many neighbours have changed.
    Neighbours(usize),
    /// So many `SUBNETS` entries have changed.
    Subnets(usize),
    /// So long after the file has been at rest.
    After(u64),
}

/// Leases of many nodes that do not exist; another `generation` is the same subnets elsewhere.
fn crowd(own: Lease, generation: u8) -> Leases {
    let mut leases: Leases = [own].into_iter().collect();
    for number in 1..=CROWD {
        let [high, low] = number.to_be_bytes();
        leases.join(Lease {
            node: format!("absent-{number}"),
            subnet: Ipv4Addr::new(10, high, low, 0),
            public_ip: Ipv4Addr::new(172, 16 + generation, high, low),
            vtep_mac: Mac([0x06, 0, 0, generation, high, low]),
        });
    }
    leases
}

fn options() -> AgentOptions {
    AgentOptions {
        net_conf: json!({ "Network": "10.0.0.0/8", "Backend": { "Type": "vxlan" } }).to_string(),
        ..AgentOptions::default()
    }
}

/// Lines about our device in a table of the calling thread's network namespace.
fn lines(table: &str) -> usize {
    let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
    text.lines().filter(|line| line.contains(DEVICE)).count()
}

fn arrived(moment: Moment, node: &Node, start: Instant) -> impl FnMut() -> bool + Send + use<> {
    let map = MapData::from_pin(node.space().path_from_outside(format!("{PINS}/SUBNETS").as_ref())).unwrap();
    let map = LpmTrie::<_, [u8; 16], [u8; size_of::<SubnetEntry>()]>::try_from(Map::LpmTrie(map)).unwrap();
    const _: () = assert!(size_of::<Addr>() == 16);
    let mut first = None;
    move || {
        let (count, target) = match moment {
            Moment::Routes(target) => (lines("route"), target),
            Moment::Neighbours(target) => (lines("arp"), target),
            Moment::Subnets(target) => (map.keys().filter(Result::is_ok).count(), target),
            Moment::After(millis) => return start.elapsed() >= Duration::from_millis(50 + millis),
        };
        count.abs_diff(*first.get_or_insert(count)) >= target
    }
}

/// Lets the agent apply `leases` and kills it at `moment`. Whether that was in the middle.
fn kill_while_applying(agent: Agent, leases: &Leases, moment: Moment) -> bool {
    let node = agent.node().clone();
    let pid = Pid::from_raw(agent.pid().unwrap());
    let before = Peers::of(&node).unwrap();
    let yaml = leases.to_yaml();
    node.space()
        .enter(|| {
            node.write_file(AgentOptions::LEASES, &yaml)?;
            let start = Instant::now();
            let mut arrived = arrived(moment, &node, start);
            // A plan can run past a moment between two looks; the count of those that did not is checked below.
            while !arrived() && start.elapsed() < Duration::from_secs(2) {
                std::hint::spin_loop();
            }
            kill(pid, Signal::SIGKILL)?;
            Ok(())
        })
        .unwrap();
    agent.kill9().unwrap();
    let found = Peers::of(&node).unwrap();
    found.assert_bpf_within_kernel();
    found != before && found != Peers::wanted(leases, node.name())
}

/// One kill after the other, each on the way to the next list of leases; after each the next agent finishes the work.
///
/// All moments once; and again, where a busy machine has let too many plans run past them.
fn kills(moments: &[Moment], lists: fn(Lease) -> Vec<Leases>) {
    let testbed = testbed(1);
    let node = testbed.node(1).unwrap();
    let lists = lists(node.lease());
    node.write_leases(lists.last().unwrap()).unwrap();
    let options = options();
    let mut agent = node.start_agent(&options).unwrap();
    let (mut kills, mut in_the_middle) = (0, 0);
    for (moment, leases) in moments.iter().cycle().zip(lists.iter().cycle()) {
        let enough = in_the_middle * 2 >= moments.len();
        if kills == 3 * moments.len() || (enough && kills >= moments.len()) {
            break;
        }
        kills += 1;
        in_the_middle += usize::from(kill_while_applying(agent, leases, *moment));
        agent = node.start_agent(&options).unwrap();
        let found = Peers::of(node).unwrap();
        assert!(
            found == Peers::wanted(leases, node.name()),
            "after a kill at {moment:?}, the next agent says:\n{}",
            agent.log()
        );
        assert_settled(node, &[]);
        // Its watch of the file begins before the first reading; nothing else is under way.
        sleep(Duration::from_millis(10));
    }
    agent.stop().unwrap();
    println!("{in_the_middle} of {kills} kills were in the middle of a plan");
    assert!(
        in_the_middle * 2 >= moments.len(),
        "only {in_the_middle} of {kills} kills were in the middle of a plan"
    );
}

// Seen red with `SetSubnet` before `SetRoute`.
#[test]
fn killed_while_adding_and_moving() {
    let moments = [
        Moment::Subnets(1),
        Moment::Subnets(200),
        Moment::Neighbours(1),
        Moment::Routes(1),
        Moment::Subnets(399),
        Moment::Subnets(100),
        Moment::Routes(300),
        Moment::Subnets(150),
        Moment::After(14),
        Moment::After(18),
    ];
    kills(&moments, |own| {
        vec![
            crowd(own.clone(), 1),
            crowd(own.clone(), 2),
            [own].into_iter().collect(),
        ]
    });
}

// Seen red with `RemoveSubnet` after everything else.
#[test]
fn killed_while_removing() {
    let moments = [
        Moment::Subnets(1),
        Moment::Subnets(250),
        Moment::Routes(1),
        Moment::Subnets(50),
        Moment::Routes(350),
        Moment::Subnets(60),
        Moment::Neighbours(1),
        Moment::Subnets(120),
        Moment::Neighbours(200),
        Moment::After(10),
    ];
    kills(&moments, |own| {
        vec![[own.clone()].into_iter().collect(), crowd(own, 1)]
    });
}
