//! What is not ours is seen as such and survives.

use std::fs;

use overlay_core::observed::{FdbEntry, Neighbour, Route};

use crate::namespace::{
    DEVICE, add_peer, bridge, execute, in_namespace, ip, ip_json, mac, observe, overlay, remove_peer, set_up,
    subnet, vtep,
};

/// The route that [`add_peer`] makes for node 2.
fn ours() -> Route {
    Route {
        destination: subnet(2),
        gateway: Some(overlay(2)),
        onlink: true,
        protocol: 3,
        metric: 0,
        plain: true,
    }
}

#[test]
fn foreign_routes_are_told_apart() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        let others = [
            (
                "metric 100",
                Route {
                    metric: 100,
                    ..ours()
                },
            ),
            (
                "proto static metric 1",
                Route {
                    protocol: 4,
                    metric: 1,
                    ..ours()
                },
            ),
            (
                "mtu 1300 metric 2",
                Route {
                    metric: 2,
                    plain: false,
                    ..ours()
                },
            ),
            (
                "src 10.0.1.0 metric 3",
                Route {
                    metric: 3,
                    plain: false,
                    ..ours()
                },
            ),
            (
                "realm 5 metric 4",
                Route {
                    metric: 4,
                    plain: false,
                    ..ours()
                },
            ),
            (
                "tos 0x10",
                Route {
                    plain: false,
                    ..ours()
                },
            ),
        ];
        for (attributes, _) in &others {
            ip(&format!(
                "route add 10.0.2.0/24 via 10.0.2.0 dev {DEVICE} onlink {attributes}"
            ));
        }
        ip(&format!("route add 10.0.3.0/24 dev {DEVICE} scope link"));
        ip(&format!(
            "route add 10.0.4.0/24 nexthop via 10.0.4.0 dev {DEVICE} onlink nexthop via 192.168.0.4 dev e0"
        ));
        ip(&format!(
            "route add 10.0.5.0/24 via 10.0.5.0 dev {DEVICE} onlink table 100"
        ));
        ip("route add blackhole 10.0.6.0/24");
        ip("route add 10.0.7.0/24 via 192.168.0.7 dev e0");
        execute(&netlink, &add_peer(2)).await;
        let observed = observe(&netlink).await;
        let expect = |route: Route| {
            assert!(
                observed.routes.contains(&route),
                "{route:?} among {:#?}",
                observed.routes
            );
        };
        expect(ours());
        for (_, route) in others {
            expect(route);
        }
        let bare = Route {
            gateway: None,
            onlink: false,
            plain: false,
            ..ours()
        };
        expect(Route {
            destination: subnet(3),
            ..bare.clone()
        });
        expect(Route {
            destination: subnet(4),
            ..bare
        });
        for node in [5, 6, 7] {
            assert!(
                !observed
                    .routes
                    .iter()
                    .any(|route| route.destination == subnet(node)),
                "node {node}"
            );
        }
    });
}

#[test]
fn removal_spares_routes_that_differ_in_metric_or_protocol() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        for attributes in ["metric 100", "proto static metric 1", "src 10.0.1.0 metric 3"] {
            ip(&format!(
                "route add 10.0.2.0/24 via 10.0.2.0 dev {DEVICE} onlink {attributes}"
            ));
        }
        let before = observe(&netlink).await.routes;
        execute(&netlink, &add_peer(2)).await;
        execute(&netlink, &remove_peer(2)).await;
        execute(&netlink, &remove_peer(2)).await;
        assert_eq!(observe(&netlink).await.routes, before);
    });
}

#[test]
fn foreign_neighbours_and_fdb_entries_are_told_apart() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        ip(&format!(
            "neigh add 10.0.3.0 lladdr {} dev {DEVICE} nud reachable",
            mac(3)
        ));
        bridge(&format!(
            "fdb add 00:00:00:00:00:00 dev {DEVICE} dst 192.168.0.9 self permanent"
        ));
        bridge(&format!(
            "fdb append 00:00:00:00:00:00 dev {DEVICE} dst 192.168.0.10 self permanent"
        ));
        bridge(&format!(
            "fdb add {} dev {DEVICE} dst 192.168.0.4 vni 77 self permanent",
            mac(4)
        ));
        bridge(&format!(
            "fdb add {} dev {DEVICE} dst 192.168.0.5 port 4789 self permanent",
            mac(5)
        ));
        bridge(&format!(
            "fdb add {} dev {DEVICE} dst 192.168.0.6 via e0 self permanent",
            mac(6)
        ));
        bridge(&format!(
            "fdb add {} dev {DEVICE} dst 192.168.0.7 self dynamic",
            mac(7)
        ));
        execute(&netlink, &add_peer(2)).await;
        let observed = observe(&netlink).await;
        let neighbour = Neighbour {
            address: overlay(3),
            mac: Some(mac(3)),
            permanent: false,
        };
        assert!(
            observed.neighbours.contains(&neighbour),
            "{:#?}",
            observed.neighbours
        );
        let zero = "00:00:00:00:00:00".parse().unwrap();
        for (mac, node, permanent, plain) in [
            (zero, 9, true, true),
            (zero, 10, true, true),
            (mac(4), 4, true, false),
            (mac(5), 5, true, false),
            (mac(6), 6, true, false),
            (mac(7), 7, false, true),
            (mac(2), 2, true, true),
        ] {
            let entry = FdbEntry {
                mac,
                destination: Some(vtep(node)),
                permanent,
                plain,
            };
            assert!(
                observed.fdb.contains(&entry),
                "{entry:?} among {:#?}",
                observed.fdb
            );
        }
        assert_eq!(observed.fdb.len(), 7);
    });
}

