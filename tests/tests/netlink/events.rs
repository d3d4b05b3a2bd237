//! Events: for what concerns us, and for nothing else.

use std::time::Duration;

use overlay_agent::netlink::{Events, Netlink};
use overlay_core::action::KernelAction;
use tokio::time::timeout;

use crate::namespace::{
    DEVICE, add_peer, bridge, execute, in_namespace, ip, mac, observe, overlay, set_up, subnet,
};

/// How long nothing may come where nothing should.
const SILENCE: Duration = Duration::from_millis(300);

/// Waits until the events of the set-up are over.
async fn settle(events: &mut Events) {
    while timeout(SILENCE, events.changed()).await.is_ok() {}
}

/// A test with the device set up, one peer on it, and a settled subscription.
fn with_events(test: impl AsyncFnOnce(Netlink, Events) + Send + 'static) {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        execute(&netlink, &add_peer(2)).await;
        let mut events = netlink.events(DEVICE, Some("e0")).await.unwrap();
        settle(&mut events).await;
        test(netlink, events).await;
    });
}

async fn wakes(events: &mut Events, what: &str) {
    timeout(Duration::from_secs(5), events.changed())
        .await
        .unwrap_or_else(|_| panic!("no event: {what}"));
    settle(events).await;
}

async fn stays_silent(events: &mut Events, what: &str) {
    assert!(
        timeout(SILENCE, events.changed()).await.is_err(),
        "an event for nothing: {what}"
    );
}

#[test]
fn rules_that_look_at_source_ports_are_events() {
    with_events(async |_, mut events| {
        for change in [
            "rule add ipproto udp sport 40000-41000 table 77 priority 102",
            "rule delete priority 102",
        ] {
            ip(change);
            wakes(&mut events, change).await;
        }
        for change in [
            "rule add fwmark 7 table 77 priority 100",
            "rule delete priority 100",
        ] {
            ip(change);
            stays_silent(&mut events, change).await;
        }
    });
}

#[test]
fn changes_of_our_device_are_events() {
    with_events(async |_, mut events| {
        for change in [
            format!(
                "route delete {} via {} dev {DEVICE} onlink",
                subnet(2),
                overlay(2)
            ),
            format!("neigh delete {} dev {DEVICE}", overlay(2)),
            format!(
                "neigh add {} lladdr {} dev {DEVICE} nud permanent",
                overlay(2),
                mac(3)
            ),
            format!("address add 10.0.1.9/32 dev {DEVICE}"),
            format!("address delete 10.0.1.9/32 dev {DEVICE}"),
            format!("link set {DEVICE} mtu 1300"),
            format!("link set {DEVICE} address 0a:00:00:00:00:01"),
            format!(
                "route add 10.0.4.0/24 nexthop via 10.0.4.0 dev {DEVICE} onlink nexthop via 192.168.0.4 dev e0"
            ),
            format!("link set {DEVICE} down"),
            format!("link set {DEVICE} name renamed0"),
            format!("link set renamed0 name {DEVICE}"),
            format!("link delete {DEVICE}"),
            format!("link add {DEVICE} type vxlan id 1 dev e0 dstport 0"),
            format!("link set {DEVICE} up"),
            format!(
                "neigh add {} lladdr {} dev {DEVICE} nud permanent",
                overlay(2),
                mac(3)
            ),
        ] {
            ip(&change);
            wakes(&mut events, &change).await;
        }
        bridge(&format!(
            "fdb add {} dev {DEVICE} dst 192.168.0.3 self permanent",
            mac(3)
        ));
        wakes(&mut events, "fdb add").await;
        bridge(&format!(
            "fdb delete {} dev {DEVICE} dst 192.168.0.3 self",
            mac(3)
        ));
        wakes(&mut events, "fdb delete").await;
    });
}

#[test]
fn changes_that_may_concern_us_are_events() {
    with_events(async |_, mut events| {
        for change in [
            "link set e0 mtu 1400",
            "address add 192.168.7.1/24 dev e0",
            "route add default via 192.168.0.254",
            "route delete default",
            // Takes the place of ours, which the kernel does not tell of.
            "route replace 10.0.2.0/24 via 192.168.0.2",
            "link add other0 type vxlan id 2 dev e0 dstport 8472",
            "link delete other0",
            "link set e0 down",
        ] {
            ip(change);
            wakes(&mut events, change).await;
        }
    });
}

#[test]
fn changes_of_other_devices_are_no_events() {
    with_events(async |_, mut events| {
        for change in [
            "neigh add 192.168.0.9 lladdr 02:00:00:00:00:09 dev e0 nud reachable",
            "neigh delete 192.168.0.9 dev e0",
            "link add pod0 type veth peer name pod1",
            "link set pod0 up",
            "link set pod1 up",
            "address add 172.16.0.1/24 dev pod0",
            "neigh add 172.16.0.2 lladdr 02:00:00:00:00:0a dev pod0 nud permanent",
            "route add 172.17.0.0/24 via 172.16.0.2",
            "route add 172.18.0.0/24 nexthop via 172.16.0.2 dev pod0 nexthop via 172.16.0.3 dev pod0",
            "route add 10.0.77.0/24 dev e0 table 100",
            "link add br0 type bridge",
            "link set pod0 master br0",
            "link delete pod0",
        ] {
            ip(change);
            stays_silent(&mut events, change).await;
        }
    });
}

#[test]
fn device_may_appear_after_the_subscription() {
    in_namespace(async |netlink| {
        let mut events = netlink.events(DEVICE, None).await.unwrap();
        settle(&mut events).await;
        ip("link set e1 mtu 1400");
        stays_silent(&mut events, "no underlay is watched").await;
        events.set_underlay("e1").await.unwrap();
        ip("link set e1 mtu 1450");
        wakes(&mut events, "the underlay is watched now").await;
        set_up(&netlink).await;
        wakes(&mut events, "creation").await;
        execute(&Netlink::connect().unwrap(), &add_peer(2)).await;
        wakes(&mut events, "entries").await;
    });
}

#[test]
fn many_changes_are_few_events() {
    with_events(async |_, mut events| {
        let stranger = Netlink::connect().unwrap();
        execute(&stranger, &(3..503).flat_map(add_peer).collect::<Vec<_>>()).await;
        let mut woken = 0;
        while timeout(SILENCE, events.changed()).await.is_ok() {
            woken += 1;
        }
        assert!((1..=3).contains(&woken), "{woken} events for one batch");
    });
}

#[test]
fn lost_notifications_are_an_event() {
    with_events(async |netlink, mut events| {
        // More than any buffer holds, with the device's index changing among what is lost.
        execute(&netlink, &(3..10_003).flat_map(add_peer).collect::<Vec<_>>()).await;
        let ifindex = observe(&netlink).await.ifindex;
        execute(
            &netlink,
            &[KernelAction::DeleteDevice {
                name: DEVICE.to_owned(),
                ifindex,
            }],
        )
        .await;
        set_up(&netlink).await;
        wakes(&mut events, "lost notifications").await;
        execute(&Netlink::connect().unwrap(), &add_peer(2)).await;
        wakes(&mut events, "after lost notifications").await;
    });
}

#[test]
fn abandoned_wait_loses_nothing() {
    with_events(async |_, mut events| {
        assert!(timeout(Duration::from_millis(1), events.changed()).await.is_err());
        ip(&format!("link set {DEVICE} mtu 1300"));
        assert!(
            timeout(Duration::ZERO, events.changed()).await.is_ok() || {
                wakes(&mut events, "a change during an abandoned wait").await;
                true
            }
        );
    });
}
