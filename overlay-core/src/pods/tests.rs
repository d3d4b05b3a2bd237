use super::*;

const UNDERLAY: u32 = 2;
const BRIDGE: u32 = 5;

fn link(kind: LinkKind, master: Option<u32>) -> PodLink {
    PodLink {
        name: "some".to_owned(),
        kind,
        master,
        alias: None,
        qdisc: Some("noqueue".to_owned()),
    }
}

fn veth() -> PodLink {
    link(LinkKind::Veth, Some(BRIDGE))
}

/// A node with a pod bridge, and `links` from index 10.
fn node<const N: usize>(links: [PodLink; N]) -> Observed {
    let mut observed = Observed {
        settings: Some(PodSettings {
            subnet: "10.244.1.0/24".parse().unwrap(),
            underlay_ifindex: UNDERLAY,
        }),
        addresses: [(BRIDGE, [[10, 244, 1, 1].into()].into())].into(),
        ..Observed::default()
    };
    observed.links.insert(UNDERLAY, link(LinkKind::Veth, None));
    observed.links.insert(BRIDGE, link(LinkKind::Bridge, None));
    observed.links.extend((10..).zip(links));
    observed
}

fn excluded(exclusion: Exclusion) -> Option<Verdict> {
    Some(Verdict::Excluded(exclusion))
}

fn of(link: PodLink) -> Option<Verdict> {
    verdicts(&node([link])).remove(&10)
}

fn with_alias(alias: &str) -> Option<Verdict> {
    of(PodLink {
        alias: Some(alias.to_owned()),
        ..veth()
    })
}

fn with_qdisc(qdisc: Option<&str>) -> Option<Verdict> {
    of(PodLink {
        qdisc: qdisc.map(str::to_owned),
        ..veth()
    })
}

const FAST: Verdict = Verdict::Endpoint(EndpointMode::Fast);
const SHORTCUT: Verdict = Verdict::Endpoint(EndpointMode::Shortcut);

#[test]
fn ports_of_the_pod_bridge_lead_to_pods() {
    assert_eq!(of(veth()), Some(FAST));
    assert_eq!(
        of(link(LinkKind::Other, Some(BRIDGE))),
        excluded(Exclusion::NotVeth)
    );
    assert_eq!(
        of(link(LinkKind::LocalVeth, Some(BRIDGE))),
        excluded(Exclusion::NotVeth)
    );
    assert_eq!(of(link(LinkKind::Veth, None)), None, "no route");
    assert_eq!(
        of(link(LinkKind::Veth, Some(77))),
        None,
        "a master that nobody sees"
    );
}

#[test]
fn ports_of_other_bridges_and_the_underlay_do_not() {
    let mut observed = node([
        veth(),
        link(LinkKind::Bridge, None),
        link(LinkKind::Veth, Some(11)),
    ]);
    observed.addresses.insert(11, [[172, 17, 0, 1].into()].into());
    observed.links.get_mut(&UNDERLAY).unwrap().master = Some(BRIDGE);
    assert_eq!(verdicts(&observed), [(10, FAST)].into());
    // A bond or VRF with such an address is no bridge.
    observed.links.get_mut(&BRIDGE).unwrap().kind = LinkKind::Other;
    assert_eq!(verdicts(&observed), [].into());
}

#[test]
fn a_veth_with_a_route_to_a_local_pod_address_leads_to_a_pod() {
    let mut observed = node([link(LinkKind::Veth, None), link(LinkKind::Veth, None)]);
    observed.host_routes = [
        (10, [[10, 244, 1, 7].into()].into()),
        (11, [[10, 244, 2, 7].into()].into()),
        (UNDERLAY, [[10, 244, 1, 9].into()].into()),
    ]
    .into();
    assert_eq!(host_route_candidates(&observed), [10, 11]);
    assert_eq!(verdicts(&observed), [(10, FAST)].into());
    observed.links.get_mut(&10).unwrap().kind = LinkKind::LocalVeth;
    assert_eq!(verdicts(&observed), [].into());
}

