//! Which devices are found.

use overlay_common::flow::ENDPOINT_FAST;

use crate::bed::{MECHANISMS, served, testbed, veth, wait_bare, wait_for};

#[test]
fn ports_of_the_bridge_come_and_go() {
    for attach in MECHANISMS {
        let (mut testbed, _agent) = served(attach);
        let second = testbed
            .node_mut(1)
            .unwrap()
            .add_pod()
            .unwrap()
            .host_veth()
            .to_owned();
        let node = testbed.node(1).unwrap();
        let first = node.pods()[0].host_veth();
        wait_for(node, &[(first, ENDPOINT_FAST), (&second, ENDPOINT_FAST)]);
        // Out of the bridge and back again, without ending.
        node.run(&format!("ip link set {second} nomaster")).unwrap();
        wait_for(node, &[(first, ENDPOINT_FAST)]);
        wait_bare(node, &second);
        node.run(&format!("ip link set {second} master cni0")).unwrap();
        wait_for(node, &[(first, ENDPOINT_FAST), (&second, ENDPOINT_FAST)]);
    }
}

#[test]
fn a_point_to_point_veth_is_known_by_its_route() {
    let (testbed, _agent) = served("auto");
    let node = testbed.node(1).unwrap();
    let first = node.pods()[0].host_veth();
    veth(node, "ptp0");
    let address = node.pods()[0].address().octets();
    let prefix = format!("{}.{}.{}", address[0], address[1], address[2]);
    // A route to elsewhere, and a route that is not to one address.
    node.run("ip route add 192.0.2.7/32 dev ptp0").unwrap();
    node.run(&format!("ip route add {prefix}.128/25 dev ptp0"))
        .unwrap();
    wait_for(node, &[(first, ENDPOINT_FAST)]);
    wait_bare(node, "ptp0");
    node.run(&format!("ip route add {prefix}.200/32 dev ptp0"))
        .unwrap();
    wait_for(node, &[(first, ENDPOINT_FAST), ("ptp0", ENDPOINT_FAST)]);
    node.run(&format!("ip route del {prefix}.200/32 dev ptp0"))
        .unwrap();
    wait_for(node, &[(first, ENDPOINT_FAST)]);
    wait_bare(node, "ptp0");
}

#[test]
fn many_point_to_point_veths_are_found() {
    let (testbed, _agent) = served("auto");
    let node = testbed.node(1).unwrap();
    let names: Vec<_> = (0..12).map(|number| format!("ptp{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        veth(node, name);
        node.run(&format!("ip route add 10.244.1.{}/32 dev {name}", 200 + number))
            .unwrap();
    }
    let mut wanted: Vec<_> = names.iter().map(|name| (name.as_str(), ENDPOINT_FAST)).collect();
    wanted.push((node.pods()[0].host_veth(), ENDPOINT_FAST));
    wait_for(node, &wanted);
}

#[test]
fn devices_that_only_look_like_pods_are_left_alone() {
    let (testbed, agent) = served("auto");
    let node = testbed.node(1).unwrap();
    let first = node.pods()[0].host_veth();
    // Another bridge, a port that is no veth, and a veth with both ends on the node.
    for command in [
        "ip link add other0 type bridge",
        "ip addr add 172.17.0.1/24 dev other0",
        "ip link add vxlan7 type vxlan id 7 dstport 4790 dev eth0",
        "ip link set vxlan7 master cni0 up",
        "ip link add local0 type veth peer name local1",
        "ip link set local0 master cni0 up",
    ] {
        node.run(command).unwrap();
    }
    veth(node, "docker0p");
    node.run("ip link set docker0p master other0").unwrap();
    agent.wait_log("pod device vxlan7", crate::bed::SOON).unwrap();
    agent.wait_log("pod device local0", crate::bed::SOON).unwrap();
    wait_for(node, &[(first, ENDPOINT_FAST)]);
    for device in ["docker0p", "vxlan7", "local0", "local1", "eth0"] {
        wait_bare(node, device);
    }
}

#[test]
fn without_a_fast_path_nothing_is_attached() {
    let testbed = testbed();
    testbed.publish(&testbed.leases()).unwrap();
    let node = testbed.node(1).unwrap();
    let (on, off) = (["--fastpath", "on"], ["--fastpath", "off"]);
    let options = |arguments: &[&str]| overlay_testbed::AgentOptions::default().with_arguments(arguments);
    let agent = node.start_agent(&options(&on)).unwrap();
    let first = node.pods()[0].host_veth();
    wait_for(node, &[(first, ENDPOINT_FAST)]);
    agent.stop().unwrap();
    let _agent = node.start_agent(&options(&off)).unwrap();
    wait_for(node, &[]);
    wait_bare(node, first);
}
