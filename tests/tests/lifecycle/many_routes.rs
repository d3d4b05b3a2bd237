//! More peers than flannel's route protocol is used for: the further ones' routes have other protocols, and go all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use overlay_core::ownership::{SPREAD_FROM, SPREAD_PROTOCOLS};
use overlay_testbed::{Agent, AgentOptions, Mac, Node, Testbed, eventually};

use crate::bed::{DEVICE, command, json, options};

/// Peers whose routes are spread. Each protocol has some of them.
const SPREAD: usize = 400;
/// A debug build on a busy machine.
const ALL: Duration = Duration::from_secs(60);

/// Somebody else's routes beside the device, of protocols that the agent uses, too.
const BESIDE: [&str; 3] = [
    "10.244.64.0/24 via 192.168.0.254 dev eth0 proto 200",
    "203.0.113.0/24 via 192.168.0.254 dev eth0 proto 247",
    "198.51.100.0/24 via 192.168.0.254 dev eth0 proto boot",
];

/// And on the device: outside the cluster's network, by another gateway, with a metric.
const ON_DEVICE: [&str; 3] = [
    "192.0.2.0/24 via 192.0.2.0 dev flannel.1 proto 210 onlink",
    "10.244.65.0/24 via 10.244.65.1 dev flannel.1 proto 220 onlink",
    "10.244.66.0/24 via 10.244.66.0 dev flannel.1 proto 230 metric 7 onlink",
];

/// A lease file with the node's own lease and `count` peers that do not exist. 10.244.0.0/16 has too few /24 for them: a /28 each.
fn lease_file(testbed: &Testbed, count: usize) -> String {
    let mut text = testbed.leases().to_yaml();
    for number in 0..u16::try_from(count).unwrap() {
        let [high, low] = number.to_be_bytes();
        let subnet = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 128, 0)) + (u32::from(number) << 4));
        let (address, mac) = (Ipv4Addr::new(172, 17, high, low), Mac([6, 1, 0, 0, high, low]));
        write!(
            text,
            "  - node: many-{number}\n    subnet: {subnet}/28\n    publicIP: {address}\n    vtepMAC: {mac}\n"
        )
        .unwrap();
    }
    text
}

fn add(node: &Node, routes: &[&str]) {
    for route in routes {
        node.run(&format!("ip route add {route}")).unwrap();
    }
}

/// The routes out of the device, and how many there are of each protocol.
fn on_device(node: &Node) -> Result<BTreeMap<String, usize>> {
    let mut protocols = BTreeMap::new();
    let routes = json(node, &format!("ip -4 -d -j route show dev {DEVICE}"))?;
    for route in routes.as_array().into_iter().flatten() {
        let protocol = route["protocol"].as_str().unwrap_or_default().to_owned();
        *protocols.entry(protocol).or_default() += 1;
    }
    Ok(protocols)
}

/// Every IPv4 route, one a line.
fn routes(node: &Node) -> BTreeSet<String> {
    let text = node.run("ip -4 -d route show table all").unwrap();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// Starts an agent and waits for the routes to all peers; their protocols are flannel's and all the others.
fn start(node: &Node, foreign: usize) -> Agent {
    let agent = node.start_agent(&options()).unwrap();
    eventually(ALL, "a route to every peer", || {
        let protocols = on_device(node)?;
        let count: usize = protocols.values().sum();
        ensure!(count == SPREAD_FROM + SPREAD + foreign, "{protocols:?}");
        Ok(())
    })
    .unwrap();
    let protocols = on_device(node).unwrap();
    let spread = SPREAD_PROTOCOLS.filter(|protocol| protocols.contains_key(&protocol.to_string()));
    assert!(spread.count() > 40, "{protocols:?}");
    agent
}

// Seen red with a device that `cleanup` leaves.
#[test]
fn cleanup_leaves_no_route_of_any_protocol() {
    let testbed = Testbed::builder().nodes(1).build().unwrap();
    let node = testbed.node(1).unwrap();
    add(node, &BESIDE);
    let before = routes(node);
    node.write_file(AgentOptions::LEASES, &lease_file(&testbed, SPREAD_FROM + SPREAD))
        .unwrap();
    let agent = start(node, 0);
    agent.stop().unwrap();
    command(node, &["cleanup"]);
    assert_eq!(routes(node), before);
}

// The device is flannel's and stays: the routes go one by one.
//
// Seen red with protocols of which only flannel's is ours, and with a shape that matches other gateways, or destinations
// outside the cluster's network.
#[test]
fn routes_of_peers_that_are_gone_go_from_flannels_device_and_others_stay() {
    let testbed = Testbed::builder().nodes(1).build().unwrap();
    testbed.configure_like_flannel().unwrap();
    let node = testbed.node(1).unwrap();
    add(node, &BESIDE);
    add(node, &ON_DEVICE);
    let before = routes(node);
    let write = |count| {
        node.write_file(AgentOptions::LEASES, &lease_file(&testbed, count))
            .unwrap();
    };
    // Once while the agent looks, once while it does not.
    for looks in [true, false] {
        write(SPREAD_FROM + SPREAD);
        let agent = start(node, ON_DEVICE.len());
        let agent = if looks {
            write(0);
            agent
        } else {
            agent.stop().unwrap();
            write(0);
            node.start_agent(&options()).unwrap()
        };
        eventually(ALL, "nothing but other people's routes", || {
            let found = routes(node);
            ensure!(found == before, "{} routes, not {}", found.len(), before.len());
            Ok(())
        })
        .unwrap();
        agent.stop().unwrap();
    }
    let said = command(node, &["cleanup"]);
    assert!(said.contains("left: flannel.1"), "{said}");
    assert_eq!(routes(node), before);
}