#[test]
fn other_devices_do_not_leak_into_the_observation() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        ip(&format!("address add 172.16.0.1/24 dev {DEVICE}"));
        ip("link add other0 type vxlan id 2 dev e0 dstport 8472");
        ip("link set other0 up");
        ip("address add 10.0.99.0/32 dev other0");
        ip("route add 10.0.98.0/24 via 10.0.98.0 dev other0 onlink");
        ip(&format!(
            "neigh add 10.0.98.0 lladdr {} dev other0 nud permanent",
            mac(98)
        ));
        bridge(&format!(
            "fdb add {} dev other0 dst 192.168.0.98 self permanent",
            mac(98)
        ));
        ip("link add br0 type bridge");
        ip(&format!("link set {DEVICE} master br0"));
        bridge(&format!("fdb add {} dev {DEVICE} master static", mac(97)));
        execute(&netlink, &add_peer(2)).await;
        let observed = observe(&netlink).await;
        let v4 = |address: &std::net::IpAddr| address.is_ipv4();
        let addresses: Vec<_> = observed
            .addresses
            .iter()
            .map(ToString::to_string)
            .filter(|a| !a.contains(':'))
            .collect();
        assert_eq!(addresses, ["10.0.1.0/32", "172.16.0.1/24"]);
        let kernel = Route {
            destination: "172.16.0.0/24".parse().unwrap(),
            gateway: None,
            onlink: false,
            protocol: 2,
            metric: 0,
            plain: false,
        };
        let routes: Vec<_> = observed
            .routes
            .iter()
            .filter(|route| v4(&route.destination.addr()))
            .collect();
        assert_eq!(routes, [&ours(), &kernel]);
        assert_eq!(
            observed
                .neighbours
                .iter()
                .filter(|neighbour| v4(&neighbour.address))
                .count(),
            1
        );
        assert_eq!(
            observed.fdb.iter().map(|entry| entry.mac).collect::<Vec<_>>(),
            [mac(2)]
        );

        execute(&netlink, &remove_peer(2)).await;
        execute(&netlink, &remove_peer(98)).await;
        assert_eq!(ip_json("route show dev other0").as_array().unwrap().len(), 1);
        assert_eq!(ip_json("neigh show dev other0").as_array().unwrap().len(), 1);
        assert!(
            observe(&netlink)
                .await
                .addresses
                .contains(&"172.16.0.1/24".parse().unwrap())
        );
    });
}

#[test]
fn ipv6_is_observed_too() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        fs::write(format!("/proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6"), "0").unwrap();
        ip(&format!("-6 address add fd00::1/64 dev {DEVICE} nodad"));
        ip(&format!(
            "-6 route add fd00:2::/64 via fd00::2 dev {DEVICE} onlink"
        ));
        ip(&format!(
            "-6 route add fd00:3::/64 via fd00::3 dev {DEVICE} onlink metric 7"
        ));
        ip(&format!(
            "-6 neigh add fd00::2 lladdr {} dev {DEVICE} nud permanent",
            mac(2)
        ));
        let observed = observe(&netlink).await;
        assert!(
            observed.addresses.contains(&"fd00::1/64".parse().unwrap()),
            "{:?}",
            observed.addresses
        );
        let route = Route {
            destination: "fd00:2::/64".parse().unwrap(),
            gateway: "fd00::2".parse().ok(),
            ..ours()
        };
        assert!(observed.routes.contains(&route), "{:#?}", observed.routes);
        let route = Route {
            destination: "fd00:3::/64".parse().unwrap(),
            gateway: "fd00::3".parse().ok(),
            metric: 7,
            ..ours()
        };
        assert!(observed.routes.contains(&route), "{:#?}", observed.routes);
        let neighbour = Neighbour {
            address: "fd00::2".parse().unwrap(),
            mac: Some(mac(2)),
            permanent: true,
        };
        assert!(
            observed.neighbours.contains(&neighbour),
            "{:#?}",
            observed.neighbours
        );
    });
}

#[test]
fn metadata_device_of_our_name_is_observed_as_one() {
    in_namespace(async |netlink| {
        ip(&format!("link add {DEVICE} type vxlan external dstport 8472"));
        let vxlan = observe(&netlink).await.vxlan.expect("a VXLAN device");
        assert!(vxlan.collect_metadata);
        assert_eq!(
            (vxlan.port, vxlan.local, vxlan.underlay_ifindex),
            (8472, None, None)
        );
        ip(&format!("link delete {DEVICE}"));
        ip(&format!(
            "link add {DEVICE} type vxlan id 1 group 239.1.1.1 dev e0 l2miss dstport 8472"
        ));
        let vxlan = observe(&netlink).await.vxlan.expect("a VXLAN device");
        assert_eq!(vxlan.group, Some("239.1.1.1".parse().unwrap()));
        assert!(vxlan.l2miss && vxlan.learning);
    });
}
