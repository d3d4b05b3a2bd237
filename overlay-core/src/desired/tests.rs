use std::time::Duration;

use overlay_common::config::FLAG_FASTPATH;

use super::*;
use crate::model::{FlowSettings, LeaseEvent, MarkMask, Underlay};
use crate::net_conf::{NetConf, VxlanConf};

fn lease(node: &str, subnet: &str, public_ip: &str, mac: u8) -> Lease {
    Lease {
        node: node.into(),
        origin: format!("l.yaml:{mac}"),
        v4: Some(FamilyLease {
            subnet: subnet.parse().unwrap(),
            public_ip: public_ip.parse().unwrap(),
            vtep_mac: MacAddr::new([2, 0, 0, 0, 0, mac]),
        }),
        v6: None,
    }
}

fn own() -> Lease {
    lease("own", "10.244.0.0/24", "192.168.0.1", 1)
}

fn settings() -> Settings {
    Settings {
        node: "own".into(),
        net_conf: NetConf {
            network: "10.244.0.0/16".parse().unwrap(),
            backend: VxlanConf::default(),
        },
        dataplane: Dataplane::Ebpf,
        log_level: config::LOG_ERRORS,
        max_peers: 1000,
        fastpath: true,
        flows: FlowSettings::default(),
        public_ip: None,
    }
}

fn facts() -> NodeFacts {
    NodeFacts {
        underlay: Underlay {
            name: "eth0".into(),
            ifindex: 2,
            mtu: 1500,
            address: "192.168.0.1".parse().unwrap(),
        },
        underlay_is_ethernet: true,
        smallest_route_mtu: None,
        routes_by_port: false,
        local_port_range: (32768, 60999),
        default_ttl: 64,
        fib_flags: 5,
        port_shared: true,
        underlay_prefixes: vec![],
        possible_cpus: 4,
        realtime: false,
        conntrack: ConntrackParameter::ALL.map(|parameter| (parameter, 1)).into(),
    }
}

fn view(leases: Vec<Lease>) -> View {
    let mut view = View::default();
    view.apply(LeaseEvent::Replace(leases));
    view
}

fn of(leases: Vec<Lease>) -> Desired {
    desired(&view(leases), &facts(), &settings()).unwrap()
}

fn nodes(desired: &Desired) -> Vec<&str> {
    desired.peers.values().map(|peer| peer.node.as_str()).collect()
}

