//! Two agents and a node of flannel: everybody reaches everybody, whatever becomes of the agents.

use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::agent::{KubeAgent, subnet_env};
use crate::bed::Cluster;
use crate::monitor::Monitor;
use crate::reach::{assert_all_reach, assert_reach};
use crate::state::{ebpf_objects, identity};
use crate::streams::Streams;

const FLANNEL: u8 = 3;

#[derive(Clone, Copy, Debug)]
enum End {
    Term,
    Kill,
}

/// Ends and starts the agent of node `index`, with traffic in between.
fn across(cluster: &Cluster, index: u8, agent: KubeAgent, end: End) -> KubeAgent {
    let (node, other) = (cluster.node(index), 3 - index);
    let state = || {
        (
            identity(node),
            ebpf_objects(node),
            subnet_env(node),
            cluster.annotations(node.name()),
        )
    };
    let (before, published) = (state(), cluster.published(index));
    let monitors = [index, other, FLANNEL].map(|index| Monitor::start(cluster.node(index)));
    match end {
        End::Term => agent.stop(),
        End::Kill => agent.kill9(),
    }
    // Nobody is in charge, and nothing is missing: also new connections are made, to and from the node.
    assert_eq!(state(), before, "{end:?}");
    for peer in [other, FLANNEL] {
        for (from, to) in [(index, peer), (peer, index)] {
            let pods = [from, to].map(|node| cluster.testbed.pod(node, 2).unwrap());
            assert_reach(pods[0], pods[1]).unwrap();
        }
    }
    let agent = cluster.start_agent(index);
    // Long enough for what a start might have broken to be noticed.
    sleep(Duration::from_millis(500));
    assert_eq!(state(), before, "{end:?}");
    for monitor in monitors {
        let changes = monitor.stop();
        assert!(changes.is_empty(), "{end:?} of node {index}: {changes:#?}");
    }
    assert_eq!(
        cluster.published(index),
        published,
        "a restart has nothing to publish"
    );
    agent
}

// Seen red with an agent that deletes its device at the start, one that removes the route to node 3 for a moment, and one that
// publishes its annotations at every start.
#[test]
fn agents_and_flannel_reach_each_other_before_while_and_after_agents_restart() {
    let cluster = Cluster::start(3, 2);
    let flannel = cluster.start_flannel(FLANNEL);
    let mut agents: Vec<_> = [1, 2]
        .map(|index| {
            let agent = cluster.start_agent(index);
            flannel.add_peer(&cluster.lease(index)).unwrap();
            (index, agent)
        })
        .into();
    cluster.settle(&[1, 2], &[FLANNEL]);
    for index in [1, 2] {
        let condition = cluster.network_unavailable(index);
        let said = (&condition["status"], &condition["reason"]);
        assert_eq!(said, (&json!("False"), &json!("FlannelIsUp")));
    }
    assert_eq!(
        subnet_env(cluster.node(1)),
        subnet_env(cluster.node(3)).replace("10.244.3.", "10.244.1.")
    );
    assert_all_reach(&cluster.testbed);

    let streams = Streams::start(&cluster.testbed, &[(1, 2), (1, FLANNEL), (2, FLANNEL)]);
    for end in [End::Term, End::Kill] {
        agents = agents
            .into_iter()
            .map(|(index, agent)| (index, across(&cluster, index, agent, end)))
            .collect();
    }
    streams.expect_nothing_lost("during restarts of agents");
    cluster.settle(&[1, 2], &[FLANNEL]);
    assert_all_reach(&cluster.testbed);
    for (_, agent) in agents {
        agent.stop();
    }
}
