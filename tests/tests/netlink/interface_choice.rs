//! flannel's ways to name the underlay: `--iface`, `--iface-regex`, `--iface-can-reach`, `--public-ip`.

use std::net::IpAddr;

use overlay_agent::netlink::{InterfaceChoice, Kept, Netlink, Place};

use crate::namespace::{DEVICE, LOCAL, in_namespace, ip, set_up};

fn choice() -> InterfaceChoice {
    InterfaceChoice {
        except: Some(DEVICE.to_owned()),
        ..InterfaceChoice::default()
    }
}

fn ifaces(texts: &[&str]) -> InterfaceChoice {
    InterfaceChoice {
        interfaces: texts.iter().map(|&text| text.to_owned()).collect(),
        ..choice()
    }
}

fn regexes(texts: &[&str]) -> InterfaceChoice {
    InterfaceChoice {
        regexes: texts
            .iter()
            .map(|text| text.parse().expect("a regular expression"))
            .collect(),
        ..choice()
    }
}

fn reach(address: &str) -> InterfaceChoice {
    InterfaceChoice {
        can_reach: Some(address.parse().expect("an address")),
        ..choice()
    }
}

fn public(address: &str) -> InterfaceChoice {
    InterfaceChoice {
        public_ip: Some(address.parse().expect("an address")),
        ..choice()
    }
}

/// Three interfaces with addresses, a default route over `e0`.
fn three_interfaces() {
    ip("address add 192.168.0.2/24 dev e0");
    ip("address add 10.0.0.1/24 dev e1");
    ip("link add wan0 type veth peer name far0");
    ip("link set far0 up");
    ip("link set wan0 up");
    ip("address add 169.254.9.9/16 dev wan0");
    ip("address add 172.16.0.1/24 dev wan0");
    ip("route add default via 192.168.0.254");
    ip("route add 203.0.113.0/24 via 172.16.0.254 src 172.16.0.1");
}

async fn chosen(netlink: &Netlink, choice: &InterfaceChoice) -> String {
    match netlink.stable_underlay(choice, None).await {
        Ok(underlay) => format!("{} {}", underlay.name, underlay.address),
        Err(error) => format!("error: {error:#}"),
    }
}

#[test]
fn interfaces_are_named_by_name_or_address_and_the_first_that_fits_is_taken() {
    in_namespace(async |netlink| {
        three_interfaces();
        for (texts, expected) in [
            (vec!["wan0"], "wan0 172.16.0.1"),
            // The address that was named, not the interface's best one.
            (vec!["192.168.0.2"], "e0 192.168.0.2"),
            (vec!["169.254.9.9"], "wan0 169.254.9.9"),
            (vec!["eth7", "10.9.9.9", "e1", "e0"], "e1 10.0.0.1"),
            (vec!["lo", "e0"], "e0 192.168.0.1"),
            (vec!["fd00::1", "e0"], "e0 192.168.0.1"),
        ] {
            assert_eq!(chosen(&netlink, &ifaces(&texts)).await, expected, "{texts:?}");
        }
    });
}

#[test]
fn an_error_says_all_that_was_tried_and_what_there_is() {
    in_namespace(async |netlink| {
        three_interfaces();
        let choice = InterfaceChoice {
            interfaces: vec!["eth7".into(), "10.9.9.9".into(), "fd00::1".into()],
            regexes: regexes(&["^bond", "^192[.]169"]).regexes,
            ..reach("192.168.0.1")
        };
        let error = chosen(&netlink, &choice).await;
        for part in [
            "--iface eth7: there is no interface `eth7`",
            "--iface 10.9.9.9: no interface has the address",
            "--iface fd00::1: fd00::1 is an IPv6 address",
            "--iface-regex ^bond: fits no address and no name",
            "--iface-regex ^192[.]169",
            "--iface-can-reach 192.168.0.1: 192.168.0.1 is an address of this node",
            "lo (127.0.0.1)",
            "e0 (192.168.0.1, 192.168.0.2)",
            "wan0 (",
        ] {
            assert!(error.contains(part), "{part:?} is missing: {error}");
        }
    });
}

#[test]
fn an_expression_fits_an_address_before_a_name() {
    in_namespace(async |netlink| {
        three_interfaces();
        for (texts, expected) in [
            (vec!["^10[.]"], "e1 10.0.0.1"),
            (vec!["[.]2$"], "e0 192.168.0.2"),
            (vec!["^wan"], "wan0 172.16.0.1"),
            (vec!["an"], "wan0 172.16.0.1"),
            // `e1` has the lower index: the other end of a veth pair is made first.
            (vec!["1"], "e1 10.0.0.1"),
            (vec!["^bond", "wan"], "wan0 172.16.0.1"),
            // Deprecated, link-local and loopback addresses come last, or never.
            (vec!["^1[67]"], "wan0 172.16.0.1"),
            (vec!["^127|^wan"], "wan0 172.16.0.1"),
        ] {
            assert_eq!(chosen(&netlink, &regexes(&texts)).await, expected, "{texts:?}");
        }
        let both = InterfaceChoice {
            interfaces: vec!["e1".into()],
            ..regexes(&["wan"])
        };
        assert_eq!(
            chosen(&netlink, &both).await,
            "e1 10.0.0.1",
            "--iface comes first"
        );
    });
}

