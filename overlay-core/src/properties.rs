//! Property tests of the planner on the modelled kernel: convergence, foreign objects, and the order of every plan.

mod focus;
mod generate;
mod invariants;

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;

use self::generate::{Scenario, UNDERLAY, UNDERLAY_IFINDEX, scenario};
use self::invariants::Broken;
use crate::action::{Action, DataplaneAction, KernelAction, Step};
use crate::desired::Desired;
use crate::diff::{cleanup_plan, plan};
use crate::model_kernel::ModelKernel;
use crate::observed::Observed;
use crate::order::Failures;

fn kernel(observed: &Observed) -> ModelKernel {
    ModelKernel::new(observed.clone(), UNDERLAY, UNDERLAY_IFINDEX)
}

fn apply_all(kernel: &mut ModelKernel, steps: &[Step]) {
    for step in steps {
        kernel
            .apply(&step.action)
            .unwrap_or_else(|error| panic!("{step}: {error}"));
    }
}

/// The VTEPs that a plan towards `desired` does not forget.
fn known(desired: &Desired) -> BTreeSet<IpAddr> {
    desired
        .dataplane
        .iter()
        .flat_map(|dataplane| dataplane.peers.keys().copied())
        .collect()
}

/// After this failure the packets of one route may be dropped: it could not be removed, or its peer not be set up.
fn gateway_without_delivery(desired: &Desired, failed: &Action) -> Option<IpAddr> {
    let Action::Kernel(failed) = failed else {
        return None;
    };
    if let KernelAction::RemoveRoute { gateway: address, .. } | KernelAction::SetNeighbour { address, .. } =
        failed
    {
        return Some(*address);
    }
    let KernelAction::SetFdb { mac: failed, .. } = failed else {
        return None;
    };
    desired
        .peers
        .values()
        .find(|peer| peer.vtep_mac == *failed)
        .map(|peer| peer.gateway)
}

