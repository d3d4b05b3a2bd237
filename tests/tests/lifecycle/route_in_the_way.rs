//! A peer's subnet already has somebody else's route.

use std::time::Duration;

use anyhow::ensure;
use overlay_testbed::{Agent, eventually};

use crate::bed::{Peers, SOON, assert_reach, command, options, testbed};

const FOREIGN: &str = "10.244.2.0/24 via 192.168.0.254 dev eth0 proto static";
/// The longest wait between two attempts is 30 s.
const NEXT_ATTEMPT: Duration = Duration::from_secs(40);

fn assert_untouched(agent: &Agent) {
    let found = agent.node().run("ip route show 10.244.2.0/24").unwrap();
    assert_eq!(found.trim(), FOREIGN);
}

fn wait_until_named(agent: &Agent) {
    eventually(SOON, "the route in the agent's log", || {
        let log = agent.log();
        for part in [FOREIGN, "left alone", "ip route delete"] {
            ensure!(log.contains(part), "no {part:?} in: {log}");
        }
        Ok(())
    })
    .unwrap();
    assert_untouched(agent);
}

#[test]
fn somebody_else_s_route_to_a_peer_survives() {
    let testbed = testbed(3);
    let node = testbed.node(1).unwrap();
    node.run(&format!("ip route add {FOREIGN}")).unwrap();
    let mut agents = testbed.start_agents(&options()).unwrap();
    let agent = agents.remove(0);
    wait_until_named(&agent);
    for (from, to) in [(1, 3), (3, 1), (2, 3), (3, 2)] {
        assert_reach(&testbed, from, to);
    }

    agent.stop().unwrap();
    command(node, &["cleanup"]);
    let found = node.run("ip route show 10.244.2.0/24").unwrap();
    assert_eq!(found.trim(), FOREIGN, "after cleanup");

    let agent = node.start_agent(&options()).unwrap();
    wait_until_named(&agent);
    node.run(&format!("ip route delete {FOREIGN}")).unwrap();
    let wanted = Peers::wanted(&testbed.leases(), node.name());
    eventually(NEXT_ATTEMPT, "the peer's own route", || {
        let found = Peers::of(node)?;
        ensure!(found == wanted, "found {found:#?}, wanted {wanted:#?}");
        Ok(())
    })
    .unwrap();
    assert_reach(&testbed, 1, 2);
    assert_reach(&testbed, 2, 1);
    agent.stop().unwrap();
}
