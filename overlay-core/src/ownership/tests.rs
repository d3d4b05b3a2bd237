use super::*;
use crate::model::MacAddr;
use crate::observed::VxlanAttributes;

const MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);

fn network() -> Ipv4Net {
    "10.244.0.0/16".parse().unwrap()
}

fn flannel_route() -> Route {
    Route {
        destination: "10.244.1.0/24".parse().unwrap(),
        gateway: Some("10.244.1.0".parse().unwrap()),
        onlink: true,
        protocol: 3,
        metric: 0,
        plain: true,
    }
}

fn vxlan() -> VxlanAttributes {
    VxlanAttributes {
        vni: 1,
        port: 8472,
        local: None,
        underlay_ifindex: None,
        learning: false,
        gbp: false,
        collect_metadata: false,
        group: None,
        l2miss: false,
    }
}

fn device(alias: Option<&str>, vxlan: Option<VxlanAttributes>) -> Device {
    Device {
        ifindex: 7,
        up: true,
        mtu: 1450,
        mac: Some(MAC),
        alias: alias.map(str::to_owned),
        vxlan,
        addresses: Default::default(),
        routes: Default::default(),
        neighbours: Default::default(),
        fdb: Default::default(),
    }
}

#[test]
fn only_a_marked_vxlan_device_is_deleted_by_cleanup() {
    assert!(made_by_us(&device(Some("overlay-agent"), Some(vxlan()))));
    assert!(!made_by_us(&device(None, Some(vxlan()))));
    assert!(!made_by_us(&device(Some("overlay-agent-2"), Some(vxlan()))));
    assert!(
        !made_by_us(&device(Some("overlay-agent"), None)),
        "the mark alone proves nothing"
    );
}

#[test]
fn any_vxlan_device_of_our_name_is_usable() {
    assert!(usable(&device(None, Some(vxlan()))));
    assert!(usable(&device(
        None,
        Some(VxlanAttributes {
            collect_metadata: true,
            ..vxlan()
        })
    )));
    assert!(!usable(&device(Some("overlay-agent"), None)));
}

#[test]
fn flannels_own_route_is_ours() {
    assert!(route(network(), &flannel_route()));
}

#[test]
fn a_route_of_the_reserved_protocols_is_ours() {
    for protocol in SPREAD_PROTOCOLS {
        let spread = Route {
            protocol,
            ..flannel_route()
        };
        assert!(route(network(), &spread) && peer_route(&spread), "{protocol}");
    }
    for protocol in [0, 2, 4, 186, 196, 199, 248, 255] {
        let foreign = Route {
            protocol,
            ..flannel_route()
        };
        assert!(!route(network(), &foreign) && !peer_route(&foreign), "{protocol}");
    }
}

#[test]
fn a_peer_s_route_is_found_by_either_protocol_and_not_among_others() {
    let ours = flannel_route();
    let found = |route: Route| {
        let neighbours = ["10.244.0.0/24", "10.244.2.0/24"].map(|destination| Route {
            destination: destination.parse().unwrap(),
            ..flannel_route()
        });
        let routes = neighbours.into_iter().chain([route]).collect();
        has_peer_route(&routes, ours.destination, "10.244.1.0".parse().unwrap())
    };
    assert!(found(ours.clone()));
    assert!(found(Route {
        protocol: 233,
        ..ours.clone()
    }));
    for other in [
        Route {
            protocol: 4,
            ..ours.clone()
        },
        Route {
            metric: 7,
            ..ours.clone()
        },
        Route {
            gateway: Some("10.244.1.1".parse().unwrap()),
            ..ours.clone()
        },
        Route {
            destination: "10.244.1.0/25".parse().unwrap(),
            ..ours.clone()
        },
    ] {
        assert!(!found(other.clone()), "{other:?}");
    }
}

#[test]
fn a_route_that_differs_in_anything_is_foreign() {
    let other: [fn(&mut Route); 8] = [
        |r| r.gateway = None,
        |r| r.gateway = Some("10.244.1.1".parse().unwrap()),
        |r| r.onlink = false,
        |r| r.protocol = 4,
        |r| r.metric = 100,
        |r| r.plain = false,
        |r| {
            r.destination = "10.245.1.0/24".parse().unwrap();
            r.gateway = Some("10.245.1.0".parse().unwrap());
        },
        |r| {
            r.destination = "10.0.0.0/8".parse().unwrap();
            r.gateway = Some("10.0.0.0".parse().unwrap());
        },
    ];
    for (index, change) in other.into_iter().enumerate() {
        let mut foreign = flannel_route();
        change(&mut foreign);
        assert!(!route(network(), &foreign), "change {index}: {foreign:?}");
    }
}

#[test]
fn a_peer_s_route_gives_way_by_whatever_gateway() {
    let route = |change: fn(&mut Route)| {
        let mut route = flannel_route();
        change(&mut route);
        route
    };
    assert!(peer_route(&flannel_route()));
    assert!(peer_route(&route(
        |r| r.gateway = Some("10.244.1.1".parse().unwrap())
    )));
    for foreign in [
        route(|r| r.gateway = None),
        route(|r| r.onlink = false),
        route(|r| r.protocol = 4),
        route(|r| r.metric = 100),
        route(|r| r.plain = false),
    ] {
        assert!(!peer_route(&foreign), "{foreign:?}");
    }
}

#[test]
fn neighbours_are_ours_when_permanent_and_inside() {
    let entry = |address: &str, permanent| Neighbour {
        address: address.parse().unwrap(),
        mac: Some(MAC),
        permanent,
    };
    assert!(neighbour(network(), &entry("10.244.1.0", true)));
    assert!(!neighbour(network(), &entry("10.244.1.0", false)));
    assert!(!neighbour(network(), &entry("192.168.0.1", true)));
    assert!(!neighbour(network(), &entry("fe80::1", true)));
}

#[test]
fn forwarding_entries_are_ours_when_permanent_plain_and_for_one_device() {
    let entry = FdbEntry {
        mac: MAC,
        destination: Some("192.168.0.1".parse().unwrap()),
        permanent: true,
        plain: true,
    };
    assert!(fdb(&entry));
    let foreign = [
        FdbEntry {
            permanent: false,
            ..entry.clone()
        },
        FdbEntry {
            plain: false,
            ..entry.clone()
        },
        FdbEntry {
            destination: None,
            ..entry.clone()
        },
        FdbEntry {
            mac: MacAddr::new([0; 6]),
            ..entry.clone()
        },
        FdbEntry {
            mac: MacAddr::new([1, 0, 0x5e, 0, 0, 1]),
            ..entry
        },
    ];
    for entry in foreign {
        assert!(!fdb(&entry), "{entry:?}");
    }
}

#[test]
fn addresses_are_ours_inside_the_network() {
    assert!(address(network(), &"10.244.9.0/32".parse().unwrap()));
    assert!(
        address(network(), &"10.244.9.1/24".parse().unwrap()),
        "whatever its prefix length, as in flannel"
    );
    assert!(!address(network(), &"192.168.0.1/24".parse().unwrap()));
    assert!(!address(network(), &"fe80::1/64".parse().unwrap()));
}