fn lines(steps: &[Step]) -> String {
    steps.iter().map(|step| format!("{step}\n")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn one_pass_converges_and_the_next_plans_nothing(Scenario { desired, observed, .. } in scenario()) {
        let mut kernel = kernel(&observed);
        let steps = plan(&desired, &observed).unwrap();
        apply_all(&mut kernel, &steps);
        let again = plan(&desired, &kernel.observed).unwrap();
        prop_assert!(again.is_empty(), "first:\n{}second:\n{}", lines(&steps), lines(&again));
    }

    #[test]
    fn the_result_is_what_was_asked_for(Scenario { desired, observed, .. } in scenario()) {
        let mut kernel = kernel(&observed);
        apply_all(&mut kernel, &plan(&desired, &observed).unwrap());
        let device = kernel.observed.device.as_ref().unwrap();
        prop_assert!(device.up);
        prop_assert_eq!(device.mtu, desired.device.mtu);
        for (subnet, peer) in &desired.peers {
            prop_assert!(invariants::carries(device, *subnet, peer.public_ip, peer.vtep_mac), "{peer:?}");
        }
        match (&desired.dataplane, &kernel.observed.dataplane) {
            (None, found) => prop_assert_eq!(found, &None),
            (Some(wanted), found) => {
                let found = found.as_ref().unwrap();
                prop_assert_eq!(&found.subnets, &wanted.subnets);
                prop_assert_eq!(&found.peers, &wanted.peers);
                prop_assert_eq!(found.config, Some(wanted.config));
            }
        }
    }

    #[test]
    fn every_prefix_keeps_the_fast_path_behind_the_kernel(Scenario { desired, observed, .. } in scenario()) {
        let mut kernel = kernel(&observed);
        let staying = known(&desired);
        let mut before = Broken::of(&kernel.observed);
        for step in plan(&desired, &observed).unwrap() {
            kernel.apply(&step.action).unwrap();
            let after = Broken::of(&kernel.observed);
            prop_assert!(after.is_no_worse_than(&before, &step.action, &staying), "{step}: {after:?}");
            before = after;
        }
        prop_assert_eq!(before, Broken::default());
    }

    #[test]
    fn an_interrupted_plan_is_finished_by_the_next(
        Scenario { desired, observed, .. } in scenario(),
        cut: prop::sample::Index,
    ) {
        let mut kernel = kernel(&observed);
        let steps = plan(&desired, &observed).unwrap();
        apply_all(&mut kernel, &steps[..cut.index(steps.len() + 1)]);
        let rest = plan(&desired, &kernel.observed).unwrap();
        apply_all(&mut kernel, &rest);
        prop_assert_eq!(plan(&desired, &kernel.observed).unwrap(), vec![]);
    }

    #[test]
    fn foreign_objects_survive(Scenario { desired, observed, foreign } in scenario()) {
        let mut kernel = kernel(&observed);
        let steps = plan(&desired, &observed).unwrap();
        apply_all(&mut kernel, &steps);
        // They go with the device, when it has to be recreated.
        let survives = observed.device.as_ref().map(|device| device.ifindex);
        let device = kernel.observed.device.unwrap();
        if survives == Some(device.ifindex) {
            prop_assert!(foreign.addresses.is_subset(&device.addresses), "{}", lines(&steps));
            prop_assert!(foreign.routes.is_subset(&device.routes), "{}", lines(&steps));
            prop_assert!(foreign.neighbours.is_subset(&device.neighbours), "{}", lines(&steps));
            prop_assert!(foreign.fdb.is_subset(&device.fdb), "{}", lines(&steps));
        }
    }

    #[test]
    fn a_failing_action_costs_only_what_relies_on_it(
        Scenario { desired, observed, .. } in scenario(),
        failing in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
    ) {
        let mut kernel = kernel(&observed);
        let steps = plan(&desired, &observed).unwrap();
        if steps.is_empty() {
            return Ok(());
        }
        let failing: Vec<_> = failing.iter().map(|index| index.index(steps.len())).collect();
        let mut failures = Failures::none(&observed);
        let mut staying = known(&desired);
        let mut stale_dataplane = false;
        let mut dropped = BTreeSet::new();
        let mut before = Broken::of(&kernel.observed);
        for (index, step) in steps.iter().enumerate() {
            if failures.blocks(&step.action) || failing.contains(&index) {
                failures.record(&step.action);
                // What could not be forgotten stays known.
                if let Action::Dataplane(DataplaneAction::RemovePeer(vtep)) = step.action {
                    staying.insert(vtep);
                }
                dropped.extend(gateway_without_delivery(&desired, &step.action));
                // A whole dataplane that could not be removed is stale whatever the kernel does.
                stale_dataplane |= step.action == DataplaneAction::Remove.into();
                continue;
            }
            // Nothing that was let through may fail by itself.
            prop_assert_eq!(kernel.apply(&step.action), Ok(()), "{}", step);
            let mut after = Broken::of(&kernel.observed);
            after.dead_routes.retain(|destination| !dropped.contains(&destination.network()));
            let fine = stale_dataplane || after.is_no_worse_than(&before, &step.action, &staying);
            prop_assert!(fine, "{step}: {after:?}\n{}", lines(&steps));
            before = after;
        }
        let rest = plan(&desired, &kernel.observed).unwrap();
        apply_all(&mut kernel, &rest);
        prop_assert_eq!(plan(&desired, &kernel.observed).unwrap(), vec![]);
    }

    #[test]
    fn a_peer_that_fails_does_not_hold_up_the_others(
        Scenario { desired, observed, .. } in scenario(),
        failing: prop::sample::Index,
    ) {
        if desired.peers.is_empty() {
            return Ok(());
        }
        let (failing, bad) = desired.peers.iter().nth(failing.index(desired.peers.len())).unwrap();
        let mut kernel = kernel(&observed);
        let mut failures = Failures::none(&observed);
        for step in plan(&desired, &observed).unwrap() {
            let fails = step.action == KernelAction::SetRoute { destination: *failing, gateway: bad.gateway }.into()
                || step.action == KernelAction::SetFdb { mac: bad.vtep_mac, destination: bad.public_ip }.into();
            if fails || failures.blocks(&step.action) {
                failures.record(&step.action);
            } else {
                kernel.apply(&step.action).unwrap();
            }
        }
        let device = kernel.observed.device.as_ref().unwrap();
        for (subnet, peer) in desired.peers.iter().filter(|(subnet, _)| *subnet != failing) {
            prop_assert!(invariants::carries(device, *subnet, peer.public_ip, peer.vtep_mac), "{peer:?}");
            if let Some(wanted) = &desired.dataplane {
                let found = kernel.observed.dataplane.as_ref().unwrap();
                prop_assert_eq!(found.subnets.get(subnet), wanted.subnets.get(subnet));
                let has_room = wanted.peers.contains_key(&peer.public_ip);
                prop_assert_eq!(found.peers.contains_key(&peer.public_ip), has_room);
            }
        }
    }

    #[test]
    fn flows_are_forgotten_before_anything_relies_on_it(Scenario { desired, observed, .. } in scenario()) {
        let known: BTreeSet<IpAddr> = observed
            .dataplane
            .iter()
            .flat_map(|dataplane| dataplane.peers.keys().copied())
            .collect();
        let steps = plan(&desired, &observed).unwrap();
        let mut stale = false;
        let mut taken = false;
        for step in &steps {
            match &step.action {
                Action::Dataplane(
                    DataplaneAction::RemoveSubnet(_) | DataplaneAction::RemovePeer(_)
                ) => (stale, taken) = (true, true),
                Action::Dataplane(DataplaneAction::SetPeer { vtep, .. }) if known.contains(vtep) => {
                    (stale, taken) = (true, true);
                }
                Action::Dataplane(DataplaneAction::SetPeer { .. }) => {}
                // Without maps there are no flows.
                Action::Dataplane(DataplaneAction::ForgetFlows | DataplaneAction::Remove) => stale = false,
                Action::Kernel(_) | Action::Dataplane(_) | Action::SetConntrack(_) => {
                    prop_assert!(!stale, "{}: {}", step, lines(&steps));
                }
            }
        }
        prop_assert!(!stale, "{}", lines(&steps));
        let loads = steps.iter().any(|step| step.action == DataplaneAction::Load.into());
        let forgets = steps.iter().any(|step| step.action == DataplaneAction::ForgetFlows.into());
        prop_assert!(taken || loads || !forgets, "{}", lines(&steps));
    }

    #[test]
    fn plans_are_deterministic(Scenario { desired, observed, .. } in scenario()) {
        prop_assert_eq!(plan(&desired, &observed), plan(&desired.clone(), &observed.clone()));
    }

    #[test]
    fn cleanup_removes_what_is_ours_and_nothing_else(Scenario { desired, observed, .. } in scenario()) {
        let mut kernel = kernel(&observed);
        let cleanup = cleanup_plan(&observed, &desired.device.name);
        apply_all(&mut kernel, &cleanup.steps);
        prop_assert_eq!(&kernel.observed.dataplane, &None);
        match &observed.device {
            Some(device) if device.alias.as_deref() == Some("overlay-agent") => {
                prop_assert_eq!(&kernel.observed.device, &None);
                prop_assert!(cleanup.notes.is_empty());
            }
            other => {
                prop_assert_eq!(&kernel.observed.device, other);
                prop_assert_eq!(cleanup.notes.is_empty(), other.is_none());
            }
        }
        prop_assert!(cleanup_plan(&kernel.observed, &desired.device.name).steps.is_empty());
    }
}
