//! `/healthz` and `/readyz` say what is true.

use anyhow::ensure;
use overlay_testbed::eventually;

use crate::agent::{KubeAgent, READY, RETRIED};
use crate::bed::{Bed, DEVICE, absent, turn};
use crate::peers::{AT_ONCE, wait_peers};

/// Without its device a node has no overlay; the agent makes another one and says both.
///
/// Seen red with a readiness that never goes back (flannel's).
#[test]
fn a_lost_device_is_not_ready() {
    let mut bed = turn();
    let node = bed.machine();
    bed.create_absent(&absent(1));
    let agent = KubeAgent::start(&node);
    // Under another name it keeps the VNI, so that the agent cannot make it again.
    node.run(&format!("ip link set {DEVICE} name stray")).unwrap();
    agent.wait_not_ready(&["device"], READY);
    assert_eq!(agent.health("/healthz").unwrap().status, 200);
    node.run("ip link del stray").unwrap();
    agent.wait_ready(RETRIED);
    wait_peers(&node, &[absent(1)], AT_ONCE);
    agent.stop();
}

/// An agent that starts while the API server is away is not ready, says why, and touches nothing; what is programmed stays.
/// An agent that has done everything stays ready.
///
/// Seen red with an outage that is always a reason to be unready, and with an agent that is ready while it looks for the server.
#[test]
fn an_absent_server_matters_to_what_is_not_done() {
    let mut bed = Bed::start();
    let (node, settled) = (bed.machine(), bed.machine());
    bed.create_absent(&absent(1));
    let still = KubeAgent::start(&settled);
    KubeAgent::start(&node).stop();
    let lease = |node: &overlay_testbed::Node| {
        let mut lease = node.lease();
        let mac = node.run(&format!("cat /sys/class/net/{DEVICE}/address")).unwrap();
        lease.vtep_mac = parse_mac(mac.trim());
        lease
    };
    let peers = [absent(1), lease(&settled)];
    wait_peers(&node, &peers, AT_ONCE);

    bed.server.kill_server().unwrap();
    let mut agent = KubeAgent::spawn(&node, &[]);
    eventually(READY, "health of an agent without API server", || {
        ensure!(agent.health("/healthz")?.status == 200, "not healthy");
        Ok(())
    })
    .unwrap();
    agent.wait_not_ready(&["it looks for the API server"], READY);
    still.wait_line(&["stay in force"], READY);
    still.ready().unwrap();
    assert!(agent.runs());
    wait_peers(&node, &peers, AT_ONCE);

    bed.server.resume().unwrap();
    agent.wait_ready(RETRIED);
    wait_peers(&node, &peers, AT_ONCE);
    agent.stop();
    still.stop();
}

fn parse_mac(text: &str) -> overlay_testbed::Mac {
    let mut octets = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).unwrap());
    overlay_testbed::Mac(std::array::from_fn(|_| octets.next().unwrap()))
}
