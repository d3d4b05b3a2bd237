//! Ending and starting the agent on a node with unchanged leases.

use std::thread::sleep;
use std::time::Duration;

use overlay_testbed::{Agent, Node, Testbed};

use crate::bed::{Peers, Traffic, assert_settled, ifindex, options, pinned, testbed, with_absent};

/// Everything that would tell a restarted node from an untouched one.
fn identity(node: &Node) -> impl PartialEq + std::fmt::Debug + use<> {
    (ifindex(node), pinned(node), Peers::of(node).unwrap())
}

/// Traffic across an end by `end` and a start; returns the log of the second agent.
fn across(testbed: &Testbed, agent: Agent, end: impl FnOnce(Agent)) -> Agent {
    let node = testbed.node(1).unwrap();
    let before = identity(node);
    let traffic = [Traffic::start(testbed, 1, 2), Traffic::start(testbed, 2, 1)];
    end(agent);
    // Without an agent everything is as it was.
    assert_eq!(identity(node), before);
    sleep(Duration::from_millis(200));
    assert_settled(node, &["--resync", "1"]);
    let agent = node.start_agent(&options()).unwrap();
    // Long enough for a resync.
    sleep(Duration::from_millis(1200));
    traffic.into_iter().for_each(Traffic::stop);
    assert_eq!(identity(node), before);
    let log = agent.log();
    assert!(log.contains("nothing to do"), "{log}");
    for word in [
        "(missing)",
        " steps in ",
        " warn ",
        " error ",
        "dataplane load",
        "attach ",
    ] {
        assert!(!log.contains(word), "{word}: {log}");
    }
    agent
}

// Seen red with `LoadDataplane` in every plan.
#[test]
fn a_restart_plans_nothing_and_loses_nothing() {
    let testbed = testbed(2);
    let agents = testbed.start_agents(&options()).unwrap();
    testbed.publish(&with_absent(&testbed, 3)).unwrap();
    let mut agents = agents.into_iter();
    let (first, second) = (agents.next().unwrap(), agents.next().unwrap());
    crate::bed::wait_for_peers(testbed.node(1).unwrap(), &with_absent(&testbed, 3));
    let log = first.node().clone();
    let first = across(&testbed, first, |agent| agent.stop().unwrap());
    let said = log.read_file(overlay_testbed::AgentOptions::LOG).unwrap();
    assert!(said.contains("SIGTERM"), "{said}");
    let first = across(&testbed, first, |agent| agent.kill9().unwrap());
    first.stop().unwrap();
    second.stop().unwrap();
}