fn problems(desired: &Desired) -> Vec<String> {
    desired.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn device_and_address_are_flannels() {
    let desired = of(vec![own()]);
    let device = VxlanDevice {
        name: "flannel.1".into(),
        vni: 1,
        port: None,
        local: "192.168.0.1".parse().unwrap(),
        underlay_ifindex: 2,
        mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
        mtu: 1450,
        learning: false,
        gbp: false,
    };
    assert_eq!(desired.device, device);
    assert_eq!(
        desired.addresses,
        BTreeSet::from(["10.244.0.0/32".parse().unwrap()])
    );
    assert_eq!(desired.problems, []);
    assert!(desired.peers.is_empty(), "the own node is no peer");
}

#[test]
fn config_says_what_the_device_is() {
    let config = of(vec![own()]).dataplane.unwrap().config;
    assert_eq!(config.abi, config::ABI_VERSION);
    assert_eq!(
        config.flags,
        config::FLAG_ENFORCE_PEERS | config::FLAG_PORT_SHARED | FLAG_FASTPATH
    );
    assert_eq!((config.vni, config.port), ([0, 0, 1], [0x21, 0x18]));
    assert_eq!((config.source_port_min, config.source_port_max), (32768, 60999));
    assert_eq!(
        (
            config.underlay_ifindex,
            config.fib_flags,
            config.ttl,
            config.log_level
        ),
        (2, 5, 64, 1)
    );
    assert_eq!(config.vtep, Addr::from_v4([192, 168, 0, 1]));
    assert_eq!(config.vtep_mac, [2, 0, 0, 0, 0, 1]);
    assert!(config.is_local(&Addr::from_v4([10, 244, 0, 255])));
    assert!(!config.is_local(&Addr::from_v4([10, 244, 1, 0])));
    assert_eq!(config.subnet_v6, MaskedPrefix::NONE);
}

#[test]
fn a_peer_becomes_route_neighbour_and_entry() {
    let desired = of(vec![own(), lease("b", "10.244.2.0/24", "192.168.0.2", 2)]);
    let subnet: IpNet = "10.244.2.0/24".parse().unwrap();
    let peer = &desired.peers[&subnet];
    assert_eq!(peer.gateway.to_string(), "10.244.2.0");
    let dataplane = desired.dataplane.unwrap();
    let entry = SubnetEntry::new(Addr::from_v4([192, 168, 0, 2]), [2, 0, 0, 0, 0, 2]);
    assert_eq!(dataplane.subnets, BTreeMap::from([(subnet, entry)]));
    assert_eq!(
        dataplane.peers,
        BTreeMap::from([("192.168.0.2".parse().unwrap(), subnet)])
    );
    assert_eq!(dataplane.hooks[&Hook::VtepEgress].device, "flannel.1");
    assert_eq!(dataplane.hooks[&Hook::UnderlayIngress].ifindex, Some(2));
}

#[test]
fn the_kernel_dataplane_has_no_ebpf_side() {
    let settings = Settings {
        dataplane: Dataplane::Kernel,
        ..settings()
    };
    assert_eq!(
        desired(&view(vec![own()]), &facts(), &settings)
            .unwrap()
            .dataplane,
        None
    );
}

#[test]
fn without_ethernet_headers_the_kernel_carries_everything() {
    let facts = NodeFacts {
        underlay: Underlay {
            name: "wg0".into(),
            ..facts().underlay
        },
        underlay_is_ethernet: false,
        ..facts()
    };
    let leases = vec![own(), lease("b", "10.244.2.0/24", "192.168.0.2", 2)];
    let without = desired(&view(leases.clone()), &facts, &settings()).unwrap();
    assert_eq!(without.dataplane, None);
    assert_eq!(nodes(&without), ["b"], "the kernel side is not affected");
    let [problem] = problems(&without).try_into().unwrap();
    for part in [
        "wg0 is not an Ethernet device",
        "kernel's device carries",
        "peer check is off",
        "--iface",
    ] {
        assert!(problem.contains(part), "{problem}");
    }
    let kernel = Settings {
        dataplane: Dataplane::Kernel,
        ..settings()
    };
    let meant = desired(&view(leases), &facts, &kernel).unwrap();
    assert_eq!(
        meant.problems,
        [],
        "who asked for the kernel alone is not told so"
    );
}

#[test]
fn first_come_keeps_what_two_leases_claim() {
    let good = || lease("good", "10.244.2.0/24", "192.168.0.2", 2);
    let cases = [
        (
            lease("bad", "10.244.2.0/24", "192.168.0.9", 9),
            "subnet 10.244.2.0/24 is held by good (l.yaml:2), which",
        ),
        (
            lease("bad", "10.244.2.128/25", "192.168.0.9", 9),
            "subnet 10.244.2.128/25 overlaps 10.244.2.0/24, held by",
        ),
        (
            lease("bad", "10.244.2.0/23", "192.168.0.9", 9),
            "subnet 10.244.2.0/23 overlaps 10.244.2.0/24, held by good",
        ),
        (
            lease("bad", "10.244.9.0/24", "192.168.0.9", 2),
            "VTEP MAC 02:00:00:00:00:02 is held by good (l.yaml:2)",
        ),
        (
            lease("bad", "10.244.9.0/24", "192.168.0.2", 9),
            "public IP 192.168.0.2 is held by good (l.yaml:2), which",
        ),
        (
            lease("bad", "10.244.0.0/24", "192.168.0.9", 9),
            "subnet 10.244.0.0/24 is held by own (l.yaml:1), which",
        ),
        (
            lease("bad", "10.244.9.0/24", "192.168.0.9", 1),
            "VTEP MAC 02:00:00:00:00:01 is held by own (l.yaml:1)",
        ),
        (
            lease("bad", "10.244.9.0/24", "192.168.0.1", 9),
            "public IP 192.168.0.1 is held by own (l.yaml:1), which",
        ),
        (
            lease("bad", "10.245.9.0/24", "192.168.0.9", 9),
            "subnet 10.245.9.0/24 is not inside the Network 10.244.0.0/16",
        ),
        (
            lease("bad", "10.244.9.0/24", "224.0.0.9", 9),
            "public IP 224.0.0.9 is not a unicast IPv4 address",
        ),
        (
            lease("bad", "10.244.9.0/24", "10.244.9.9", 9),
            "public IP 10.244.9.9 of bad (l.yaml:9) lies in subnet 10.",
        ),
        (
            lease("bad", "10.244.9.0/24", "10.244.2.9", 9),
            "public IP 10.244.2.9 of bad (l.yaml:9) lies in subnet 10.",
        ),
    ];
    for (bad, expected) in cases {
        let last = || lease("last", "10.244.7.0/24", "192.168.0.7", 7);
        let desired = of(vec![good(), bad, own(), last()]);
        assert_eq!(nodes(&desired), ["good", "last"], "{expected}");
        let [problem] = &problems(&desired)[..] else {
            panic!("{:?}", desired.problems)
        };
        assert!(problem.starts_with("bad (l.yaml:"), "{problem}");
        assert!(problem.contains(expected), "{problem}\n{expected}");
    }
}

#[test]
fn a_refused_peer_claims_nothing() {
    let bad = lease("bad", "10.244.2.0/24", "192.168.0.2", 1);
    let desired = of(vec![own(), bad, lease("good", "10.244.2.0/24", "192.168.0.2", 2)]);
    assert_eq!(nodes(&desired), ["good"]);
}

#[test]
fn a_subnet_may_not_swallow_a_vtep() {
    // 10.244.5.5 is the underlay address of the first peer: routing it into the overlay would cut it off.
    let first = lease("first", "10.244.2.0/24", "10.244.5.5", 2);
    let desired = of(vec![
        own(),
        first,
        lease("bad", "10.244.5.0/24", "192.168.0.9", 9),
    ]);
    assert_eq!(nodes(&desired), ["first"]);
    let [problem] = &problems(&desired)[..] else {
        panic!()
    };
    assert!(
        problem.starts_with("bad (l.yaml:9) is left out: public IP 10.244.5.5 of first (l.yaml:2) lies"),
        "{problem}"
    );
}

#[test]
fn another_public_ip_than_the_underlays_is_a_problem_and_no_error() {
    let desired = of(vec![lease("own", "10.244.0.0/24", "203.0.113.7", 1)]);
    assert_eq!(desired.device.local.to_string(), "192.168.0.1");
    assert_eq!(
        desired.dataplane.as_ref().unwrap().config.vtep,
        Addr::from_v4([192, 168, 0, 1])
    );
    let [problem] = &problems(&desired)[..] else {
        panic!()
    };
    assert!(
        problem.contains("peers send to 203.0.113.7, and only what arrives for 192.168.0.1 is accepted"),
        "{problem}"
    );
}

#[test]
fn the_mtu_is_the_underlays_or_the_configured_one_less_fifty() {
    let with = |mtu, underlay| {
        let mut settings = settings();
        settings.net_conf.backend.mtu = mtu;
        let mut facts = facts();
        facts.underlay.mtu = underlay;
        desired(&view(vec![own()]), &facts, &settings)
    };
    assert_eq!(with(None, 9000).unwrap().device.mtu, 8950);
    assert_eq!(with(Some(1400), 1500).unwrap().device.mtu, 1350);
    let clamped = with(Some(9000), 1500).unwrap();
    assert_eq!(clamped.device.mtu, 1450);
    assert_eq!(
        problems(&clamped),
        ["the net-conf asks for an underlay MTU of 9000, but eth0 has 1500: 1500 is used"]
    );
    assert_eq!(with(None, 118).unwrap().device.mtu, 68);
    for underlay in [0, 49, 117] {
        assert_eq!(
            with(None, underlay),
            Err(DesiredError::MtuTooSmall {
                underlay: "eth0".into(),
                mtu: underlay
            })
        );
    }
}

#[test]
fn without_a_usable_own_lease_there_is_nothing_to_be() {
    let error = |leases| {
        desired(&view(leases), &facts(), &settings())
            .unwrap_err()
            .to_string()
    };
    let peer = |n: u8| {
        lease(
            &format!("n{n}"),
            &format!("10.244.{n}.0/24"),
            &format!("192.168.0.{n}"),
            n,
        )
    };
    assert_eq!(
        error((2..20).map(peer).collect()),
        "no lease for this node, \"own\": the 18 leases are of n10, n11, n12, n13, n14, …; check --node (NODE_NAME), add the lease to the file, or wait for the Node's podCIDR"
    );
    assert!(error(vec![peer(2)]).contains("the only lease is of n2;"));
    assert!(error(vec![]).contains("there are no leases at all"));
    assert!(
        error(vec![lease("own", "10.245.0.0/24", "192.168.0.1", 1)])
            .contains("not inside the Network 10.244.0.0/16")
    );
    assert!(error(vec![lease("own", "10.244.0.0/15", "192.168.0.1", 1)]).contains("not inside the Network"));
    assert!(error(vec![Lease { v4: None, ..own() }]).contains("has no IPv4 subnet"));
    let mut group = own();
    group.v4.as_mut().unwrap().vtep_mac = MacAddr::new([3, 0, 0, 0, 0, 1]);
    assert!(error(vec![group]).contains("VTEP MAC 03:00:00:00:00:01 is not the address of one device"));
}

#[test]
fn the_underlay_must_be_usable() {
    let with = |address: &str| {
        let mut facts = facts();
        facts.underlay.address = address.parse().unwrap();
        desired(&view(vec![own()]), &facts, &settings()).unwrap_err()
    };
    assert!(matches!(with("fd00::1"), DesiredError::UnderlayAddress { .. }));
    assert!(matches!(with("127.0.0.1"), DesiredError::UnderlayAddress { .. }));
    assert!(matches!(
        with("10.244.0.1"),
        DesiredError::UnderlayInOverlay { .. }
    ));
}

#[test]
fn nothing_is_desired_before_the_first_complete_list() {
    let mut view = View::default();
    view.apply(LeaseEvent::Upsert(own()));
    assert_eq!(
        desired(&view, &facts(), &settings()),
        Err(DesiredError::Incomplete)
    );
}

#[test]
fn the_longest_packet_is_that_of_the_narrowest_route() {
    for (device, route, expected) in [
        (1500, None, 1500),
        (1500, Some(1300), 1300),
        (1500, Some(9000), 1500),
        (65_536, None, 65_535),
    ] {
        let facts = NodeFacts {
            underlay: Underlay {
                mtu: device,
                ..facts().underlay
            },
            smallest_route_mtu: route,
            ..facts()
        };
        let desired = desired(&view(vec![own()]), &facts, &settings()).unwrap();
        assert_eq!(
            desired.dataplane.unwrap().config.max_segment,
            expected,
            "{device} {route:?}"
        );
    }
}

#[test]
fn what_ports_decide_is_asked_for_by_port() {
    for by_port in [false, true] {
        let facts = NodeFacts {
            routes_by_port: by_port,
            ..facts()
        };
        let desired = desired(&view(vec![own()]), &facts, &settings()).unwrap();
        let config = desired.dataplane.unwrap().config;
        assert_eq!(config.has(config::FLAG_ROUTES_BY_PORT), by_port);
    }
}

#[test]
fn more_peers_than_the_maps_hold_are_carried_by_the_kernel_and_none_is_refused() {
    let leases = vec![
        own(),
        lease("b", "10.244.2.0/24", "192.168.0.2", 2),
        lease("c", "10.244.3.0/24", "192.168.0.3", 3),
    ];
    let settings = Settings {
        max_peers: 1,
        ..settings()
    };
    let desired = desired(&view(leases), &facts(), &settings).unwrap();
    assert_eq!(desired.peers.len(), 2);
    let dataplane = desired.dataplane.unwrap();
    assert_eq!((dataplane.subnets.len(), dataplane.peers.len()), (1, 1));
    assert!(!dataplane.config.has(config::FLAG_ENFORCE_PEERS));
    assert_eq!(desired.problems, [Problem::TooManyPeers { peers: 2, room: 1 }]);
}

fn fastpath_of(facts: &NodeFacts, settings: &Settings) -> (bool, Desired) {
    let desired = desired(&view(vec![own()]), facts, settings).unwrap();
    let on = desired
        .dataplane
        .as_ref()
        .is_some_and(|dataplane| dataplane.config.has(FLAG_FASTPATH));
    assert_eq!(on, matches!(desired.fastpath, Fastpath::On { .. }));
    (on, desired)
}

#[test]
fn the_fast_path_is_configured_for_every_cpu() {
    let mut settings = settings();
    settings.flows.mark_mask = MarkMask::new(0x00ff_0000).unwrap();
    settings.flows.revalidate = Duration::from_millis(500);
    let (on, desired) = fastpath_of(&facts(), &settings);
    assert!(on);
    let config = desired.dataplane.unwrap().config;
    assert_eq!(
        (
            config.mark_mask,
            config.mark_shift,
            config.slots_per_cpu,
            config.revalidate,
            config.epoch
        ),
        (0x00ff_0000, 16, 63, 500_000_000, 0)
    );
    assert_eq!(
        desired.fastpath.to_string(),
        "on (mark mask 0x00ff0000, revalidated every 500ms, up to 65536 flows)"
    );
    // However many numbers fit the mask, there are no more slots.
    settings.flows.mark_mask = MarkMask::new(u32::MAX).unwrap();
    let (_, desired) = fastpath_of(&facts(), &settings);
    assert_eq!(desired.dataplane.unwrap().config.slots_per_cpu, 4096);
}

#[test]
fn what_keeps_the_fast_path_off_is_said() {
    let plain = settings();
    let off = Settings {
        fastpath: false,
        ..plain.clone()
    };
    let kernel = Settings {
        dataplane: Dataplane::Kernel,
        ..plain.clone()
    };
    let mut gbp = plain.clone();
    gbp.net_conf.backend.gbp = true;
    let mut narrow = plain.clone();
    narrow.flows.mark_mask = MarkMask::new(0xff).unwrap();
    let no_conntrack = NodeFacts {
        conntrack: [(ConntrackParameter::BeLiberal, 1)].into(),
        ..facts()
    };
    let many_cpus = NodeFacts {
        possible_cpus: 256,
        ..facts()
    };
    for (facts, settings, why, problem) in [
        (facts(), &off, "--fastpath off", false),
        (facts(), &kernel, "--dataplane kernel", false),
        (facts(), &gbp, "Group Based Policy", true),
        (
            no_conntrack,
            &plain,
            "net.netfilter.nf_conntrack_tcp_ignore_invalid_rst",
            true,
        ),
        (many_cpus, &narrow, "256 CPUs", true),
    ] {
        let (on, desired) = fastpath_of(&facts, settings);
        let said = desired.fastpath.to_string();
        assert!(!on && said.starts_with("off: ") && said.contains(why), "{said}");
        assert!(desired.conntrack.is_empty());
        let problems = problems(&desired);
        assert_eq!(
            problems
                .iter()
                .any(|text| text.starts_with("no fast path: ") && text.contains(why)),
            problem,
            "{problems:?}"
        );
    }
}

#[test]
fn connection_tracking_is_set_where_it_is_not() {
    let facts = NodeFacts {
        conntrack: [
            (ConntrackParameter::BeLiberal, 0),
            (ConntrackParameter::IgnoreInvalidRst, 1),
        ]
        .into(),
        ..facts()
    };
    let (on, desired) = fastpath_of(&facts, &settings());
    assert!(on);
    assert_eq!(desired.conntrack, [(ConntrackParameter::BeLiberal, 0)].into());
}
