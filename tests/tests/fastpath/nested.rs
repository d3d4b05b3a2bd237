//! Pods that are more than one endpoint: tunnels inside them, containers behind them, and the switch for those that
//! encapsulate again what they receive: `ip link set <host side of the veth> alias overlay-fastpath=shortcut`.
//!
//! Each kind is tried as it is and with the switch; in both, bulk TCP has to get through in both directions.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use overlay_common::maps::SHORTCUTS;
use overlay_common::reason::Reason;
use overlay_testbed::traffic::TcpTransfer;
use overlay_testbed::{AgentOptions, Offloads, Pod, Space};
use serde_json::Value;

use crate::bed::*;
use crate::talk::*;

const BULK: u64 = 48 * MIB;
/// Ports of the bulk transfers, there and back.
const THERE: u16 = 7801;
const BACK: u16 = 7802;

/// Turns the shortcut on for a pod, as an operator does, and waits until the node's agent has heard.
fn switch_to_shortcut(bed: &Bed, node: u8, pod: &Pod) {
    let space = bed.node(node).space();
    let veth = pod.host_veth();
    space
        .run(&format!("ip link set {veth} alias overlay-fastpath=shortcut"))
        .unwrap();
    let map = format!("{}/{SHORTCUTS}", AgentOptions::PIN_DIRECTORY);
    wait_until(SOON, "the agent's note of the switch", || {
        let text = space
            .run(&format!("bpftool -j map lookup pinned {map} key 0 0 0 0"))
            .unwrap();
        let entry: Value = serde_json::from_str(&text).unwrap();
        entry["value"][0] == "0x01"
    });
}

/// Bulk TCP there and back; how the counters have grown by it.
fn bulk(bed: &Bed, (client, server): (&Space, &Space), to: Ipv4Addr, back: Ipv4Addr) -> Vec<Counters> {
    let before = bed.counters();
    let transfer = |address, port| TcpTransfer {
        timeout: Duration::from_secs(20),
        ..TcpTransfer::new(address, port, BULK)
    };
    transfer(to, THERE).run(client, server).unwrap();
    transfer(back, BACK).run(server, client).unwrap();
    bed.growth(&before)
}

/// A VXLAN device in each node's first pod, leading to the other; returns the addresses inside.
fn nest_vxlan(bed: &Bed, source_ports: &str) -> [Ipv4Addr; 2] {
    let pods = [1, 2].map(|node| bed.pod(node, 1));
    let inside = [1, 2].map(|last| Ipv4Addr::new(172, 30, 0, last));
    for (own, other) in [(0, 1), (1, 0)] {
        let (local, remote) = (pods[own].address(), pods[other].address());
        pods[own]
            .space()
            .ip_batch(
                &[],
                &[
                    format!(
                        "link add vx0 mtu 1400 type vxlan id 99 local {local} remote {remote} dstport 4789 dev eth0 \
                         {source_ports}"
                    ),
                    format!("addr add {}/24 dev vx0", inside[own]),
                    "link set vx0 up".to_owned(),
                ],
            )
            .unwrap();
    }
    inside
}

/// Nested tunnels whose packets have a source port by flow are one-way flows: they stay with the stack.
///
/// Seen red with egress entries that are active from the start.
#[test]
fn a_tunnel_between_pods_works_by_itself() {
    let bed = Bed::start(&[]);
    let [near, far] = nest_vxlan(&bed, "");
    let spaces = (bed.pod(1, 1).space(), bed.pod(2, 1).space());
    let grown = bulk(&bed, spaces, far, near);
    for node in &grown {
        assert_eq!(
            Fast::of(node),
            Fast {
                from_pods: 0,
                to_pods: 0
            },
            "{node:?}"
        );
    }
    bed.end();
}

