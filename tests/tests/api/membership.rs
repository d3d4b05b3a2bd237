//! Nodes come, change and go, and the kernel follows.

use std::net::Ipv4Addr;

use anyhow::ensure;
use overlay_testbed::api_server::NodeObject;
use overlay_testbed::eventually;

use crate::agent::KubeAgent;
use crate::bed::{absent, turn};
use crate::peers::{AT_ONCE, wait_peers};

const BACKEND_DATA: &str = "flannel.alpha.coreos.com/backend-data";
const KUBE_SUBNET_MANAGER: &str = "flannel.alpha.coreos.com/kube-subnet-manager";
const PUBLIC_IP: &str = "flannel.alpha.coreos.com/public-ip";

/// More than one page of a list has.
const COUNT: u16 = 1200;

/// Every kind of change is in the kernel within a second, and the agent lists Nodes once in its life.
///
/// Seen red with a watch that passed on no deletions.
#[test]
fn nodes_are_followed() {
    let mut bed = turn();
    let node = bed.machine();
    bed.create_absent(&absent(1));
    let agent = KubeAgent::start(&node);
    wait_peers(&node, &[absent(1)], AT_ONCE);

    // Added.
    bed.create_absent(&absent(2));
    wait_peers(&node, &[absent(1), absent(2)], AT_ONCE);

    // The device was made anew, with another MAC address.
    let mut moved = absent(2);
    moved.vtep_mac.0[1] = 7;
    let data = format!("{{\"VNI\":1,\"VtepMAC\":\"{}\"}}", moved.vtep_mac);
    bed.server
        .annotate_node(&moved.node, &[(BACKEND_DATA, Some(&data))])
        .unwrap();
    wait_peers(&node, &[absent(1), moved.clone()], AT_ONCE);

    // The machine has another address.
    moved.public_ip = [172, 16, 9, 9].into();
    let address = moved.public_ip.to_string();
    bed.server
        .annotate_node(&moved.node, &[(PUBLIC_IP, Some(&address))])
        .unwrap();
    wait_peers(&node, &[absent(1), moved.clone()], AT_ONCE);

    // No overlay of this kind any more, and again: flannel follows neither.
    bed.server
        .annotate_node(&moved.node, &[(KUBE_SUBNET_MANAGER, None)])
        .unwrap();
    wait_peers(&node, &[absent(1)], AT_ONCE);
    bed.server
        .annotate_node(&moved.node, &[(KUBE_SUBNET_MANAGER, Some("true"))])
        .unwrap();
    wait_peers(&node, &[absent(1), moved.clone()], AT_ONCE);

    // Made anew with another podCIDR, under the same name.
    bed.server.delete_node(&moved.node).unwrap();
    let mut anew = absent(3);
    anew.node.clone_from(&moved.node);
    bed.create_absent(&anew);
    wait_peers(&node, &[absent(1), anew], AT_ONCE);

    // Gone.
    bed.server.delete_node(&moved.node).unwrap();
    wait_peers(&node, &[absent(1)], AT_ONCE);

    assert_eq!(bed.count(&node, "list", "nodes"), 1);
    agent.stop();
}

/// A Node that gets its podCIDR after its annotations is a peer from then on.
///
/// Seen red with Nodes that are not looked at again once they had no lease.
#[test]
fn a_late_pod_cidr_is_followed() {
    let mut bed = turn();
    let node = bed.machine();
    let agent = KubeAgent::start(&node);
    let lease = absent(1);
    let late =
        NodeObject::new(&lease.node).lease(&lease.public_ip.to_string(), 1, &lease.vtep_mac.to_string());
    bed.server.create_node(&late).unwrap();
    bed.create_absent(&absent(2));
    wait_peers(&node, &[absent(2)], AT_ONCE);
    bed.server
        .set_pod_cidr(&lease.node, &format!("{}/24", lease.subnet))
        .unwrap();
    wait_peers(&node, &[lease, absent(2)], AT_ONCE);
    agent.stop();
}

/// What changed while the agent was down is right when it is ready: flannel keeps removed peers for ever (#2554).
///
/// Seen red with routes that nobody removes.
#[test]
fn peers_removed_while_the_agent_was_down_disappear() {
    let mut bed = turn();
    let node = bed.machine();
    (1..=3).for_each(|number| bed.create_absent(&absent(number)));
    let agent = KubeAgent::start(&node);
    wait_peers(&node, &[absent(1), absent(2), absent(3)], AT_ONCE);
    agent.stop();

    bed.server.delete_node(&absent(2).node).unwrap();
    bed.create_absent(&absent(4));
    wait_peers(&node, &[absent(1), absent(2), absent(3)], AT_ONCE);
    let agent = KubeAgent::start(&node);
    wait_peers(&node, &[absent(1), absent(3), absent(4)], AT_ONCE);
    agent.stop();
}

/// A large list arrives whole, also in pages, and what comes after it is followed as quickly.
///
/// Seen red with a list that is cut at 1,000.
#[test]
fn many_nodes_are_followed() {
    let mut bed = turn();
    let node = bed.machine();
    let lease = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let mut lease = absent(0);
        lease.node = format!("many-{number}");
        lease.subnet = [10, 244, 0, 0].into();
        lease.public_ip = [172, 17, high, low].into();
        lease.vtep_mac.0 = [0x06, 1, 0, 0, high, low];
        lease
    };
    // 10.244.0.0/16 has too few /24 for them: a /29 each.
    let cidr = |number: u16| {
        let base = 0x0af4_4000 + (u32::from(number) << 3);
        Ipv4Addr::from(base)
    };
    bed.server
        .create_nodes((0..COUNT).map(|number| {
            let lease = lease(number);
            NodeObject::new(&lease.node)
                .pod_cidr(&format!("{}/29", cidr(number)))
                .lease(&lease.public_ip.to_string(), 1, &lease.vtep_mac.to_string())
        }))
        .unwrap();
    let agent = KubeAgent::start(&node);
    let routes = node.run("ip -4 -o route show dev flannel.1").unwrap();
    assert_eq!(routes.lines().count(), usize::from(COUNT));
    // Pages of one list carry its continuation.
    let lists: Vec<_> = bed
        .requests(&node)
        .into_iter()
        .filter(|request| request.is("list", "nodes"))
        .collect();
    let firsts = lists
        .iter()
        .filter(|request| !request.uri.contains("continue="))
        .count();
    assert_eq!(firsts, 1, "{lists:#?}");

    bed.create_absent(&absent(1));
    eventually(AT_ONCE, "the last one", || {
        let routes = node.run("ip -4 -o route show dev flannel.1")?;
        ensure!(
            routes.lines().count() == usize::from(COUNT) + 1,
            "{}",
            routes.lines().count()
        );
        Ok(())
    })
    .unwrap();
    agent.stop();
}
