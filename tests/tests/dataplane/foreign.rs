//! Other people's programs, filters, qdiscs and pins are never touched.

use std::fs;

use aya::programs::tc::{TcError, qdisc_add_clsact};
use overlay_agent::dataplane::AttachChoice;
use overlay_core::action::{DataplaneAction, Hook};

use crate::hooks::{Foreigner, filters};
use crate::lifecycle::age;
use crate::sandbox::{
    self, Sandbox, UNDERLAY, VTEP, attach, command, device_of, eventually, execute, expected,
};
use crate::with_each_mechanism;

with_each_mechanism!(programs_before_and_after_survive, pins_in_our_directory_survive);

fn programs_before_and_after_survive(sandbox: &Sandbox) {
    let mut before = Foreigner::attach(sandbox, 1);
    let mut dataplane = sandbox.set_up();
    let mut after = Foreigner::attach(sandbox, 60_000);

    let mut check = |what: &str| {
        let (vtep, underlay) = (Hook::VtepEgress, Hook::UnderlayIngress);
        assert_eq!(
            sandbox.programs_on(VTEP, vtep),
            [before.id(vtep), sandbox.our_program(vtep), after.id(vtep)],
            "{what}: those who were there see packets before they are encapsulated"
        );
        let (before, ours, after) = (
            before.id(underlay),
            sandbox.our_program(underlay),
            after.id(underlay),
        );
        let expected = match sandbox.attach {
            AttachChoice::Tcx => [ours, before, after],
            // Priority 1 is taken, so ours is as near to the front as can be.
            AttachChoice::Clsact | AttachChoice::Auto => [before, ours, after],
        };
        assert_eq!(
            sandbox.programs_on(UNDERLAY, underlay),
            expected,
            "{what}: the peer check comes first"
        );
    };
    check("attached");

    execute(&mut dataplane, &sandbox::everything());
    check("attached again");

    age(sandbox);
    execute(&mut dataplane, &[DataplaneAction::Load]);
    check("switched to another build");

    age(sandbox);
    // A plan may attach without loading first.
    execute(&mut dataplane, &Hook::ALL.map(attach));
    check("switched by attaching");
    assert_eq!(dataplane.observe().unwrap().unwrap(), expected());

    execute(&mut dataplane, &[DataplaneAction::Remove]);
    for hook in Hook::ALL {
        let theirs = [before.id(hook), after.id(hook)];
        eventually("only ours is detached", || {
            sandbox.programs_on(device_of(hook), hook) == theirs
        });
    }
}

fn pins_in_our_directory_survive(sandbox: &Sandbox) {
    let mut dataplane = sandbox.set_up();
    let map = aya::maps::MapInfo::from_pin(sandbox.pin_dir.join("CONFIG")).unwrap();
    let map = aya::maps::MapData::from_id(map.id()).unwrap();
    map.pin(sandbox.pin_dir.join("SOMEBODY")).unwrap();
    map.pin(sandbox.pin_dir.join("programs/vtep_egress-backup"))
        .unwrap();
    execute(&mut dataplane, &[DataplaneAction::Remove]);
    assert_eq!(sandbox.pinned(), ["SOMEBODY", "programs/vtep_egress-backup"]);
    assert_eq!(dataplane.observe().unwrap(), None, "what is left is not ours");
    execute(&mut dataplane, &[DataplaneAction::Remove]);
    execute(&mut dataplane, &sandbox::everything());
    assert_eq!(dataplane.observe().unwrap().unwrap(), expected());
    execute(&mut dataplane, &[DataplaneAction::Remove]);
    assert_eq!(sandbox.pinned(), ["SOMEBODY", "programs/vtep_egress-backup"]);
    fs::remove_file(sandbox.pin_dir.join("SOMEBODY")).unwrap();
}

#[test]
fn a_qdisc_that_was_there_stays() {
    sandbox::run(AttachChoice::Clsact, |sandbox| {
        qdisc_add_clsact(UNDERLAY).unwrap();
        let mut dataplane = sandbox.set_up();
        execute(&mut dataplane, &[DataplaneAction::Remove]);
        assert!(
            matches!(qdisc_add_clsact(UNDERLAY), Err(TcError::NetlinkError(_))),
            "it must still be there"
        );
        qdisc_add_clsact(VTEP).unwrap();
    });
}

#[test]
fn a_qdisc_that_others_use_meanwhile_stays() {
    sandbox::run(AttachChoice::Clsact, |sandbox| {
        let mut dataplane = sandbox.set_up();
        command(
            "tc",
            "filter add dev under0 egress pref 7 protocol ip u32 match u32 0 0",
        );
        execute(&mut dataplane, &[DataplaneAction::Remove]);
        let left = command("tc", "filter show dev under0 egress");
        assert!(left.contains("pref 7"), "{left}");
        assert!(!sandbox.pin_dir.exists());
    });
}

#[test]
fn filters_of_other_kinds_are_no_obstacle() {
    sandbox::run(AttachChoice::Clsact, |sandbox| {
        qdisc_add_clsact(UNDERLAY).unwrap();
        for (priority, protocol) in [(1, "all"), (2, "ip"), (3, "ipv6"), (4, "arp")] {
            command(
                "tc",
                &format!(
                    "filter add dev under0 ingress pref {priority} protocol {protocol} u32 match u32 0 0"
                ),
            );
        }
        let mut dataplane = sandbox.set_up();
        let shown = command("tc", "filter show dev under0 ingress");
        assert!(shown.contains("pref 5 bpf"), "{shown}");
        execute(&mut dataplane, &[DataplaneAction::Remove]);
        assert_eq!(filters(UNDERLAY, Hook::UnderlayIngress), [0; 0]);
        let left = command("tc", "filter show dev under0 ingress");
        assert!(
            ["pref 1 ", "pref 2 ", "pref 3 ", "pref 4 "]
                .iter()
                .all(|pref| left.contains(pref)),
            "{left}"
        );
    });
}

#[test]
fn an_ingress_qdisc_of_others_is_explained() {
    sandbox::run(AttachChoice::Clsact, |sandbox| {
        command("tc", "qdisc add dev flannel.1 handle ffff: ingress");
        let mut dataplane = sandbox.open();
        execute(&mut dataplane, &[DataplaneAction::Load]);
        let error = dataplane.execute(&attach(Hook::VtepEgress)).unwrap_err();
        assert!(
            format!("{error:#}").contains("tc qdisc del dev flannel.1 ingress"),
            "{error:#}"
        );
        let left = command("tc", "qdisc show dev flannel.1");
        assert!(left.contains("ingress"), "{left}");
    });
}
