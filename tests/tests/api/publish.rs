//! What the agent writes: annotations, condition, subnet.env; when, and how often.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, ensure};
use overlay_testbed::api_server::NodeObject;
use overlay_testbed::{Node, eventually};
use serde_json::Value;

use crate::agent::{KubeAgent, READY, RETRIED, SUBNET_ENV};
use crate::bed::{Bed, DEVICE, absent, turn};
use crate::peers::{AT_ONCE, wait_peers};

const PREFIX: &str = "flannel.alpha.coreos.com/";

/// Time for something that should not happen.
const A_WHILE: Duration = Duration::from_secs(2);

/// The annotations below `prefix`, without it.
fn annotations(bed: &Bed, node: &Node, prefix: &str) -> BTreeMap<String, String> {
    let object = bed.server.node(node.name()).unwrap();
    let all = object["metadata"]["annotations"].as_object();
    let below = all.into_iter().flatten().filter_map(|(key, value)| {
        let key = key.strip_prefix(prefix)?;
        Some((key.to_owned(), value.as_str().unwrap().to_owned()))
    });
    below.collect()
}

/// What flannel 0.28.9 writes, byte for byte, for a device with this MAC address.
fn expected(node: &Node, mac: &str) -> BTreeMap<String, String> {
    [
        ("backend-data", format!("{{\"VNI\":1,\"VtepMAC\":\"{mac}\"}}")),
        ("backend-type", "vxlan".to_owned()),
        ("kube-subnet-manager", "true".to_owned()),
        ("public-ip", node.address().to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn mac_of_device(node: &Node) -> String {
    let mac = node.run(&format!("cat /sys/class/net/{DEVICE}/address")).unwrap();
    mac.trim().to_owned()
}

/// A first start publishes once, in order: device, annotations, subnet.env, condition. Nothing is written twice, neither
/// then nor at the next start, by which the device keeps its MAC address.
///
/// Seen red with `NetworkUnavailable` patched whether or not it differs.
#[test]
fn a_node_is_published_once() {
    let mut bed = turn();
    let node = bed.machine();
    bed.create_absent(&absent(1));
    let agent = KubeAgent::start(&node);
    agent.wait_line(&["flannel is ready"], READY);
    let mac = mac_of_device(&node);
    assert_eq!(annotations(&bed, &node, PREFIX), expected(&node, &mac));
    let subnet = node.lease().subnet.octets();
    assert_eq!(
        node.read_file(SUBNET_ENV).unwrap(),
        format!(
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.{}.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n",
            subnet[2]
        )
    );
    let condition = bed.server.network_unavailable(node.name()).unwrap().unwrap();
    assert_eq!(
        (&condition["status"], &condition["reason"]),
        (&"False".into(), &"FlannelIsUp".into())
    );
    sleep(A_WHILE);
    // One for the annotations, one for the condition.
    assert_eq!(
        bed.count(&node, "patch", "nodes/status"),
        2,
        "{:#?}",
        bed.requests(&node)
    );
    agent.stop();

    let agent = KubeAgent::start(&node);
    sleep(A_WHILE);
    assert_eq!(
        bed.count(&node, "patch", "nodes/status"),
        2,
        "{:#?}",
        bed.requests(&node)
    );
    assert_eq!(mac_of_device(&node), mac);
    agent.stop();

    // The device is lost with the machine's restart: the annotation brings its MAC address back.
    node.run(&format!("ip link del {DEVICE}")).unwrap();
    let agent = KubeAgent::start(&node);
    assert_eq!(mac_of_device(&node), mac);
    assert_eq!(bed.count(&node, "patch", "nodes/status"), 2);
    agent.stop();
}

/// Others send to a node as soon as they see its annotations: the device must be up by then. Until a Node has a podCIDR there
/// is neither, and the agent waits.
///
/// Seen red with the annotations patched before the device is made.
#[test]
fn a_node_without_pod_cidr_waits() {
    let mut bed = turn();
    let node = bed.bare_machine();
    bed.server.create_node(&NodeObject::new(node.name())).unwrap();
    bed.create_absent(&absent(1));
    let mut agent = KubeAgent::spawn(&node, &[]);
    agent.wait_line(&["own", "podCIDR", "waiting"], READY);
    sleep(A_WHILE);
    assert!(agent.runs(), "{}", agent.log());
    assert_eq!(
        agent.lines(&["own", "podCIDR", "waiting"]).len(),
        1,
        "{}",
        agent.log()
    );
    assert_eq!(agent.health("/readyz").unwrap().status, 503);
    assert_eq!(agent.health("/healthz").unwrap().status, 200);
    assert!(annotations(&bed, &node, PREFIX).is_empty());
    assert!(node.read_file(SUBNET_ENV).is_err());

    let cidr = format!("{}/24", node.lease().subnet);
    bed.server.set_pod_cidr(node.name(), &cidr).unwrap();
    eventually(READY, "annotations", || {
        let published = annotations(&bed, &node, PREFIX);
        ensure!(!published.is_empty(), "none yet");
        // Whoever sees them can send.
        let link = node.run(&format!("ip -o link show dev {DEVICE} up"))?;
        ensure!(
            link.contains(DEVICE),
            "published before the device is up: {link:?}"
        );
        Ok(())
    })
    .unwrap();
    agent.wait_ready(READY);
    wait_peers(&node, &[absent(1)], AT_ONCE);
    agent.stop();
}

/// NetworkUnavailable is cleared once pods have a network, and not at all where that is not wanted.
#[test]
fn the_condition_says_when_pods_have_a_network() {
    let mut bed = turn();
    let (node, other) = (bed.machine(), bed.machine());
    (1..=50).for_each(|number| bed.create_absent(&absent(number)));
    let agent = KubeAgent::spawn(&node, &[]);
    let leases: Vec<_> = (1..=50).map(absent).collect();
    eventually(READY, "NetworkUnavailable is False", || {
        let condition = bed
            .server
            .network_unavailable(node.name())?
            .context("no condition yet")?;
        ensure!(condition["status"] == "False", "{condition}");
        Ok(())
    })
    .unwrap();
    // At this moment, not soon.
    wait_peers(&node, &leases, Duration::ZERO);
    agent.stop();

    let agent = KubeAgent::spawn(&other, &["--set-node-network-unavailable=false"]);
    agent.wait_ready(READY);
    sleep(A_WHILE);
    assert_eq!(bed.server.network_unavailable(other.name()).unwrap(), None);
    agent.stop();
}

/// The device is up and the lease published, but the first complete list is not programmed everywhere: the condition waits.
///
/// Seen red without the check of `ready` in the condition.
#[test]
fn the_condition_waits_for_the_first_complete_list() {
    let mut bed = turn();
    let node = bed.machine();
    bed.create_absent(&absent(1));
    // Peers cannot be made known to the programs.
    node.run("umount /sys/fs/bpf").unwrap();
    let agent = KubeAgent::spawn(&node, &[]);
    agent.wait_line(&["failed: dataplane load", "mount -t bpf"], READY);
    let mac = mac_of_device(&node);
    eventually(READY, "the annotations", || {
        let found = annotations(&bed, &node, PREFIX);
        ensure!(found == expected(&node, &mac), "{found:?}");
        Ok(())
    })
    .unwrap();
    sleep(A_WHILE);
    assert_eq!(bed.server.network_unavailable(node.name()).unwrap(), None);
    agent.wait_not_ready(&["peers of the first complete list"], READY);

    node.run("mount -t bpf bpf /sys/fs/bpf").unwrap();
    agent.wait_ready(RETRIED);
    let condition = bed.server.network_unavailable(node.name()).unwrap().unwrap();
    assert_eq!(condition["status"], "False", "{condition}");
    agent.stop();
}

/// Annotations that somebody changes are written again, and those of a Node that registers anew; an overwritten public IP is
/// what is published.
///
/// Seen red with an agent that corrects nothing.
#[test]
fn annotations_are_kept() {
    let mut bed = turn();
    let node = bed.machine();
    let agent = KubeAgent::start(&node);
    let mac = mac_of_device(&node);
    let key = |name: &str| format!("{PREFIX}{name}");

    bed.server
        .annotate_node(node.name(), &[(&key("backend-data"), None)])
        .unwrap();
    let wait_for = |wanted: &BTreeMap<String, String>| {
        eventually(RETRIED, "the annotations", || {
            let found = annotations(&bed, &node, PREFIX);
            ensure!(found == *wanted, "{found:?}");
            Ok(())
        })
        .unwrap();
    };
    wait_for(&expected(&node, &mac));
    assert_eq!(
        agent.lines(&["somebody else changed"]).len(),
        1,
        "{}",
        agent.log()
    );

    let overwrite = key("public-ip-overwrite");
    bed.server
        .annotate_node(node.name(), &[(&overwrite, Some("203.0.113.9"))])
        .unwrap();
    let mut wanted = expected(&node, &mac);
    wanted.insert("public-ip".to_owned(), "203.0.113.9".to_owned());
    wanted.insert("public-ip-overwrite".to_owned(), "203.0.113.9".to_owned());
    wait_for(&wanted);

    bed.server.delete_node(node.name()).unwrap();
    let cidr = format!("{}/24", node.lease().subnet);
    bed.server
        .create_node(&NodeObject::new(node.name()).pod_cidr(&cidr))
        .unwrap();
    wait_for(&expected(&node, &mac));
    eventually(RETRIED, "the condition", || {
        let condition = bed.server.network_unavailable(node.name())?;
        ensure!(condition.is_some(), "not again yet");
        Ok(())
    })
    .unwrap();
    agent.stop();
}

/// Another prefix, as flannel spells it. Seen red with annotations that are published under flannel's own.
#[test]
fn another_prefix_is_used_for_everything() {
    let mut bed = turn();
    let node = bed.machine();
    bed.create_absent(&absent(1));
    let agent = KubeAgent::spawn(&node, &["--kube-annotation-prefix=example.com/blue"]);
    agent.wait_ready(READY);
    let mac = mac_of_device(&node);
    assert_eq!(
        annotations(&bed, &node, "example.com/blue-"),
        expected(&node, &mac)
    );
    assert!(annotations(&bed, &node, PREFIX).is_empty());
    wait_peers(&node, &[], AT_ONCE);
    agent.stop();
}

/// What is sent is a patch of what differs: nothing else of the Node is touched or repeated. Seen red with a `spec` in it.
#[test]
fn patches_are_small() {
    let mut bed = turn();
    let node = bed.machine();
    let agent = KubeAgent::start(&node);
    let requests = bed.requests(&node);
    let bodies: Vec<&Value> = requests
        .iter()
        .filter(|request| request.verb == "patch" && request.resource.starts_with("nodes"))
        .filter_map(|request| request.body.as_ref())
        .collect();
    for body in &bodies {
        let keys: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
        assert!(matches!(keys.as_slice(), ["metadata"] | ["status"]), "{body}");
        assert!(body.to_string().len() < 1000, "{body}");
    }
    assert_eq!(bodies.len(), 2, "{bodies:#?}");
    agent.stop();
}