/// Nested tunnels with one port at both ends, as WireGuard's, are flows like any other.
///
/// Seen red with ingress entries that know nothing of the switch, as the two below.
fn symmetric_tunnel(offloads: Offloads) {
    let bed = Bed::start_on(two_nodes().offloads(offloads), &[]);
    let [near, far] = nest_vxlan(&bed, "srcport 4789 4790");
    let pods = [1, 2].map(|node| bed.pod(node, 1));
    let spaces = (pods[0].space(), pods[1].space());
    let grown = bulk(&bed, spaces, far, near);
    for node in &grown {
        assert!(Fast::of(node).to_pods > 1000, "{node:?}");
        assert_eq!(node.packets(Reason::EncapFailed), 0, "{node:?}");
        assert_eq!(node.packets(Reason::DecapFailed), 0, "{node:?}");
    }
    for (node, pod) in [1, 2].into_iter().zip(pods) {
        switch_to_shortcut(&bed, node, pod);
    }
    let grown = bulk(&bed, spaces, far, near);
    for node in &grown {
        assert!(node.packets(Reason::ShortcutFast) > 1000, "{node:?}");
        assert_eq!(node.packets(Reason::IngressFast), 0, "{node:?}");
    }
    bed.end();
}

#[test]
fn a_tunnel_between_pods_on_one_port_works_by_itself_and_with_the_switch() {
    symmetric_tunnel(Offloads::DEFAULT);
}

#[test]
fn a_tunnel_between_pods_on_one_port_works_on_a_wire_that_segments() {
    symmetric_tunnel(Offloads::WIRE);
}

/// What makes the second pod's namespace of node 2 a container behind the first pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Behind {
    Macvlan,
    Bridge,
    Router,
}

/// Address of the container, in node 2's subnet.
const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 60);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 1);

impl Behind {
    /// Puts the container behind the pod. Its namespace is that of the second pod, unplugged.
    fn build(self, bed: &Bed) {
        let (pod, container) = (bed.pod(2, 1), bed.pod(2, 2));
        let node = bed.node(2).space();
        node.run(&format!("ip link del {}", container.host_veth()))
            .unwrap();
        let name = container.name();
        let address = pod.address();
        // Namespaces have names on the node, so everything is called from there.
        let in_pod: Vec<String> = match self {
            Self::Macvlan => vec![format!(
                "link add c0 link eth0 netns {name} type macvlan mode bridge"
            )],
            Self::Bridge => vec![
                "link add br0 type bridge".to_owned(),
                "link add p0 mtu 1450 type veth peer name c0 mtu 1450 netns ".to_owned() + name,
                "link set p0 master br0 up".to_owned(),
                "link set eth0 master br0".to_owned(),
                format!("addr del {address}/24 dev eth0"),
                format!("addr add {address}/24 dev br0"),
                "link set br0 up".to_owned(),
                format!("route add default via {GATEWAY}"),
            ],
            Self::Router => vec![
                "link add p0 mtu 1450 type veth peer name c0 mtu 1450 netns ".to_owned() + name,
                "link set p0 up".to_owned(),
                format!("route add {CONTAINER}/32 dev p0"),
            ],
        };
        node.ip_batch(&["-n", pod.name()], &in_pod).unwrap();
        if self == Self::Bridge {
            // A hairpin port sends the container's broadcasts back to it: the bridge in the pod then looks for the
            // container outside. That is so with and without an overlay.
            node.run(&format!("bridge link set dev {} hairpin off", pod.host_veth()))
                .unwrap();
        }
        if self == Self::Router {
            for name in ["ip_forward", "conf/eth0/proxy_arp", "conf/p0/proxy_arp"] {
                pod.space().sysctl(&format!("ipv4/{name}"), "1").unwrap();
            }
        }
        let in_container = [
            format!("addr add {CONTAINER}/24 dev c0"),
            "link set c0 up".to_owned(),
            format!("route add default via {GATEWAY}"),
        ];
        node.ip_batch(&["-n", name], &in_container).unwrap();
    }

