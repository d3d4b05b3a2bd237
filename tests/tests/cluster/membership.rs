//! Nodes that come, go, change and collide, in a cluster with a node of flannel.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::ensure;
use overlay_testbed::flannel_node::annotations::{
    BACKEND_DATA, BACKEND_TYPE, MANAGED, PUBLIC_IP, backend_data,
};
use overlay_testbed::{FlannelNode, Lease, Mac, eventually};
use serde_json::json;

use crate::agent::KubeAgent;
use crate::bed::Cluster;
use crate::reach::{assert_all_reach, assert_reach};
use crate::state::check_peers;
use crate::streams::Streams;

const AGENTS: [u8; 2] = [1, 2];
const FLANNEL: u8 = 3;

/// A node whose machine does not exist. Its name comes before those of the testbed's nodes in any list.
fn absent(number: u8) -> Lease {
    Lease {
        node: format!("absent-{number}"),
        subnet: Ipv4Addr::new(10, 244, 100 + number, 0),
        public_ip: Ipv4Addr::new(172, 16, 0, number),
        vtep_mac: Mac([0x06, 0, 0, 0, 0, number]),
    }
}

/// Two agents and a node of flannel that know each other.
fn start() -> (Cluster, FlannelNode, [KubeAgent; 2]) {
    let cluster = Cluster::start(3, 1);
    let flannel = cluster.start_flannel(FLANNEL);
    let agents = AGENTS.map(|index| cluster.start_agent(index));
    for index in AGENTS {
        flannel.add_peer(&cluster.lease(index)).unwrap();
    }
    cluster.settle(&AGENTS, &[FLANNEL]);
    (cluster, flannel, agents)
}

// Seen red with an agent that takes nothing away, and with one that reads podCIDR only once.
#[test]
fn nodes_go_and_change_while_an_agent_is_down() {
    let (cluster, _flannel, [agent_1, agent_2]) = start();
    cluster.follow(&AGENTS, |_| {
        (1..=4).for_each(|number| cluster.create_absent(&absent(number)));
    });
    let streams = Streams::start(&cluster.testbed, &[(1, 2), (1, FLANNEL)]);

    // Gone; back with another podCIDR; with another MAC; no longer flannel's. Node 2 looks on, node 1 does not.
    agent_1.stop();
    let moved = Lease {
        subnet: Ipv4Addr::new(10, 244, 150, 0),
        ..absent(2)
    };
    cluster.follow(&[2], |server| {
        server.delete_node("absent-1").unwrap();
        server.delete_node("absent-2").unwrap();
        cluster.create_absent(&moved);
        let renewed = backend_data(1, Mac([0x06, 0, 0, 0, 1, 3]));
        server
            .annotate_node("absent-3", &[(BACKEND_DATA, Some(&renewed))])
            .unwrap();
        let keys = [BACKEND_DATA, BACKEND_TYPE, MANAGED, PUBLIC_IP].map(|key| (key, None));
        server.annotate_node("absent-4", &keys).unwrap();
    });
    let leases = cluster.leases();
    assert!(leases.contains(&moved) && leases.len() == 5, "{leases:?}");
    let agent_1 = {
        let agent = cluster.start_agent(1);
        // What is ready has nothing left to do.
        check_peers(cluster.node(1), &leases, true).unwrap();
        agent
    };

    // Back to the first podCIDR before the agents' eyes, and away.
    cluster.follow(&AGENTS, |server| {
        server.delete_node("absent-2").unwrap();
        cluster.create_absent(&absent(2));
    });
    cluster.follow(&AGENTS, |server| {
        (1..=4).for_each(|number| server.delete_node(&absent(number).node).unwrap());
    });
    assert_eq!(cluster.leases().len(), 3);
    streams.expect_nothing_lost("while other nodes came and went");
    agent_1.stop();
    agent_2.stop();
}

// Seen red with an agent that waits for the Node to be deleted, as flannel does.
#[test]
fn a_node_that_is_no_longer_flannels_is_nobodys_peer() {
    let (cluster, _flannel, [agent_1, agent_2]) = start();
    let streams = Streams::start(&cluster.testbed, &[(1, 2)]);
    let kept = cluster.annotations("node-3");
    let keys: Vec<_> = kept.keys().map(|key| (key.as_str(), None)).collect();
    cluster.follow(&AGENTS, |server| server.annotate_node("node-3", &keys).unwrap());
    assert_eq!(cluster.leases().len(), 2);
    for index in AGENTS {
        let pods = [index, FLANNEL].map(|node| cluster.testbed.pod(node, 1).unwrap());
        assert_reach(pods[0], pods[1]).unwrap_err();
    }
    let patch = json!({ "metadata": { "annotations": kept } });
    cluster.follow(&AGENTS, |server| server.patch_node("node-3", &patch).unwrap());
    assert_all_reach(&cluster.testbed);
    streams.expect_nothing_lost("while node 3 was away");
    agent_1.stop();
    agent_2.stop();
}

// Seen red with the last claimant winning, as with flannel, and with the first in the order of the list.
#[test]
fn whoever_claims_what_flannels_node_has_gets_nothing() {
    let (cluster, flannel, [agent_1, agent_2]) = start();
    let leases = cluster.leases();
    let streams = Streams::start(&cluster.testbed, &[(1, FLANNEL), (2, FLANNEL)]);
    let of_flannel = flannel.lease();
    let same_subnet = Lease {
        subnet: of_flannel.subnet,
        ..absent(1)
    };
    let same_mac = Lease {
        vtep_mac: of_flannel.vtep_mac,
        ..absent(2)
    };
    for claimant in [&same_subnet, &same_mac] {
        cluster.create_absent(claimant);
        for agent in [&agent_1, &agent_2] {
            agent.wait_log(&["node-3", &claimant.node]);
        }
    }
    // An agent reports what concerns its own node.
    let of_agent = Lease {
        subnet: cluster.lease(1).subnet,
        ..absent(3)
    };
    cluster.create_absent(&of_agent);
    agent_2.wait_log(&["node-1", "absent-3"]);
    eventually(Duration::from_secs(5), "an Event that names both", || {
        let events = cluster.server.client().get("/api/v1/namespaces/default/events")?;
        let all = events["items"].as_array().cloned().unwrap_or_default();
        let texts = all.iter().map(ToString::to_string);
        let mut about = texts.filter(|text| text.contains("node-1") && text.contains("absent-3"));
        ensure!(about.next().is_some(), "{events:#}");
        Ok(())
    })
    .unwrap();
    for index in AGENTS {
        check_peers(cluster.node(index), &leases, true).unwrap();
    }
    // Also for an agent that sees them all at once.
    agent_1.kill9();
    let agent_1 = cluster.start_agent(1);
    check_peers(cluster.node(1), &leases, true).unwrap();
    for (holder, claimant) in [
        ("node-3", "absent-1"),
        ("node-3", "absent-2"),
        ("node-1", "absent-3"),
    ] {
        agent_1.wait_log(&[holder, claimant]);
    }
    streams.expect_nothing_lost("while others claimed the subnet and the MAC of flannel's node");

    // When flannel's node goes, what it had is free.
    cluster.server.delete_node("absent-3").unwrap();
    cluster.follow(&AGENTS, |server| server.delete_node("node-3").unwrap());
    assert!(cluster.leases().contains(&same_subnet));
    agent_1.stop();
    agent_2.stop();
}
