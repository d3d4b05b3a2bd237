//! Which device and address the overlay uses.

use std::net::IpAddr;

use overlay_agent::netlink::{InterfaceChoice, Kept, Netlink, Place};

use crate::namespace::{DEVICE, LOCAL, in_empty_namespace, in_namespace, ip, set_up};

async fn error(netlink: &Netlink, iface: Option<&str>) -> String {
    format!("{:#}", netlink.underlay(iface).await.expect_err("an error"))
}

async fn chosen(netlink: &Netlink, iface: Option<&str>) -> (String, String) {
    let underlay = netlink.underlay(iface).await.expect("an underlay");
    (underlay.name, underlay.address.to_string())
}

fn pair(name: &str, address: &str) -> (String, String) {
    (name.to_owned(), address.to_owned())
}

#[test]
fn named_interface_is_taken() {
    in_namespace(async |netlink| {
        ip("link set e0 mtu 1400");
        let underlay = netlink.underlay(Some("e0")).await.unwrap();
        assert_eq!(
            (underlay.name.as_str(), underlay.mtu, underlay.address),
            ("e0", 1400, LOCAL.into())
        );
        let prefixes = netlink.prefixes(underlay.ifindex).await.unwrap();
        assert!(
            prefixes.contains(&"192.168.0.1/24".parse().unwrap()),
            "{prefixes:?}"
        );
    });
}

#[test]
fn missing_interface_is_an_error_that_lists_those_there_are() {
    in_namespace(async |netlink| {
        let error = error(&netlink, Some("eth7")).await;
        for word in ["eth7", "lo", "e0", "e1"] {
            assert!(error.contains(word), "{error}");
        }
    });
}

#[test]
fn interface_without_address_is_an_error() {
    in_namespace(async |netlink| {
        let error = error(&netlink, Some("e1")).await;
        assert!(
            error.contains("e1") && error.contains("no usable IPv4 address"),
            "{error}"
        );
    });
}

#[test]
fn default_route_with_the_lowest_metric_decides() {
    in_namespace(async |netlink| {
        ip("address add 172.16.0.1/24 dev e1");
        ip("route add default via 192.168.0.254 metric 200");
        assert_eq!(chosen(&netlink, None).await, pair("e0", "192.168.0.1"));
        ip("route add default via 172.16.0.254 metric 100");
        assert_eq!(chosen(&netlink, None).await, pair("e1", "172.16.0.1"));
        ip("route add default via 192.168.0.254 metric 50 table 100");
        ip("route add unreachable default metric 10");
        assert_eq!(chosen(&netlink, None).await, pair("e1", "172.16.0.1"));
        ip("route add default via 192.168.0.254");
        assert_eq!(chosen(&netlink, None).await, pair("e0", "192.168.0.1"));
    });
}

#[test]
fn no_default_route_is_an_error() {
    in_namespace(async |netlink| {
        let error = error(&netlink, None).await;
        for word in ["default route", "--iface", "e0", "e1"] {
            assert!(error.contains(word), "{error}");
        }
    });
    // No table main at all.
    in_empty_namespace(async |netlink| {
        let error = error(&netlink, None).await;
        assert!(error.contains("no IPv4 default route"), "{error}");
    });
}

#[test]
fn default_route_with_several_next_hops_is_an_error() {
    in_namespace(async |netlink| {
        ip("address add 172.16.0.1/24 dev e1");
        ip("route add default nexthop via 192.168.0.254 nexthop via 172.16.0.254");
        let error = error(&netlink, None).await;
        assert!(
            error.contains("found default route but could not determine interface"),
            "{error}"
        );
    });
}

#[test]
fn best_address_is_taken() {
    in_namespace(async |netlink| {
        ip("address flush dev e0");
        ip("address add 169.254.3.3/16 dev e0 scope link");
        assert_eq!(chosen(&netlink, Some("e0")).await, pair("e0", "169.254.3.3"));
        // Leased, as by DHCP.
        ip("address add 172.16.0.5/24 dev e0 valid_lft 1000 preferred_lft 1000");
        assert_eq!(chosen(&netlink, Some("e0")).await, pair("e0", "172.16.0.5"));
        ip("address add 172.17.0.5/24 dev e0 valid_lft 1000 preferred_lft 0");
        assert_eq!(chosen(&netlink, Some("e0")).await, pair("e0", "172.16.0.5"));
        ip("address add 172.18.0.5/24 dev e0");
        assert_eq!(chosen(&netlink, Some("e0")).await, pair("e0", "172.18.0.5"));
        // Secondary ones come after.
        ip("address add 172.18.0.6/24 dev e0");
        ip("address add 172.19.0.5/24 dev e0");
        assert_eq!(chosen(&netlink, Some("e0")).await, pair("e0", "172.18.0.5"));
    });
}

#[test]
fn deprecated_addresses_are_not_usable() {
    in_namespace(async |netlink| {
        ip("address flush dev e0");
        ip("address add 172.17.0.5/24 dev e0 valid_lft 1000 preferred_lft 0");
        let error = error(&netlink, Some("e0")).await;
        assert!(error.contains("no usable IPv4 address"), "{error}");
    });
}

