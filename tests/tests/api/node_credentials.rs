//! The credentials of a node instead of a service account's: restricted to its own Node (NodeRestriction).

use anyhow::ensure;
use overlay_testbed::eventually;

use crate::agent::{KubeAgent, READY};
use crate::bed::{KUBECONFIG, absent, turn};
use crate::peers::{AT_ONCE, wait_peers};

const BACKEND_TYPE: &str = "flannel.alpha.coreos.com/backend-type";

/// A node may read all Nodes and change its own: enough for the agent. It may not change another one, by which we know that the
/// server restricts it.
///
/// Seen red with the service account's credentials, and with an agent that is ready without its lease.
#[test]
fn a_node_can_publish_itself_and_nobody_else() {
    let mut bed = turn();
    let (node, other) = (bed.machine(), bed.machine());
    bed.create_absent(&absent(1));
    let kubeconfig = bed.server.node_kubeconfig(node.name()).unwrap();
    node.write_file(KUBECONFIG, &kubeconfig).unwrap();
    let agent = KubeAgent::start(&node);
    wait_peers(&node, &[absent(1)], AT_ONCE);
    let published = bed.server.annotation(node.name(), BACKEND_TYPE).unwrap();
    assert_eq!(published.as_deref(), Some("vxlan"));
    let user = format!("system:node:{}", node.name());
    let requests = bed.requests(&node);
    assert!(
        requests
            .iter()
            .all(|request| request.user == user && request.code < 400),
        "{requests:#?}"
    );
    agent.stop();

    // The wrong node's name: refused, said, and the other Node stays as it is.
    let agent = KubeAgent::spawn_with(&node, &[("NODE_NAME", other.name())], &[]);
    agent.wait_line(&["cannot patch Node", other.name()], READY);
    assert_eq!(bed.server.annotation(other.name(), BACKEND_TYPE).unwrap(), None);
    eventually(READY, "503", || {
        ensure!(agent.health("/readyz")?.status == 503, "ready");
        Ok(())
    })
    .unwrap();
    agent.stop();
}
