//! The cluster: API server, nodes, and who runs on them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use overlay_testbed::api_server::{NodeObject, RBAC, Weight};
use overlay_testbed::flannel_node::{annotations, lease_of};
use overlay_testbed::{ApiServer, ApiServerOptions, FlannelNode, Lease, Node, Testbed, eventually};
use serde_json::{Value, json};

use crate::agent::KubeAgent;
use crate::state::{SOON, check_peers, time_routes};

/// What every flannel node and every agent reads.
const NET_CONF: &str =
    r#"{ "Network": "10.244.0.0/16", "EnableNFTables": false, "Backend": { "Type": "vxlan" } }"#;
pub(crate) const NET_CONF_FILE: &str = "net-conf.json";
pub(crate) const KUBECONFIG: &str = "kubeconfig";

/// Far more than is asked for (`cargo xtask bench control-plane` measures it), on a machine that does other things, too.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A testbed whose nodes are Nodes of a real API server.
pub(crate) struct Cluster {
    /// Ends before the network that it is on.
    pub(crate) server: ApiServer,
    pub(crate) testbed: Testbed,
}

impl Cluster {
    /// Machines and Nodes, with podCIDR and what kubelet writes, and nobody who makes an overlay of them yet.
    pub(crate) fn start(nodes: u8, pods_per_node: u8) -> Self {
        let testbed = Testbed::builder()
            .nodes(nodes)
            .pods_per_node(pods_per_node)
            .build()
            .unwrap();
        let server = ApiServer::start(&testbed, &ApiServerOptions::default()).unwrap();
        server.apply(RBAC).unwrap();
        let cluster = Self { server, testbed };
        cluster.testbed.nodes().for_each(|node| cluster.join(node));
        cluster
    }

    /// The node's machine joins the cluster.
    pub(crate) fn join(&self, node: &Node) {
        let cidr = format!("{}/24", node.lease().subnet);
        let object = NodeObject::new(node.name()).pod_cidr(&cidr).weight(Weight::Real);
        self.server.create_node(&object).unwrap();
        node.write_file(NET_CONF_FILE, NET_CONF).unwrap();
        let kubeconfig = self.server.agent_kubeconfig().unwrap();
        node.write_file(KUBECONFIG, &kubeconfig).unwrap();
    }

    pub(crate) fn node(&self, index: u8) -> &Node {
        self.testbed.node(index).unwrap()
    }

    /// Creates the Node of a machine that does not exist.
    pub(crate) fn create_absent(&self, lease: &Lease) {
        let object = NodeObject::new(&lease.node)
            .pod_cidr(&format!("{}/24", lease.subnet))
            .lease(&lease.public_ip.to_string(), 1, &lease.vtep_mac.to_string());
        self.server.create_node(&object).unwrap();
    }

    /// The overlay's annotations of a Node.
    pub(crate) fn annotations(&self, name: &str) -> BTreeMap<String, String> {
        overlay_annotations(&self.server.node(name).unwrap())
    }

    /// The leases that flannel would see now.
    pub(crate) fn leases(&self) -> Vec<Lease> {
        let list = self.server.client().get("/api/v1/nodes").unwrap();
        let nodes = list["items"].as_array().unwrap();
        nodes.iter().filter_map(|node| lease_of(node).unwrap()).collect()
    }

    /// The lease of one node.
    pub(crate) fn lease(&self, index: u8) -> Lease {
        let node = self.server.node(self.node(index).name()).unwrap();
        lease_of(&node).unwrap().unwrap()
    }

    /// flanneld starts on a node: it publishes its lease and programs every peer that the API server knows.
    pub(crate) fn start_flannel(&self, index: u8) -> FlannelNode {
        let node = self.node(index);
        let stored = self.annotations(node.name());
        let flannel = FlannelNode::start(node, &stored).unwrap();
        // As flannel: only when something differs (AcquireLease), all of them then.
        if flannel.annotations() != stored {
            let patch = json!({ "metadata": { "annotations": flannel.annotations() } });
            self.server.patch_node(node.name(), &patch).unwrap();
        }
        for lease in self.leases() {
            flannel.add_peer(&lease).unwrap();
        }
        flannel
    }

    /// An agent starts on a node; returns when it says that it is ready.
    pub(crate) fn start_agent(&self, index: u8) -> KubeAgent {
        let mut agent = KubeAgent::spawn(self.node(index)).unwrap();
        agent.wait_ready().unwrap();
        agent
    }

    /// Waits until the nodes have exactly the peers that the API server knows; those of `agents` in their maps, too.
    pub(crate) fn settle(&self, agents: &[u8], flannels: &[u8]) {
        let leases = self.leases();
        for (indices, ebpf) in [(agents, true), (flannels, false)] {
            for index in indices {
                let node = self.node(*index);
                eventually(SOON, "the peers that the API server knows", || {
                    check_peers(node, &leases, ebpf)
                })
                .unwrap();
            }
        }
    }

    /// Does `change` in the API server. The agents' routes follow within a second, and then everything else is right, too.
    pub(crate) fn follow(&self, agents: &[u8], change: impl FnOnce(&ApiServer)) {
        change(&self.server);
        let since = Instant::now();
        let leases = self.leases();
        for index in agents {
            let took = time_routes(self.node(*index), &leases, since);
            assert!(took < AT_ONCE, "node {index} has followed after {took:?}");
        }
        self.settle(agents, &[]);
    }

    /// The condition of node `index`, which its agent sets soon after it is ready.
    pub(crate) fn network_unavailable(&self, index: u8) -> Value {
        let name = self.node(index).name();
        eventually(SOON, "the node's condition", || {
            let condition = self.server.network_unavailable(name)?;
            condition.context("no condition NetworkUnavailable")
        })
        .unwrap()
    }

    /// Changes of annotations that node `index` has asked the API server for, so far.
    pub(crate) fn published(&self, index: u8) -> Vec<Value> {
        let address = self.node(index).address().to_string();
        let requests = self.server.requests().unwrap().into_iter();
        let bodies = requests
            .filter(|request| {
                request.source == address && request.verb == "patch" && request.resource.starts_with("nodes")
            })
            .filter_map(|request| request.body);
        bodies
            .filter(|body| body.pointer("/metadata/annotations").is_some())
            .collect()
    }
}

/// The overlay's annotations of a Node object.
fn overlay_annotations(node: &Value) -> BTreeMap<String, String> {
    let all = node["metadata"]["annotations"].as_object();
    let ours = all
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with(annotations::PREFIX));
    ours.map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned()))
        .collect()
}