#[test]
fn the_smallest_mtu_among_the_routes_of_any_table() {
    in_namespace(async |netlink| {
        let ifindex = netlink.underlay(Some("e0")).await.unwrap().ifindex;
        assert_eq!(netlink.smallest_route_mtu(ifindex).await.unwrap(), None);
        ip("route add 10.1.0.0/16 via 192.168.0.2 mtu 1400");
        ip("route add 10.2.0.0/16 via 192.168.0.2 mtu lock 1350");
        assert_eq!(netlink.smallest_route_mtu(ifindex).await.unwrap(), Some(1350));
        ip("route add 10.3.0.0/16 via 192.168.0.2 mtu 1300 table 77");
        ip("link add other0 type veth peer name other1");
        ip("link set other0 up");
        ip("addr add 172.16.0.1/24 dev other0");
        ip("route add 10.4.0.0/16 via 172.16.0.2 mtu 1200");
        assert_eq!(netlink.smallest_route_mtu(ifindex).await.unwrap(), Some(1300));
    });
}

#[test]
fn rules_that_look_at_source_ports() {
    in_namespace(async |netlink| {
        assert!(!netlink.rules_by_port().await.unwrap());
        ip("rule add fwmark 7 table 77 priority 100");
        ip("rule add ipproto udp dport 8472 table 77 priority 101");
        assert!(!netlink.rules_by_port().await.unwrap());
        ip("rule add ipproto udp sport 40000-41000 table 77 priority 102");
        assert!(netlink.rules_by_port().await.unwrap());
        ip("rule delete priority 102");
        assert!(!netlink.rules_by_port().await.unwrap());
    });
}

async fn kept(netlink: &Netlink, iface: Option<&str>, place: Place) -> (String, String) {
    let underlay = netlink
        .stable_underlay(&iface.into(), Some(Kept::Found(place)))
        .await;
    let underlay = underlay.expect("an underlay");
    (underlay.name, underlay.address.to_string())
}

#[test]
fn what_is_in_use_is_kept_for_as_long_as_it_is_there() {
    in_namespace(async |netlink| {
        ip("route add default via 192.168.0.254 metric 100");
        assert_eq!(netlink.place_of(DEVICE).await.unwrap(), None);
        assert_eq!(netlink.place_of("e0").await.unwrap(), None, "not a VXLAN device");
        let underlay = netlink.underlay(None::<&str>).await.unwrap();
        let place = Place {
            ifindex: underlay.ifindex,
            address: underlay.address,
        };
        set_up(&netlink).await;
        assert_eq!(netlink.place_of(DEVICE).await.unwrap(), Some(place));

        ip("address add 172.16.0.1/24 dev e1");
        ip("route add default via 172.16.0.254");
        ip("address change 192.168.0.1/24 dev e0 valid_lft 1000 preferred_lft 1000");
        ip("address add 172.17.0.1/24 dev e0");
        ip("link set e0 mtu 1400");
        assert_eq!(chosen(&netlink, None).await, pair("e1", "172.16.0.1"));
        assert_eq!(chosen(&netlink, Some("e0")).await, pair("e0", "172.17.0.1"));
        assert_eq!(kept(&netlink, None, place).await, pair("e0", "192.168.0.1"));
        assert_eq!(kept(&netlink, Some("e0"), place).await, pair("e0", "192.168.0.1"));
        let mtu = netlink
            .stable_underlay(&InterfaceChoice::default(), Some(Kept::Chosen(place)))
            .await
            .unwrap()
            .mtu;
        assert_eq!(mtu, 1400, "always what the device has now");
        // The operator's word counts more.
        assert_eq!(kept(&netlink, Some("e1"), place).await, pair("e1", "172.16.0.1"));

        ip("address delete 192.168.0.1/24 dev e0");
        assert_eq!(kept(&netlink, None, place).await, pair("e1", "172.16.0.1"));
        assert_eq!(kept(&netlink, Some("e0"), place).await, pair("e0", "172.17.0.1"));
        // The address moves to the device of the default route, as to a bridge.
        ip("address add 192.168.0.1/24 dev e1");
        assert_eq!(kept(&netlink, None, place).await, pair("e1", "192.168.0.1"));
        let gone = Place {
            ifindex: 4_000,
            address: IpAddr::from(LOCAL),
        };
        assert_eq!(kept(&netlink, None, gone).await, pair("e1", "192.168.0.1"));
    });
}

#[test]
fn a_tunnel_has_no_ethernet_headers() {
    in_namespace(async |netlink| {
        ip("tuntap add tun9 mode tun");
        ip("tuntap add tap9 mode tap");
        for (name, address, ethernet) in [
            ("tun9", "172.30.0.1", false),
            ("tap9", "172.31.0.1", true),
            ("e1", "172.16.0.1", true),
        ] {
            ip(&format!("address add {address}/24 dev {name}"));
            let underlay = netlink.underlay(Some(name)).await.unwrap();
            assert_eq!(
                netlink.is_ethernet(underlay.ifindex).await.unwrap(),
                ethernet,
                "{name}"
            );
        }
        netlink.is_ethernet(4_000).await.unwrap_err();
    });
}