#[test]
fn the_alias_decides_and_what_it_cannot_mean_is_off() {
    for (alias, expected) in [
        ("overlay-fastpath=on", Some(FAST)),
        ("overlay-fastpath=shortcut", Some(SHORTCUT)),
        ("overlay-fastpath=off", excluded(Exclusion::OptOut)),
        ("", Some(FAST)),
        ("pod web-1", Some(FAST)),
        ("overlay-fastpath", Some(FAST)),
    ] {
        assert_eq!(with_alias(alias), expected, "{alias:?}");
    }
    for value in ["", "OFF", "shortcut ", "yes"] {
        let unknown = Exclusion::Unknown {
            value: value.to_owned(),
        };
        assert!(unknown.to_string().contains("is taken for off"));
        assert_eq!(
            with_alias(&format!("overlay-fastpath={value}")),
            excluded(unknown)
        );
    }
}

#[test]
fn a_qdisc_excludes() {
    for fine in [None, Some("noqueue"), Some("noop")] {
        assert_eq!(with_qdisc(fine), Some(FAST), "{fine:?}");
    }
    for kind in ["tbf", "fq_codel", "pfifo_fast", "mq"] {
        let kind = kind.to_owned();
        assert_eq!(
            with_qdisc(Some(&kind.clone())),
            excluded(Exclusion::Qdisc { kind })
        );
    }
}

fn filter(side: Side) -> Limiter {
    Limiter::Filter {
        kind: "u32".to_owned(),
        side,
    }
}

#[test]
fn what_must_see_every_packet_excludes() {
    for (limiter, said) in [
        (Limiter::IngressQdisc, "an ingress qdisc"),
        (filter(Side::Ingress), "a u32 filter on ingress"),
        (filter(Side::Egress), "a u32 filter on egress"),
    ] {
        let mut observed = node([veth(), veth()]);
        observed.limiters.insert(10, limiter.clone());
        let exclusion = Exclusion::Limiter(limiter);
        assert!(exclusion.to_string().contains(said), "{exclusion}");
        assert_eq!(
            verdicts(&observed),
            [(10, Verdict::Excluded(exclusion)), (11, FAST)].into()
        );
    }
}

#[test]
fn neither_makes_a_limiter_a_pod_nor_does_it_hide_a_better_reason() {
    let mut observed = node([
        link(LinkKind::Veth, None),
        PodLink {
            qdisc: Some("tbf".to_owned()),
            ..veth()
        },
        PodLink {
            alias: Some("overlay-fastpath=off".to_owned()),
            ..veth()
        },
        PodLink {
            alias: Some("overlay-fastpath=shortcut".to_owned()),
            ..veth()
        },
    ]);
    observed
        .limiters
        .extend((10..14).map(|ifindex| (ifindex, Limiter::IngressQdisc)));
    let kind = "tbf".to_owned();
    let expected = [
        (11, Exclusion::Qdisc { kind }),
        (12, Exclusion::OptOut),
        (13, Exclusion::Limiter(Limiter::IngressQdisc)),
    ];
    assert_eq!(
        verdicts(&observed),
        expected
            .map(|(ifindex, why)| (ifindex, Verdict::Excluded(why)))
            .into()
    );
}

#[test]
fn without_a_fast_path_there_are_no_pods() {
    let mut observed = node([veth()]);
    observed.settings = None;
    assert_eq!(verdicts(&observed), [].into());
}

fn attach(ifindex: u32) -> [PodAction; 2] {
    POD_PROGRAMS.map(|program| PodAction::Attach {
        program,
        ifindex,
        name: "some".to_owned(),
    })
}

fn detach(ifindex: u32) -> [PodAction; 2] {
    [Program::PodIngress, Program::PodEgress].map(|program| PodAction::Detach { program, ifindex })
}

fn plan(observed: &Observed) -> Vec<PodAction> {
    diff(observed, &verdicts(observed))
}

/// What an agent has already done for index 10.
fn done(mut observed: Observed, mode: EndpointMode) -> Observed {
    observed
        .attached
        .extend(POD_PROGRAMS.map(|program| ((10, program), true)));
    observed.endpoints.insert(10, Some(mode));
    observed.shortcuts = u32::from(mode == EndpointMode::Shortcut);
    observed
}