    /// Bulk to the container and to the pod itself, without the switch and with it.
    fn expect_to_work(self, offloads: Offloads) {
        let bed = Bed::start_on(two_nodes().offloads(offloads), &[]);
        self.build(&bed);
        let [client, pod, container] = [bed.pod(1, 1), bed.pod(2, 1), bed.pod(2, 2)];
        for shortcut in [false, true] {
            if shortcut {
                switch_to_shortcut(&bed, 2, pod);
            }
            for (server, address) in [(container, CONTAINER), (pod, pod.address())] {
                let grown = bulk(&bed, (client.space(), server.space()), address, client.address());
                let of_server = &grown[1];
                let [tunnel, short] =
                    [Reason::IngressFast, Reason::ShortcutFast].map(|reason| of_server.packets(reason));
                assert_eq!(short > 100, shortcut, "{self:?} {address}: {of_server:?}");
                assert_eq!(tunnel > 100, !shortcut, "{self:?} {address}: {of_server:?}");
                assert!(
                    of_server.egress_share() > 0.9,
                    "{self:?} {address}: {of_server:?}"
                );
            }
        }
        bed.end();
    }
}

#[test]
fn a_bridge_in_a_pod_works_by_itself_and_with_the_switch() {
    Behind::Bridge.expect_to_work(Offloads::DEFAULT);
}

#[test]
fn a_bridge_in_a_pod_works_on_a_wire_that_segments() {
    Behind::Bridge.expect_to_work(Offloads::WIRE);
}

#[test]
fn macvlan_in_a_pod_works_by_itself_and_with_the_switch() {
    Behind::Macvlan.expect_to_work(Offloads::WIRE);
}

#[test]
fn a_routed_container_in_a_pod_works_by_itself_and_with_the_switch() {
    Behind::Router.expect_to_work(Offloads::DEFAULT);
}

/// One MAC address with several IP addresses behind it is what the fast path sees of IPVLAN, too, which not every kernel
/// has.
#[test]
fn a_routed_container_in_a_pod_works_on_a_wire_that_segments() {
    Behind::Router.expect_to_work(Offloads::WIRE);
}

/// A gateway: the pod on node 2 takes connections from pods and leads them on, through a tunnel of its own, to another
/// pod on node 1. What it receives by the fast path it encapsulates again.
fn gateway(offloads: Offloads) {
    let bed = Bed::start_on(two_nodes().offloads(offloads), &[]);
    let [client, server, gateway] = [bed.pod(1, 1), bed.pod(1, 2), bed.pod(2, 1)];
    let inside = Ipv4Addr::new(172, 30, 0, 2);
    for (own, other, address) in [
        (gateway, server, Ipv4Addr::new(172, 30, 0, 1)),
        (server, gateway, inside),
    ] {
        let (local, remote) = (own.address(), other.address());
        own.space()
            .ip_batch(
                &[],
                &[
                    format!(
                        "link add vx0 mtu 1400 type vxlan id 99 local {local} remote {remote} dstport 4789 dev eth0 \
                         srcport 4789 4790"
                    ),
                    format!("addr add {address}/24 dev vx0"),
                    "link set vx0 up".to_owned(),
                ],
            )
            .unwrap();
    }
    gateway.space().sysctl("ipv4/ip_forward", "1").unwrap();
    for rule in [
        format!("-t nat -A PREROUTING -p tcp --dport {THERE} -j DNAT --to-destination {inside}:{THERE}"),
        "-t nat -A POSTROUTING -o vx0 -j MASQUERADE".to_owned(),
        // The tunnel is narrower than the way to the gateway.
        "-t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu".to_owned(),
    ] {
        gateway.run(&format!("iptables {rule}")).unwrap();
    }
    let transfer = TcpTransfer {
        timeout: Duration::from_secs(30),
        ..TcpTransfer::new(gateway.address(), THERE, BULK).listening_at(SocketAddrV4::new(inside, THERE))
    };
    switch_to_shortcut(&bed, 2, gateway);
    let before = bed.counters();
    transfer.run(client.space(), server.space()).unwrap();
    let grown = bed.growth(&before);
    assert!(grown[1].packets(Reason::ShortcutFast) > 1000, "{:?}", grown[1]);
    assert_eq!(grown[1].packets(Reason::IngressFast), 0, "{:?}", grown[1]);
    bed.end();
}

#[test]
fn a_gateway_that_encapsulates_again_works_with_the_switch() {
    gateway(Offloads::DEFAULT);
}

#[test]
fn a_gateway_that_encapsulates_again_works_with_the_switch_on_a_wire_that_segments() {
    gateway(Offloads::WIRE);
}
