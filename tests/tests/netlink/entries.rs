//! Addresses, routes, neighbours and forwarding database entries are flannel's.

use std::collections::BTreeSet;

use overlay_core::action::KernelAction;
use overlay_core::observed::{FdbEntry, Neighbour, Route};

use crate::namespace::{
    DEVICE, add_peer, bridge, bridge_json, execute, in_namespace, ip, ip_json, mac, observe, overlay,
    remove_peer, set_up, subnet, try_execute, vtep,
};

/// Routes, neighbours, forwarding database and addresses of the device as iproute2 has them.
fn tables() -> [serde_json::Value; 4] {
    [
        ip_json(&format!("route show table all dev {DEVICE}")),
        ip_json(&format!("neigh show dev {DEVICE}")),
        bridge_json(&format!("fdb show dev {DEVICE}")),
        ip_json(&format!("-4 address show dev {DEVICE}"))[0]["addr_info"].clone(),
    ]
}

#[test]
fn peer_is_written_like_by_hand() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        execute(&netlink, &add_peer(2)).await;
        let made = tables();
        execute(&netlink, &remove_peer(2)).await;
        ip(&format!("address delete 10.0.1.0/32 dev {DEVICE}"));

        ip(&format!("address add 10.0.1.0/32 dev {DEVICE}"));
        ip(&format!(
            "neigh replace 10.0.2.0 lladdr {} dev {DEVICE} nud permanent",
            mac(2)
        ));
        bridge(&format!(
            "fdb replace {} dev {DEVICE} dst 192.168.0.2 self permanent",
            mac(2)
        ));
        ip(&format!(
            "route replace 10.0.2.0/24 via 10.0.2.0 dev {DEVICE} onlink"
        ));
        assert_eq!(made, tables());
        assert_eq!(
            made[0]
                .as_array()
                .unwrap()
                .iter()
                .filter(|route| route["dst"] == "10.0.2.0/24")
                .count(),
            1
        );
        assert_eq!(made[1].as_array().unwrap().len(), 1);
        assert_eq!(made[2].as_array().unwrap().len(), 1);
    });
}

#[test]
fn observation_gives_back_what_was_set() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        execute(&netlink, &add_peer(2)).await;
        let observed = observe(&netlink).await;
        assert!(observed.up);
        assert!(
            observed.addresses.contains(&"10.0.1.0/32".parse().unwrap()),
            "{:?}",
            observed.addresses
        );
        let ours: BTreeSet<_> = observed
            .routes
            .iter()
            .filter(|route| route.destination.addr().is_ipv4())
            .collect();
        let route = Route {
            destination: subnet(2),
            gateway: Some(overlay(2)),
            onlink: true,
            protocol: 3,
            metric: 0,
            plain: true,
        };
        assert_eq!(ours, BTreeSet::from([&route]));
        let ours: BTreeSet<_> = observed
            .neighbours
            .iter()
            .filter(|neighbour| neighbour.address.is_ipv4())
            .collect();
        assert_eq!(
            ours,
            BTreeSet::from([&Neighbour {
                address: overlay(2),
                mac: Some(mac(2)),
                permanent: true
            }])
        );
        let entry = FdbEntry {
            mac: mac(2),
            destination: Some(vtep(2)),
            permanent: true,
            plain: true,
        };
        assert_eq!(observed.fdb, BTreeSet::from([entry]));
    });
}

#[test]
fn each_action_on_an_entry_may_be_repeated() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        let before = observe(&netlink).await;
        let address = "10.0.1.7/32".parse().unwrap();
        execute(
            &netlink,
            &[
                KernelAction::AddAddress(address),
                KernelAction::AddAddress(address),
            ],
        )
        .await;
        execute(&netlink, &[add_peer(2), add_peer(2)].concat()).await;
        let once = observe(&netlink).await;
        execute(&netlink, &add_peer(2)).await;
        assert_eq!(observe(&netlink).await, once);
        execute(
            &netlink,
            &[
                KernelAction::RemoveAddress(address),
                KernelAction::RemoveAddress(address),
            ],
        )
        .await;
        execute(&netlink, &[remove_peer(2), remove_peer(2)].concat()).await;
        assert_eq!(observe(&netlink).await, before);
    });
}

#[test]
fn changed_peer_replaces_its_entries() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        execute(&netlink, &add_peer(2)).await;
        let moved = [
            KernelAction::SetNeighbour {
                address: overlay(2),
                mac: mac(22),
            },
            KernelAction::SetFdb {
                mac: mac(2),
                destination: vtep(22),
            },
            KernelAction::SetRoute {
                destination: subnet(2),
                gateway: overlay(22),
            },
        ];
        execute(&netlink, &moved).await;
        let observed = observe(&netlink).await;
        let neighbour = observed
            .neighbours
            .iter()
            .find(|neighbour| neighbour.address == overlay(2));
        assert_eq!(neighbour.and_then(|neighbour| neighbour.mac), Some(mac(22)));
        assert_eq!(
            observed
                .fdb
                .iter()
                .map(|entry| entry.destination)
                .collect::<Vec<_>>(),
            [Some(vtep(22))]
        );
        let gateways = observed
            .routes
            .iter()
            .filter(|route| route.destination == subnet(2))
            .map(|route| route.gateway);
        assert_eq!(gateways.collect::<Vec<_>>(), [Some(overlay(22))]);
    });
}

#[test]
fn route_may_be_set_and_removed_in_one_batch() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        let before = observe(&netlink).await;
        execute(&netlink, &[add_peer(2), remove_peer(2)].concat()).await;
        assert_eq!(observe(&netlink).await, before);
    });
}

#[test]
fn without_device_removals_are_done_and_additions_fail() {
    in_namespace(async |netlink| {
        execute(&netlink, &remove_peer(2)).await;
        execute(
            &netlink,
            &[KernelAction::RemoveAddress("10.0.1.0/32".parse().unwrap())],
        )
        .await;
        for (action, result) in add_peer(2).iter().zip(try_execute(&netlink, &add_peer(2)).await) {
            let error = result.unwrap_err();
            assert!(
                error.contains(DEVICE) && error.contains(&action.to_string()),
                "{error}"
            );
        }
        let error = try_execute(&netlink, &[KernelAction::SetDeviceUp])
            .await
            .remove(0)
            .unwrap_err();
        assert!(error.contains(DEVICE), "{error}");
    });
}

#[test]
fn failure_of_one_action_does_not_stop_the_next() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        let [neighbour, fdb, route] = add_peer(2);
        // A gateway that is an address of this node.
        let bad = KernelAction::SetRoute {
            destination: subnet(3),
            gateway: "10.0.1.0".parse().unwrap(),
        };
        let results = try_execute(&netlink, &[neighbour, bad.clone(), fdb, route]).await;
        let [Ok(()), Err(error), Ok(()), Ok(())] = results.as_slice() else {
            panic!("{results:?}")
        };
        assert!(
            error.contains(&bad.to_string()) && error.contains("EINVAL"),
            "{error}"
        );
        let observed = observe(&netlink).await;
        assert!(observed.routes.iter().any(|route| route.destination == subnet(2)));
    });
}

#[test]
fn routes_on_a_device_that_is_down_are_refused_with_a_hint() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        ip(&format!("link set {DEVICE} down"));
        let [_, _, route] = add_peer(2);
        let error = try_execute(&netlink, &[route]).await.remove(0).unwrap_err();
        assert!(error.contains("device to be up"), "{error}");
    });
}
