//! Node objects of made-up nodes, and the patches that make a node a peer or end that.

use serde_json::{Value, json};

use super::peers::Peer;
use super::result::Kind;
use crate::api_server::{NodeObject, Weight};

/// flannel's annotations, without which a node has no lease.
const KEYS: [&str; 4] = [
    "flannel.alpha.coreos.com/backend-data",
    "flannel.alpha.coreos.com/backend-type",
    "flannel.alpha.coreos.com/kube-subnet-manager",
    "flannel.alpha.coreos.com/public-ip",
];

/// What a kubelet and its storage driver write, too. With this, and with what the server adds by itself
/// (`managedFields` above all), an object without status has the 2 KB of a bare node.
const OTHERS: [(&str, &str); 4] = [
    (
        "csi.volume.kubernetes.io/nodeid",
        "{\"disk.csi.example.com\":\"i-0123456789abcdef0\",\"file.csi.example.com\":\"i-0123456789abcdef0\"}",
    ),
    (
        "kubeadm.alpha.kubernetes.io/cri-socket",
        "unix:///var/run/containerd/containerd.sock",
    ),
    ("node.alpha.kubernetes.io/ttl", "0"),
    ("volumes.kubernetes.io/controller-managed-attach-detach", "true"),
];

/// The Node object of `peer`, with a lease.
pub(super) fn node(peer: Peer, kind: Kind) -> NodeObject {
    let object = NodeObject::new(&peer.name())
        .pod_cidr(&format!("{}/24", peer.subnet()))
        .lease(&peer.public_ip().to_string(), 1, &peer.vtep_mac().to_string());
    match kind {
        Kind::Bare => OTHERS
            .into_iter()
            .fold(object, |object, (key, value)| object.annotation(key, value)),
        Kind::Real => object.weight(Weight::Real),
    }
}

/// A JSON merge patch that gives the node its lease.
pub(super) fn joining(peer: Peer) -> Value {
    let object = node(peer, Kind::Bare).to_json();
    let value = |key: &str| {
        let annotations = object.pointer("/metadata/annotations");
        annotations
            .and_then(|all| all.get(key))
            .cloned()
            .unwrap_or_default()
    };
    patch(KEYS.map(|key| (key, value(key))))
}

/// A JSON merge patch after which the node has no lease.
pub(super) fn leaving() -> Value {
    patch(KEYS.map(|key| (key, Value::Null)))
}

fn patch(annotations: [(&str, Value); 4]) -> Value {
    let annotations: serde_json::Map<_, _> = annotations
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    json!({ "metadata": { "annotations": annotations } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_is_what_flannel_writes() {
        assert_eq!(
            joining(Peer(0x102)),
            json!({ "metadata": { "annotations": {
                "flannel.alpha.coreos.com/kube-subnet-manager": "true",
                "flannel.alpha.coreos.com/backend-type": "vxlan",
                "flannel.alpha.coreos.com/backend-data": "{\"VNI\":1,\"VtepMAC\":\"06:00:00:00:01:02\"}",
                "flannel.alpha.coreos.com/public-ip": "172.16.1.2",
            }}})
        );
        assert_eq!(
            node(Peer(1), Kind::Real).to_json()["spec"]["podCIDR"],
            "10.0.1.0/24"
        );
    }

    #[test]
    fn leaving_undoes_joining() {
        let annotations = |patch: Value| patch["metadata"]["annotations"].as_object().unwrap().clone();
        let (joined, left) = (annotations(joining(Peer(7))), annotations(leaving()));
        assert!(joined.keys().eq(left.keys()) && left.values().all(Value::is_null));
    }
}
