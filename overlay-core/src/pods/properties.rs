//! Whatever a node looks like: what `diff` asks for leads to what is wanted, and then it asks for nothing.

use proptest::collection::{btree_map, btree_set};
use proptest::option;
use proptest::prelude::*;

use super::*;

const SUBNET: &str = "10.244.1.0/24";

fn links() -> impl Strategy<Value = PodLink> {
    let kind = prop_oneof![
        4 => Just(LinkKind::Veth),
        1 => Just(LinkKind::LocalVeth),
        2 => Just(LinkKind::Bridge),
        1 => Just(LinkKind::Other),
    ];
    let alias = prop_oneof![
        3 => Just(None),
        1 => Just(Some("overlay-fastpath=off".to_owned())),
        1 => Just(Some("overlay-fastpath=shortcut".to_owned())),
        1 => Just(Some("overlay-fastpath=?".to_owned())),
    ];
    let qdisc = prop_oneof![4 => Just("noqueue"), 1 => Just("tbf")];
    (kind, option::of(1..9_u32), alias, qdisc).prop_map(|(kind, master, alias, qdisc)| PodLink {
        name: "some".to_owned(),
        kind,
        master,
        alias,
        qdisc: Some(qdisc.to_owned()),
    })
}

fn addresses() -> impl Strategy<Value = BTreeMap<u32, BTreeSet<Ipv4Addr>>> {
    let address = (1..3_u8, 1..9_u8).prop_map(|(net, host)| Ipv4Addr::new(10, 244, net, host));
    btree_map(1..9_u32, btree_set(address, 1..3), 0..6)
}

prop_compose! {
    fn nodes()(
        on in prop::bool::weighted(0.8),
        links in btree_map(1..9_u32, links(), 0..8),
        incomplete in any::<bool>(),
        gone in btree_set(1..9_u32, 0..3),
        addresses in addresses(),
        host_routes in addresses(),
        limited in btree_set(1..9_u32, 0..3),
        attached in btree_map((1..12_u32, prop::sample::select(POD_PROGRAMS.to_vec())), any::<bool>(), 0..8),
        endpoints in btree_map(
            1..12_u32,
            option::of(prop::sample::select(vec![EndpointMode::Fast, EndpointMode::Shortcut])),
            0..8,
        ),
        shortcuts in 0..4_u32,
    ) -> Observed {
        let settings = on.then(|| PodSettings { subnet: SUBNET.parse().unwrap(), underlay_ifindex: 3 });
        let limiters = limited.into_iter().map(|ifindex| (ifindex, Limiter::IngressQdisc)).collect();
        Observed {
            settings, links, incomplete, gone, addresses, host_routes, limiters, attached, endpoints, shortcuts,
        }
    }
}

/// The kernel: carries out one action. Answers with the device whose flows it forgot.
fn apply(observed: &mut Observed, action: &PodAction) -> Option<u32> {
    match action {
        PodAction::Attach { program, ifindex, .. } => {
            observed.attached.insert((*ifindex, *program), true);
        }
        PodAction::Detach { program, ifindex } => {
            observed.attached.remove(&(*ifindex, *program));
        }
        PodAction::SetEndpoint { ifindex, mode } => {
            observed.endpoints.insert(*ifindex, Some(*mode));
        }
        PodAction::RemoveEndpoint { ifindex } => {
            observed.endpoints.remove(ifindex);
        }
        PodAction::ForgetDevice { ifindex } => return Some(*ifindex),
        PodAction::SetShortcuts(count) => observed.shortcuts = *count,
    }
    None
}

proptest! {
    #[test]
    fn a_plan_is_complete_wherever_the_one_before_was_interrupted(mut observed in nodes(), cut in 0..30_usize) {
        let wanted = verdicts(&observed);
        for action in diff(&observed, &wanted).iter().take(cut) {
            apply(&mut observed, action);
        }
        for action in diff(&observed, &wanted) {
            apply(&mut observed, &action);
        }
        // The end of a device is reported once.
        observed.gone.clear();
        prop_assert_eq!(diff(&observed, &wanted), []);
        if !observed.incomplete {
            let modes = |mode: &Verdict| match mode {
                Verdict::Endpoint(mode) => Some(*mode),
                Verdict::Excluded(_) => None,
            };
            let expected: BTreeMap<_, _> =
                wanted.iter().filter_map(|(ifindex, verdict)| Some((*ifindex, Some(modes(verdict)?)))).collect();
            prop_assert_eq!(&observed.endpoints, &expected);
            let programs: BTreeSet<_> = observed.attached.keys().copied().collect();
            let all: BTreeSet<_> =
                expected.keys().flat_map(|ifindex| POD_PROGRAMS.map(|program| (*ifindex, program))).collect();
            prop_assert_eq!(programs, all);
            let shortcuts = expected.values().filter(|mode| **mode == Some(EndpointMode::Shortcut)).count();
            prop_assert_eq!(usize::try_from(observed.shortcuts).unwrap(), shortcuts);
        }
    }

    #[test]
    fn no_device_loses_its_entry_or_mode_and_keeps_its_flows(mut observed in nodes()) {
        let before = observed.endpoints.clone();
        let mut forgotten = BTreeSet::new();
        for action in diff(&observed, &verdicts(&observed)) {
            forgotten.extend(apply(&mut observed, &action));
        }
        for (ifindex, mode) in before {
            if observed.endpoints.get(&ifindex) != Some(&mode) {
                prop_assert!(forgotten.contains(&ifindex), "{}", ifindex);
            }
        }
    }

    #[test]
    fn the_underlay_is_never_a_pod(observed in nodes()) {
        prop_assert!(!verdicts(&observed).contains_key(&3));
    }
}