#[test]
fn a_new_pod_gets_its_programs_and_then_its_entry() {
    let observed = node([veth()]);
    let mut expected = attach(10).to_vec();
    expected.push(PodAction::SetEndpoint {
        ifindex: 10,
        mode: EndpointMode::Fast,
    });
    assert_eq!(plan(&observed), expected);
    assert_eq!(plan(&done(observed, EndpointMode::Fast)), []);
}

#[test]
fn a_vanished_pod_is_forgotten() {
    let mut expected = vec![
        PodAction::RemoveEndpoint { ifindex: 10 },
        PodAction::ForgetDevice { ifindex: 10 },
    ];
    expected.extend(detach(10));
    let mut observed = done(node([]), EndpointMode::Fast);
    assert_eq!(plan(&observed), expected);
    // A list that is not complete proves nothing; that the device has ended does.
    observed.incomplete = true;
    assert_eq!(plan(&observed), []);
    observed.gone.insert(10);
    assert_eq!(plan(&observed), expected);
    // Neither does it keep what must go because there is no fast path any more.
    observed.gone.clear();
    observed.settings = None;
    assert_eq!(plan(&observed), expected);
}

#[test]
fn no_device_waits_to_be_forgotten_until_another_is_rid_of_its_programs() {
    let mut observed = done(node([]), EndpointMode::Fast);
    observed
        .attached
        .extend(POD_PROGRAMS.map(|program| ((11, program), true)));
    observed.endpoints.insert(11, Some(EndpointMode::Fast));
    let forgets = |action: &PodAction| matches!(action, PodAction::ForgetDevice { .. });
    let detaches = |action: &PodAction| matches!(action, PodAction::Detach { .. });
    let actions = plan(&observed);
    assert_eq!(actions.iter().rposition(forgets), Some(3));
    assert_eq!(actions.iter().position(detaches), Some(4));
}

#[test]
fn an_excluded_pod_is_forgotten_though_the_list_is_not_complete() {
    let off = PodLink {
        alias: Some("overlay-fastpath=off".to_owned()),
        ..veth()
    };
    let mut observed = done(node([off]), EndpointMode::Shortcut);
    observed.incomplete = true;
    let mut expected = vec![
        PodAction::RemoveEndpoint { ifindex: 10 },
        PodAction::ForgetDevice { ifindex: 10 },
    ];
    expected.extend(detach(10));
    expected.push(PodAction::SetShortcuts(0));
    assert_eq!(plan(&observed), expected);
}

#[test]
fn a_limited_pod_is_forgotten_and_comes_back() {
    let mut observed = done(node([veth()]), EndpointMode::Fast);
    observed.limiters.insert(10, filter(Side::Ingress));
    let mut expected = vec![
        PodAction::RemoveEndpoint { ifindex: 10 },
        PodAction::ForgetDevice { ifindex: 10 },
    ];
    expected.extend(detach(10));
    assert_eq!(plan(&observed), expected);
    observed.attached.clear();
    observed.endpoints.clear();
    assert_eq!(plan(&observed), []);
    observed.limiters.clear();
    assert_eq!(plan(&observed)[..2], attach(10));
}

#[test]
fn a_new_device_with_an_old_index_does_not_inherit_flows() {
    let mut observed = done(node([veth()]), EndpointMode::Fast);
    observed.gone.insert(10);
    assert_eq!(plan(&observed), [PodAction::ForgetDevice { ifindex: 10 }]);
}

#[test]
fn another_mode_forgets_the_flows_of_the_old_one() {
    let shortcut = PodLink {
        alias: Some("overlay-fastpath=shortcut".to_owned()),
        ..veth()
    };
    let observed = done(node([shortcut]), EndpointMode::Fast);
    assert_eq!(
        plan(&observed),
        [
            PodAction::SetShortcuts(1),
            PodAction::SetEndpoint {
                ifindex: 10,
                mode: EndpointMode::Shortcut
            },
            PodAction::ForgetDevice { ifindex: 10 },
        ]
    );
    let back = done(node([veth()]), EndpointMode::Shortcut);
    assert_eq!(plan(&back).last(), Some(&PodAction::SetShortcuts(0)));
}

#[test]
fn programs_of_another_build_are_made_current() {
    let mut observed = done(node([veth()]), EndpointMode::Fast);
    observed.attached.insert((10, Program::PodIngress), false);
    assert_eq!(plan(&observed), attach(10)[1..]);
}