#[test]
fn the_way_to_an_address_leads_to_the_interface() {
    in_namespace(async |netlink| {
        three_interfaces();
        assert_eq!(chosen(&netlink, &reach("203.0.113.9")).await, "wan0 172.16.0.1");
        assert_eq!(chosen(&netlink, &reach("8.8.8.8")).await, "e0 192.168.0.1");
        assert_eq!(chosen(&netlink, &reach("10.0.0.7")).await, "e1 10.0.0.1");
        ip("route add 198.51.100.0/24 via 192.168.0.254 src 192.168.0.2");
        assert_eq!(
            chosen(&netlink, &reach("198.51.100.1")).await,
            "e0 192.168.0.2",
            "the route's source"
        );
        ip("route add unreachable 198.18.0.0/15");
        let error = chosen(&netlink, &reach("198.18.0.1")).await;
        assert!(error.contains("no route to 198.18.0.1"), "{error}");
        let last = InterfaceChoice {
            interfaces: vec!["eth7".into()],
            ..reach("203.0.113.9")
        };
        assert_eq!(chosen(&netlink, &last).await, "wan0 172.16.0.1");
    });
}

#[test]
fn a_public_address_alone_names_the_interface_that_has_it() {
    in_namespace(async |netlink| {
        three_interfaces();
        assert_eq!(chosen(&netlink, &public("192.168.0.2")).await, "e0 192.168.0.2");
        let error = chosen(&netlink, &public("198.51.100.7")).await;
        for part in [
            "--public-ip 198.51.100.7",
            "--iface",
            "public-ip-overwrite",
            "wan0 (",
        ] {
            assert!(error.contains(part), "{part:?} is missing: {error}");
        }
        // With an interface it is what others are told, never the source address.
        let translated = InterfaceChoice {
            interfaces: vec!["e1".into()],
            ..public("198.51.100.7")
        };
        assert_eq!(chosen(&netlink, &translated).await, "e1 10.0.0.1");
    });
}

/// Its address is 10.0.1.0, and a route of it is the only way to 10.0.0.0/8.
///
/// Seen red without `except` in the list of interfaces, and without it for a name: the device was taken.
#[test]
fn the_overlays_own_device_is_never_its_underlay() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        ip(&format!("route add 10.0.0.0/8 dev {DEVICE}"));
        for (choice, part) in [
            (regexes(&["^10[.]"]), "fits no address and no name"),
            (regexes(&["flannel"]), "fits no address and no name"),
            (ifaces(&["10.0.1.0"]), "no interface has the address"),
            (public("10.0.1.0"), "no interface has the address"),
            (reach("10.9.9.9"), "leads into the overlay's own device"),
            (ifaces(&[DEVICE]), "is the overlay's own device"),
        ] {
            let chosen = chosen(&netlink, &choice).await;
            assert!(
                chosen.starts_with("error: ") && chosen.contains(part),
                "{choice:?}: {chosen}"
            );
        }
        // Beside it what else fits is taken.
        ip("address add 10.5.0.1/24 dev e1");
        assert_eq!(chosen(&netlink, &regexes(&["^10[.]"])).await, "e1 10.5.0.1");
    });
}

#[test]
fn a_place_in_use_stays_where_the_flags_could_have_meant_it() {
    in_namespace(async |netlink| {
        three_interfaces();
        let ifindex = netlink.underlay(Some("e0")).await.expect("e0").ifindex;
        let place = |address: &str| Place {
            ifindex,
            address: address.parse::<IpAddr>().expect("an address"),
        };
        let after = async |choice: &InterfaceChoice, kept: Kept| {
            let underlay = netlink
                .stable_underlay(choice, Some(kept))
                .await
                .expect("an underlay");
            format!("{} {}", underlay.name, underlay.address)
        };
        let found = Kept::Found(place("192.168.0.2"));
        for (choice, expected) in [
            (choice(), "e0 192.168.0.2"),
            (ifaces(&["e0"]), "e0 192.168.0.2"),
            (ifaces(&["wan0", "e0"]), "e0 192.168.0.2"),
            (ifaces(&["192.168.0.2"]), "e0 192.168.0.2"),
            (regexes(&["^e0"]), "e0 192.168.0.2"),
            (regexes(&["^192"]), "e0 192.168.0.2"),
            (reach("8.8.8.8"), "e0 192.168.0.2"),
            (public("192.168.0.2"), "e0 192.168.0.2"),
            // The operator's word counts more than what an earlier run chose.
            (ifaces(&["192.168.0.1"]), "e0 192.168.0.1"),
            (ifaces(&["wan0"]), "wan0 172.16.0.1"),
            (regexes(&["^10"]), "e1 10.0.0.1"),
            (reach("203.0.113.9"), "wan0 172.16.0.1"),
            (public("192.168.0.1"), "e0 192.168.0.1"),
        ] {
            assert_eq!(after(&choice, found).await, expected, "{choice:?}");
        }
        // What this process chose stays, whatever routes come and go.
        let chosen = Kept::Chosen(place(&LOCAL.to_string()));
        ip("route replace 203.0.113.0/24 via 10.0.0.254");
        assert_eq!(after(&reach("203.0.113.9"), chosen).await, "e0 192.168.0.1");
        ip("address delete 192.168.0.1/24 dev e0");
        assert_eq!(after(&reach("203.0.113.9"), chosen).await, "e1 10.0.0.1");
    });
}
