//! Nodes that cannot be used, or not beside another one: said once, and nobody else suffers.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, ensure};
use overlay_testbed::eventually;
use serde_json::Value;

use crate::agent::{KubeAgent, READY};
use crate::bed::{Bed, absent, absent_node, turn};
use crate::peers::{AT_ONCE, wait_peers};

const BACKEND_DATA: &str = "flannel.alpha.coreos.com/backend-data";
const PUBLIC_IP: &str = "flannel.alpha.coreos.com/public-ip";

/// Time for something that should not happen.
const A_WHILE: Duration = Duration::from_secs(2);

/// A bad Node is named with key and value, once per change; the next Node is followed as if it were not there.
///
/// Seen red with an agent that says it at every change of the Node, and with one that drops the last good lease.
#[test]
fn a_bad_node_is_reported_once_and_delays_nobody() {
    let mut bed = turn();
    let node = bed.machine();
    bed.create_absent(&absent(1));
    let agent = KubeAgent::start(&node);

    let lease = absent(2);
    let bad = absent_node(&lease).annotation(BACKEND_DATA, "{\"VtepMAC\":\"nonsense\"}");
    bed.server.create_node(&bad).unwrap();
    bed.create_absent(&absent(3));
    wait_peers(&node, &[absent(1), absent(3)], AT_ONCE);
    let words = [lease.node.as_str(), BACKEND_DATA, "nonsense"];
    agent.wait_line(&words, READY);

    // A change of something else is no reason to say it again.
    bed.server
        .annotate_node(&lease.node, &[("example.com/note", Some("x"))])
        .unwrap();
    sleep(A_WHILE);
    assert_eq!(agent.lines(&words).len(), 1, "{}", agent.log());

    // Another mistake is.
    let data = format!("{{\"VNI\":1,\"VtepMAC\":\"{}\"}}", lease.vtep_mac);
    let fixed = (BACKEND_DATA, Some(data.as_str()));
    bed.server
        .annotate_node(&lease.node, &[fixed, (PUBLIC_IP, Some("10.0.0"))])
        .unwrap();
    agent.wait_line(&[&lease.node, PUBLIC_IP, "10.0.0"], READY);

    let address = lease.public_ip.to_string();
    bed.server
        .annotate_node(&lease.node, &[(PUBLIC_IP, Some(&address))])
        .unwrap();
    wait_peers(&node, &[absent(1), lease.clone(), absent(3)], AT_ONCE);

    // What a Node that was good says last is kept: a slip of the hand does not cut a node off.
    bed.server
        .annotate_node(&lease.node, &[(BACKEND_DATA, Some("{"))])
        .unwrap();
    agent.wait_line(&[&lease.node, BACKEND_DATA, "stays in force"], READY);
    wait_peers(&node, &[absent(1), lease, absent(3)], Duration::ZERO);
    agent.stop();
}

/// Of two nodes with one podCIDR, or one MAC address, the first keeps it; both are named. The second takes it when the first
/// is gone.
///
/// Seen red with the last claimant winning, with the first in the order of names, without the comparison of subnets, without
/// that of MAC addresses, and with an Event from every agent.
#[test]
fn the_first_of_two_keeps_what_both_claim() {
    let mut bed = turn();
    let node = bed.machine();
    bed.create_absent(&absent(1));
    bed.create_absent(&absent(2));
    let agent = KubeAgent::start(&node);
    wait_peers(&node, &[absent(1), absent(2)], AT_ONCE);

    let mut same_subnet = absent(3);
    "aaa-subnet".clone_into(&mut same_subnet.node);
    same_subnet.subnet = absent(1).subnet;
    bed.create_absent(&same_subnet);
    agent.wait_line(&["aaa-subnet", "absent-1", &absent(1).subnet.to_string()], READY);

    let mut same_mac = absent(4);
    "aaa-mac".clone_into(&mut same_mac.node);
    same_mac.vtep_mac = absent(2).vtep_mac;
    bed.create_absent(&same_mac);
    agent.wait_line(&["aaa-mac", "absent-2", &absent(2).vtep_mac.to_string()], READY);

    bed.create_absent(&absent(5));
    wait_peers(&node, &[absent(1), absent(2), absent(5)], AT_ONCE);
    agent.ready().unwrap();
    assert_eq!(
        agent.lines(&["aaa-subnet", "absent-1"]).len(),
        1,
        "{}",
        agent.log()
    );
    // It concerns neither this node nor its agent: no event from it.
    assert_eq!(bed.count(&node, "create", "events"), 0);

    bed.server.delete_node("absent-1").unwrap();
    bed.server.delete_node("absent-2").unwrap();
    wait_peers(&node, &[same_subnet, same_mac, absent(5)], AT_ONCE);
    agent.stop();
}

/// A conflict with the agent's own node is an Event on that Node, with both names.
///
/// Seen red without Events, without the comparison of subnets, and without that of MAC addresses.
#[test]
fn a_conflict_with_the_own_node_is_an_event() {
    let mut bed = turn();
    let node = bed.machine();
    let agent = KubeAgent::start(&node);
    let mut twin = absent(1);
    twin.subnet = node.lease().subnet;
    bed.create_absent(&twin);
    let event = wait_event(&bed, node.name(), "DuplicatePodCIDR");
    assert_eq!(event["type"], "Warning");
    let message = event["message"].as_str().unwrap();
    for part in [node.name(), &twin.node, &format!("{}/24", twin.subnet)] {
        assert!(message.contains(part), "no {part} in {message}");
    }
    agent.wait_line(&[node.name(), &twin.node], READY);

    let mut clone = absent(2);
    let mac = node.run("cat /sys/class/net/flannel.1/address").unwrap();
    let mac = mac.trim();
    clone.vtep_mac.0.copy_from_slice(&octets(mac));
    bed.create_absent(&clone);
    let event = wait_event(&bed, node.name(), "DuplicateVtepMAC");
    assert!(event["message"].as_str().unwrap().contains(mac), "{event}");
    wait_peers(&node, &[], AT_ONCE);
    sleep(A_WHILE);
    assert_eq!(
        bed.count(&node, "create", "events"),
        2,
        "{:#?}",
        bed.requests(&node)
    );
    agent.stop();
}

fn octets(mac: &str) -> Vec<u8> {
    mac.split(':')
        .map(|octet| u8::from_str_radix(octet, 16).unwrap())
        .collect()
}

/// Waits for the Event with `reason` on Node `name`.
fn wait_event(bed: &Bed, name: &str, reason: &str) -> Value {
    eventually(READY, "an Event", || {
        let list = bed.server.client().get("/api/v1/namespaces/default/events")?;
        let events = list["items"].as_array().context("no items")?;
        let found = events.iter().find(|event| {
            event["involvedObject"]["kind"] == "Node"
                && event["involvedObject"]["name"] == name
                && event["reason"] == reason
        });
        ensure!(found.is_some(), "no {reason} among {}", events.len());
        found.cloned().context("no event")
    })
    .unwrap()
}
