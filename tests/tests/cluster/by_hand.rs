//! The hand-made flannel itself, without agents and API server: what the other tests rely on.

use std::collections::BTreeMap;

use overlay_testbed::flannel_node::{DEVICE, Fate, SUBNET_ENV, annotations};
use overlay_testbed::{FlannelNode, Lease, Testbed};

use crate::reach::assert_all_reach;
use crate::state::{Entries, identity};
use crate::streams::Streams;

/// The lease as another node reads it from the annotations.
fn read(flannel: &FlannelNode) -> Lease {
    let name = flannel.node().name();
    let pod_cidr = format!("{}/24", flannel.lease().subnet);
    annotations::lease(name, &pod_cidr, &flannel.annotations())
        .unwrap()
        .unwrap()
}

// Seen red without the forwarding entry of `add_peer`, with `restore_mac` giving nothing, and with a route deleted for some
// milliseconds during the restart (94 segments lost).
#[test]
fn three_nodes_of_flannel_reach_each_other_and_restart_as_flannel_does() {
    let testbed = Testbed::builder().nodes(3).pods_per_node(1).build().unwrap();
    let nothing = BTreeMap::new();
    let flannels: Vec<_> = testbed
        .nodes()
        .map(|node| FlannelNode::start(node, &nothing).unwrap())
        .collect();
    let leases: Vec<_> = flannels.iter().map(read).collect();
    for flannel in &flannels {
        assert_eq!(flannel.device(), &Fate::Made);
        for lease in &leases {
            flannel.add_peer(lease).unwrap();
        }
        let peers = leases.iter().filter(|lease| lease.node != flannel.node().name());
        assert_eq!(Entries::of(flannel.node()).unwrap(), Entries::wanted(peers));
    }
    assert_all_reach(&testbed);

    // flanneld ends and starts: the device is kept, nothing is lost.
    let node = testbed.node(1).unwrap();
    let before = identity(node);
    let streams = Streams::start(&testbed, &[(1, 2), (1, 3)]);
    let stored = flannels[0].annotations();
    let again = FlannelNode::start(node, &stored).unwrap();
    leases.iter().for_each(|lease| again.add_peer(lease).unwrap());
    streams.expect_nothing_lost("during a restart of flannel");
    assert_eq!(
        (again.device(), again.annotations()),
        (&Fate::Kept, stored.clone())
    );
    assert_eq!(identity(node), before);

    // It makes a lost device anew with the MAC of its annotations, and one that is not compatible.
    node.run(&format!("ip link delete {DEVICE}")).unwrap();
    let again = FlannelNode::start(node, &stored).unwrap();
    assert_eq!(
        (again.device(), again.annotations()),
        (&Fate::Made, stored.clone())
    );
    for (other, reason) in [
        ("vxlan external dstport 8472", "vni: 1 vs 0"),
        (
            "vxlan id 1 dev eth0 local 192.168.0.1 gbp dstport 8472",
            "gbp: false vs true",
        ),
        (
            "vxlan id 1 dev eth0 local 192.168.0.9 dstport 8472",
            "vtep (external) IP: 192.168.0.1 vs 192.168.0.9",
        ),
        (
            "vxlan id 1 dev cni0 local 192.168.0.1 dstport 8472",
            "vtep (external) interface: eth0 vs cni0",
        ),
        ("bridge", "link type: vxlan vs bridge"),
    ] {
        node.run(&format!("ip link delete {DEVICE}")).unwrap();
        node.run(&format!("ip link add {DEVICE} type {other}")).unwrap();
        let again = FlannelNode::start(node, &stored).unwrap();
        assert_eq!(again.device(), &Fate::Recreated(reason.to_owned()));
        assert_eq!(again.annotations(), stored);
    }
    leases.iter().for_each(|lease| again.add_peer(lease).unwrap());
    let env = std::fs::read_to_string(node.space().path_from_outside(SUBNET_ENV.as_ref())).unwrap();
    assert_eq!(
        env,
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    );
    assert_all_reach(&testbed);

    // A node leaves.
    again.remove_peer(&leases[2]).unwrap();
    assert_eq!(Entries::of(node).unwrap(), Entries::wanted([&leases[1]]));
}
