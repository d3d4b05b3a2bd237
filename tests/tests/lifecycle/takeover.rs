//! From flannel to the agent and back, under traffic.

use std::thread::sleep;
use std::time::Duration;

use overlay_testbed::Testbed;

use crate::bed::{
    DEVICE, PINS, Peers, Traffic, assert_reach, assert_settled, command, ifindex, options, start, testbed,
};

const WHILE: Duration = Duration::from_millis(400);

fn both_ways(testbed: &Testbed) -> [Traffic; 2] {
    [Traffic::start(testbed, 1, 2), Traffic::start(testbed, 2, 1)]
}

// Seen red with the device recreated instead of adopted, and without the removal of stale routes.
#[test]
fn flannels_node_is_taken_over_and_given_back_without_a_lost_packet() {
    let testbed = testbed(2);
    testbed.configure_like_flannel().unwrap();
    let (node, leases) = (testbed.node(1).unwrap(), testbed.leases());
    testbed.publish(&leases).unwrap();
    // What flannel leaves of a node that was deleted while it was not looking (flannel #2554), and of a changed MAC.
    for stale in [
        "ip neigh add 10.244.66.0 lladdr 06:00:00:00:00:66 nud permanent dev flannel.1",
        "bridge fdb add 06:00:00:00:00:66 dst 172.16.0.66 dev flannel.1 self permanent",
        "ip route add 10.244.66.0/24 via 10.244.66.0 dev flannel.1 onlink",
        "bridge fdb add 06:00:00:00:00:67 dst 192.168.0.2 dev flannel.1 self permanent",
    ] {
        node.run(stale).unwrap();
    }
    let before = ifindex(node);
    let clean = Peers::wanted(&leases, node.name()).kernel_only();
    assert_ne!(Peers::of_kernel(node).unwrap(), clean);

    let traffic = both_ways(&testbed);
    let agent = start(node, &leases);
    sleep(WHILE);
    traffic.into_iter().for_each(Traffic::stop);
    assert_eq!(ifindex(node), before, "the device was adopted");
    let log = agent.log();
    assert!(!log.contains("link add") && !log.contains("link delete"), "{log}");

    // Without an agent.
    let traffic = both_ways(&testbed);
    agent.stop().unwrap();
    sleep(WHILE);
    // Without programs.
    let kernel = options().with_arguments(&["--dataplane", "kernel"]);
    let agent = node.start_agent(&kernel).unwrap();
    assert!(agent.log().contains("dataplane kernel"), "{}", agent.log());
    sleep(WHILE);
    traffic.into_iter().for_each(Traffic::stop);
    assert!(node.run(&format!("ls {PINS}")).is_err(), "the pins are gone");
    assert_eq!(Peers::of_kernel(node).unwrap(), clean);
    assert_settled(node, &["--dataplane", "kernel"]);

    // With programs again, and then cleaned up: the device is flannel's and stays.
    let traffic = both_ways(&testbed);
    agent.stop().unwrap();
    let agent = node.start_agent(&options()).unwrap();
    sleep(WHILE);
    agent.stop().unwrap();
    let said = command(node, &["cleanup"]);
    sleep(WHILE);
    traffic.into_iter().for_each(Traffic::stop);
    assert!(
        said.contains("left: flannel.1") && said.contains("did not make it"),
        "{said}"
    );
    assert_eq!(ifindex(node), before);
    assert_eq!(Peers::of_kernel(node).unwrap(), clean);
    assert!(node.run(&format!("ls {PINS}")).is_err());
    assert!(node.run("ls /run/overlay-agent").is_err());
    let again = command(node, &["cleanup"]);
    assert!(again.contains("nothing to do"), "{again}");
    assert_reach(&testbed, 1, 2);
    assert!(node.run(&format!("ip link show {DEVICE}")).is_ok());
}
