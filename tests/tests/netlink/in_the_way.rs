//! Somebody else's route to a peer's subnet, with the key of ours: it stays, and is named.

use serde_json::Value;

use crate::namespace::{
    DEVICE, add_peer, execute, in_namespace, ip, ip_json, observe, remove_peer, set_up, try_execute,
};

/// As `ip route` takes and prints them; the kernel adds nothing to them.
const OTHERS: [&str; 9] = [
    "10.0.2.0/24 via 192.168.0.254 dev e0 proto boot",
    "10.0.2.0/24 via 192.168.0.254 dev e0 proto static",
    "10.0.2.0/24 via 192.168.0.254 dev e0 proto bgp src 192.168.0.1",
    "10.0.2.0/24 via 192.168.0.254 dev e0 proto 77 onlink",
    "10.0.2.0/24 dev e0 proto boot scope link",
    "10.0.2.0/24 via 10.0.2.0 dev flannel.1 proto static onlink",
    "10.0.2.0/24 dev flannel.1 proto boot scope link",
    "blackhole 10.0.2.0/24 proto boot",
    "10.0.2.0/24 proto static nexthop via 192.168.0.254 dev e0 weight 1 nexthop via 192.168.0.253 dev e0 weight 2",
];

fn routes() -> Value {
    ip_json("route show 10.0.2.0/24")
}

#[test]
fn somebody_else_s_route_stays_and_is_named() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        for other in OTHERS {
            ip(&format!("route add {other}"));
            let before = routes();
            for _ in 0..2 {
                let results = try_execute(&netlink, &[add_peer(2), add_peer(3)].concat()).await;
                let [Ok(()), Ok(()), Err(error), Ok(()), Ok(()), Ok(())] = results.as_slice() else {
                    panic!("{other}: {results:?}")
                };
                for part in [
                    DEVICE.to_owned(),
                    format!("`{other}`"),
                    "left alone".to_owned(),
                    format!("`ip route delete {other}`"),
                ] {
                    assert!(error.contains(&part), "{part:?} is not in: {error}");
                }
                assert_eq!(routes(), before, "{other}");
            }
            execute(&netlink, &remove_peer(2)).await;
            assert_eq!(routes(), before, "{other}: removing the peer");

            // The command that the message gives.
            ip(&format!("route delete {other}"));
            execute(&netlink, &add_peer(2)).await;
            assert_eq!(routes().as_array().unwrap().len(), 1);
            execute(&netlink, &[remove_peer(2), remove_peer(3)].concat()).await;
        }
    });
}

#[test]
fn routes_with_another_key_are_not_in_the_way() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        ip("route add 10.0.2.0/24 via 192.168.0.254 dev e0 metric 100");
        ip("route add 10.0.2.0/24 via 192.168.0.254 dev e0 tos 0x10");
        ip("route add 10.0.2.0/24 via 192.168.0.254 dev e0 table 100");
        ip("route add 10.0.2.0/25 via 192.168.0.254 dev e0");
        let before = routes();
        execute(&netlink, &add_peer(2)).await;
        execute(&netlink, &add_peer(2)).await;
        assert_eq!(routes().as_array().unwrap().len(), 3);
        execute(&netlink, &remove_peer(2)).await;
        assert_eq!(routes(), before);
    });
}

#[test]
fn our_route_to_another_gateway_is_corrected_and_its_twin_spared() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        execute(&netlink, &add_peer(2)).await;
        let wanted = routes();
        execute(&netlink, &remove_peer(2)).await;
        ip(&format!("route add 10.0.2.0/24 via 10.0.9.0 dev {DEVICE} onlink"));
        execute(&netlink, &add_peer(2)).await;
        assert_eq!(routes(), wanted);

        execute(&netlink, &remove_peer(2)).await;
        ip(&format!(
            "route add 10.0.2.0/24 via 10.0.9.0 dev {DEVICE} onlink metric 100"
        ));
        let twin = routes();
        ip(&format!("route add 10.0.2.0/24 via 10.0.9.0 dev {DEVICE} onlink"));
        execute(&netlink, &add_peer(2)).await;
        execute(&netlink, &remove_peer(2)).await;
        assert_eq!(routes(), twin);
    });
}

#[test]
fn a_route_that_is_there_is_removed_by_what_follows_in_the_batch() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        let before = observe(&netlink).await;
        execute(&netlink, &add_peer(2)).await;
        execute(&netlink, &[add_peer(2), remove_peer(2)].concat()).await;
        assert_eq!(observe(&netlink).await, before);
    });
}
