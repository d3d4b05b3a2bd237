//! Somebody damages what the agent made.

use std::time::Duration;

use overlay_common::maps::PINNED;
use overlay_core::action::{Hook, Program};
use overlay_core::pods::POD_PROGRAMS;
use overlay_testbed::{Agent, Leases, Node, Testbed, eventually};

use crate::bed::{DEVICE, PINS, assert_reach, options, pinned, testbed, verb, wait_for_peers, with_absent};

const SOON: Duration = Duration::from_secs(6);

/// Runs `damage`, and waits until the agent has noticed and everything is as it was.
fn heals(testbed: &Testbed, agent: &Agent, leases: &Leases, damage: &[&str]) {
    let node = agent.node();
    let said = agent.log().len();
    for command in damage {
        node.run(command).unwrap();
    }
    // Before anything is compared: an agent that has not noticed yet must not pass for one that has repaired.
    eventually(SOON, "a word about it in the agent's log", || {
        let log = agent.log();
        anyhow::ensure!(log.len() > said, "{damage:?}: nothing was said");
        Ok(())
    })
    .unwrap();
    wait_for_peers(node, leases);
    eventually(SOON, "an empty plan", || {
        let plan = verb(node, "plan", &[]).success()?;
        anyhow::ensure!(plan.starts_with("nothing to do"), "{damage:?}: {plan}");
        Ok(())
    })
    .unwrap();
    assert_complete(node);
    assert_reach(testbed, 1, 2);
    assert_reach(testbed, 2, 1);
}

fn assert_complete(node: &Node) {
    // Pods' devices are another loop's, which may come a moment later.
    eventually(SOON, "everything pinned", || {
        let pins = pinned(node);
        let of_kind = |kind: &str| pins.values().filter(|pin| pin.starts_with(kind)).count();
        // With the ring buffer of log messages.
        let maps = PINNED.len() + 1;
        let links = Hook::ALL.len() + node.pods().len() * POD_PROGRAMS.len();
        anyhow::ensure!(
            (of_kind("map "), of_kind("prog "), of_kind("link ")) == (maps, Program::ALL.len(), links),
            "{pins:?}"
        );
        Ok(())
    })
    .unwrap();
    let link = node.run(&format!("ip -d link show {DEVICE}")).unwrap();
    assert!(link.contains("mtu 1450") && link.contains(",UP"), "{link}");
}

// Seen red without the resync.
#[test]
fn damage_is_repaired_with_every_peer() {
    let testbed = testbed(2);
    let mut agents = testbed.start_agents(&options()).unwrap();
    let leases = with_absent(&testbed, 4);
    testbed.publish(&leases).unwrap();
    let agent = agents.remove(0);
    wait_for_peers(agent.node(), &leases);
    let subnet_key = "0x78 0 0 0 0 0 0 0 0 0 0 0 0 0 0xff 0xff 10 244 2 0";
    let map_delete = format!("bpftool map delete pinned {PINS}/SUBNETS key {subnet_key}");
    let vtep_delete =
        format!("bpftool map delete pinned {PINS}/PEERS key 0 0 0 0 0 0 0 0 0 0 0xff 0xff 192 168 0 2");
    let detach = format!("bpftool link detach pinned {PINS}/links/vtep_egress");
    let detach_ingress = format!("bpftool link detach pinned {PINS}/links/underlay_ingress");
    let unlink = format!("rm {PINS}/links/vtep_egress");
    let unpin = format!("rm -r {PINS}");
    let unpin_map = format!("rm {PINS}/SUBNETS");
    let unpin_programs = format!("rm -r {PINS}/programs");
    let damages: [&[&str]; 18] = [
        &["ip link delete flannel.1"],
        &["ip link set flannel.1 down", "ip link set flannel.1 up"],
        &["ip link set flannel.1 down"],
        &["ip route delete 10.244.2.0/24"],
        &["ip neigh delete 10.244.2.0 dev flannel.1"],
        &["ip neigh replace 10.244.2.0 lladdr 06:00:00:00:00:88 nud permanent dev flannel.1"],
        &["bridge fdb delete 02:00:00:00:00:02 dst 192.168.0.2 dev flannel.1 self"],
        &["bridge fdb replace 02:00:00:00:00:02 dst 172.16.0.88 dev flannel.1 self permanent"],
        &["ip address delete 10.244.1.0/32 dev flannel.1"],
        &["ip link set flannel.1 mtu 1400"],
        &[&map_delete],
        &[&vtep_delete],
        &[&detach],
        &[&detach_ingress],
        &[&unlink],
        &[&unpin_map],
        &[&unpin_programs],
        &[&unpin],
    ];
    for damage in damages {
        heals(&testbed, &agent, &leases, damage);
    }
    agent.stop().unwrap();
}
