//! Routes of both kinds of protocol: seen as ours, removed, and no obstacle to flannel.

use std::collections::BTreeSet;

use overlay_agent::netlink::Netlink;
use overlay_core::action::KernelAction;
use overlay_core::observed::Route;
use overlay_core::ownership::{ROUTE_PROTOCOL, SPREAD_FROM, SPREAD_PROTOCOLS, has_peer_route, peer_route};

use crate::namespace::{
    DEVICE, add_peer, execute, in_namespace, ip, observe, overlay, remove_peer, set_up, subnet, try_execute,
};

/// So many peers that the last ones' routes are spread.
const PEERS: u16 = 1_200;

/// The route to the subnet of node `n`, if there is just one.
async fn route(netlink: &Netlink, n: u16) -> Option<Route> {
    let routes = observe(netlink).await.routes;
    let mut found = routes.into_iter().filter(|route| route.destination == subnet(n));
    let route = found.next();
    assert_eq!(found.next(), None, "two routes to {}", subnet(n));
    route
}

/// A test with many peers, of which it gets one whose route is spread.
fn with_spread_route(test: impl AsyncFnOnce(Netlink, u16) + Send + 'static) {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        execute(&netlink, &(2..PEERS + 2).flat_map(add_peer).collect::<Vec<_>>()).await;
        let last = PEERS + 1;
        let found = route(&netlink, last).await.unwrap();
        assert!(SPREAD_PROTOCOLS.contains(&found.protocol), "{found:?}");
        test(netlink, last).await;
    });
}

#[test]
fn many_routes_are_spread_and_all_are_ours() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        let before = observe(&netlink).await;
        execute(&netlink, &(2..PEERS + 2).flat_map(add_peer).collect::<Vec<_>>()).await;
        let routes = observe(&netlink).await.routes;
        assert!(routes.iter().all(peer_route), "{routes:#?}");
        assert!((2..PEERS + 2).all(|n| has_peer_route(&routes, subnet(n), overlay(n))));
        let boot = routes
            .iter()
            .filter(|route| route.protocol == ROUTE_PROTOCOL)
            .count();
        assert_eq!(boot, SPREAD_FROM);
        let protocols: BTreeSet<u8> = routes.iter().map(|route| route.protocol).collect();
        assert!(protocols.len() > 40, "{protocols:?}");
        // Setting them again finds them right; a few are asked for, many are listed.
        execute(&netlink, &(1_100..PEERS).flat_map(add_peer).collect::<Vec<_>>()).await;
        execute(&netlink, &add_peer(PEERS)).await;
        assert_eq!(observe(&netlink).await.routes, routes);
        execute(&netlink, &remove_peer(PEERS)).await;
        execute(
            &netlink,
            &(2..PEERS + 2).flat_map(remove_peer).collect::<Vec<_>>(),
        )
        .await;
        assert_eq!(observe(&netlink).await, before);
    });
}

/// As flannel's library asks (vishvananda/netlink): `RouteReplace` is `CREATE | REPLACE` with protocol boot.
#[test]
fn flannel_replaces_a_spread_route_by_its_own() {
    with_spread_route(async |netlink, n| {
        ip(&format!(
            "route replace {} via {} dev {DEVICE} onlink",
            subnet(n),
            overlay(n)
        ));
        let found = route(&netlink, n).await.unwrap();
        assert_eq!(found.protocol, ROUTE_PROTOCOL);
        // And the agent takes it back as it is.
        execute(&netlink, &add_peer(n)).await;
        assert_eq!(route(&netlink, n).await, Some(found));
        execute(&netlink, &remove_peer(n)).await;
        assert_eq!(route(&netlink, n).await, None);
    });
}

/// As flannel's library asks: `RouteDel` names no protocol.
#[test]
fn flannel_deletes_a_spread_route() {
    with_spread_route(async |netlink, n| {
        ip(&format!(
            "route delete {} via {} dev {DEVICE} onlink",
            subnet(n),
            overlay(n)
        ));
        assert_eq!(route(&netlink, n).await, None);
    });
}

#[test]
fn a_spread_route_by_another_gateway_is_corrected() {
    with_spread_route(async |netlink, n| {
        let elsewhere = KernelAction::SetRoute {
            destination: subnet(n),
            gateway: overlay(2),
        };
        execute(&netlink, &[elsewhere]).await;
        assert_eq!(
            route(&netlink, n).await.and_then(|route| route.gateway),
            Some(overlay(2))
        );
        execute(&netlink, &add_peer(n)).await;
        assert_eq!(
            route(&netlink, n).await.and_then(|route| route.gateway),
            Some(overlay(n))
        );
    });
}

#[test]
fn a_route_of_any_other_protocol_stays() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        for protocol in [4, 186, 199, 248] {
            ip(&format!(
                "route add {} via {} dev {DEVICE} onlink proto {protocol}",
                subnet(2),
                overlay(2)
            ));
            let before = route(&netlink, 2).await;
            let [_, _, set] = add_peer(2);
            let error = try_execute(&netlink, &[set]).await.remove(0).unwrap_err();
            assert!(error.contains("somebody else's route"), "{error}");
            execute(&netlink, &remove_peer(2)).await;
            assert_eq!(route(&netlink, 2).await, before);
            ip(&format!("route delete {}", subnet(2)));
        }
    });
}

/// The kernel's answer to the question for one route is another one: the list tells.
#[test]
fn a_route_that_is_hidden_from_a_question_is_removed() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        let host = "10.0.2.0/32";
        for hider in [
            format!("{host} via 192.168.0.9 dev e0"),
            format!("{host} via {} dev {DEVICE} onlink", overlay(2)),
            format!("blackhole {host}"),
        ] {
            ip(&format!("route add {hider}"));
            execute(&netlink, &add_peer(2)).await;
            execute(&netlink, &add_peer(2)).await;
            execute(&netlink, &remove_peer(2)).await;
            assert_eq!(route(&netlink, 2).await, None, "{hider}");
            ip(&format!("route delete {hider}"));
        }
    });
}

/// A removal that is repeated must not go on to what stands behind: the same way by another metric.
#[test]
fn a_repeated_removal_spares_the_same_way_by_another_metric() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        ip(&format!(
            "route add {} via {} dev {DEVICE} onlink metric 50",
            subnet(2),
            overlay(2)
        ));
        let before = route(&netlink, 2).await;
        assert!(before.is_some());
        execute(&netlink, &add_peer(2)).await;
        for _ in 0..3 {
            execute(&netlink, &remove_peer(2)).await;
            assert_eq!(route(&netlink, 2).await, before);
        }
    });
}
