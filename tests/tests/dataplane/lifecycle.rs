//! From nothing to forwarding, through restarts, upgrades and lost devices, back to nothing.

use std::fs;

use overlay_agent::dataplane::{AttachChoice, Dataplane, Mechanism, OBJECT_HASH};
use overlay_core::action::{DataplaneAction, Hook, Program};
use overlay_core::observed::{Attachment, ObservedDataplane};

use crate::sandbox::{
    self, Sandbox, UNDERLAY, VTEP, attach, device_of, eventually, execute, expected, ifindex, ip,
};
use crate::with_each_mechanism;

with_each_mechanism!(
    step_by_step,
    another_process_finds_nothing_to_do,
    repeating_every_action_changes_nothing,
    another_build_is_switched_in_place,
    follows_a_device_that_was_made_again,
    moves_to_another_device,
    removes_everything_and_twice,
    attaching_loads_a_program_whose_pin_has_gone,
    a_program_whose_pin_has_gone_is_missing_until_it_is_loaded,
);

fn step_by_step(sandbox: &Sandbox) {
    let mut dataplane = sandbox.open();
    assert_eq!(dataplane.observe().unwrap(), None);
    assert!(sandbox.pinned().is_empty(), "opening must create nothing");

    let mut observed = ObservedDataplane {
        compatible: true,
        ..ObservedDataplane::default()
    };
    execute(&mut dataplane, &[DataplaneAction::Load]);
    assert_eq!(dataplane.observe().unwrap().unwrap(), observed);
    assert!(
        dataplane
            .counters()
            .unwrap()
            .iter()
            .all(|(_, counter)| counter.packets == 0)
    );

    for hook in Hook::ALL {
        execute(&mut dataplane, &[attach(hook)]);
        observed.attached.insert(
            hook,
            Attachment {
                ifindex: ifindex(device_of(hook)),
                current: true,
            },
        );
        assert_eq!(dataplane.observe().unwrap().unwrap(), observed);
        assert_eq!(
            sandbox.programs_on(device_of(hook), hook),
            [sandbox.our_program(hook)]
        );
    }

    let (subnet, entry) = sandbox::subnet();
    execute(&mut dataplane, &sandbox::everything());
    assert_eq!(dataplane.observe().unwrap().unwrap(), expected());
    assert!(dataplane.peer_stats().unwrap().contains_key(&sandbox::peer()));

    execute(
        &mut dataplane,
        &[
            DataplaneAction::RemoveSubnet(subnet),
            DataplaneAction::RemovePeer(sandbox::peer()),
        ],
    );
    // Removing what is not there is no error.
    execute(
        &mut dataplane,
        &[
            DataplaneAction::RemoveSubnet(subnet),
            DataplaneAction::RemovePeer(sandbox::peer()),
        ],
    );
    let emptied = dataplane.observe().unwrap().unwrap();
    assert!(emptied.subnets.is_empty() && emptied.peers.is_empty());
    // A subnet is found by its prefix, whatever host bits it is given with.
    let with_host_bits = "10.244.2.9/24".parse().unwrap();
    execute(
        &mut dataplane,
        &[DataplaneAction::SetSubnet {
            subnet: with_host_bits,
            entry,
        }],
    );
    assert_eq!(
        dataplane.observe().unwrap().unwrap().subnets,
        [(subnet, entry)].into()
    );
}

fn another_process_finds_nothing_to_do(sandbox: &Sandbox) {
    let first = sandbox.set_up();
    let programs = Hook::ALL.map(|hook| sandbox.our_program(hook));
    drop(first);
    for hook in Hook::ALL {
        assert_eq!(
            sandbox.programs_on(device_of(hook), hook).len(),
            1,
            "dropping must not detach"
        );
    }
    let second = sandbox.open();
    assert_eq!(second.observe().unwrap().unwrap(), expected());
    assert_eq!(Hook::ALL.map(|hook| sandbox.our_program(hook)), programs);
}

fn repeating_every_action_changes_nothing(sandbox: &Sandbox) {
    let mut dataplane = sandbox.set_up();
    let pinned = sandbox.pinned();
    let programs = Hook::ALL.map(|hook| sandbox.our_program(hook));
    execute(&mut dataplane, &sandbox::everything());
    assert_eq!(dataplane.observe().unwrap().unwrap(), expected());
    assert_eq!(sandbox.pinned(), pinned);
    assert_eq!(Hook::ALL.map(|hook| sandbox.our_program(hook)), programs);
    for hook in Hook::ALL {
        assert_eq!(
            sandbox.programs_on(device_of(hook), hook),
            [sandbox.our_program(hook)]
        );
    }
}

/// Makes the pinned programs look like those of another build.
pub(crate) fn age(sandbox: &Sandbox) {
    let programs = sandbox.pin_dir.join("programs");
    for program in Program::ALL {
        let name = program.name();
        let old = programs.join(format!("{name}-0123456789abcdef"));
        fs::rename(programs.join(format!("{name}-{OBJECT_HASH}")), old).unwrap();
    }
}

fn another_build_is_switched_in_place(sandbox: &Sandbox) {
    let mut dataplane = sandbox.set_up();
    let old = Hook::ALL.map(|hook| sandbox.our_program(hook));
    age(sandbox);

    let observed = dataplane.observe().unwrap().unwrap();
    assert!(observed.compatible);
    assert_eq!(
        observed.peers,
        expected().peers,
        "map contents survive an upgrade"
    );
    for hook in Hook::ALL {
        let ifindex = ifindex(device_of(hook));
        assert_eq!(
            observed.attached.get(&hook),
            Some(&Attachment {
                ifindex,
                current: false
            })
        );
    }

    execute(&mut dataplane, &[DataplaneAction::Load]);
    assert_eq!(
        dataplane.observe().unwrap().unwrap(),
        expected(),
        "loading switches, contents survive"
    );
    for (hook, old) in Hook::ALL.into_iter().zip(old) {
        assert_ne!(sandbox.our_program(hook), old);
        assert_eq!(
            sandbox.programs_on(device_of(hook), hook),
            [sandbox.our_program(hook)]
        );
    }
    assert!(
        !sandbox
            .pinned()
            .iter()
            .any(|pin| pin.contains("0123456789abcdef"))
    );
}

fn follows_a_device_that_was_made_again(sandbox: &Sandbox) {
    let mut dataplane = sandbox.set_up();
    let before = ifindex(VTEP);
    ip("link del flannel.1");
    let attachment = dataplane
        .observe()
        .unwrap()
        .unwrap()
        .attached
        .get(&Hook::VtepEgress)
        .copied();
    match sandbox.attach {
        AttachChoice::Tcx => assert_eq!(attachment.unwrap().ifindex, 0),
        AttachChoice::Clsact | AttachChoice::Auto => assert_eq!(attachment, None),
    }
    // Loading in between must not stumble over the link without a device.
    execute(&mut dataplane, &[DataplaneAction::Load]);
    sandbox::add_vtep();
    assert_ne!(ifindex(VTEP), before);
    execute(
        &mut dataplane,
        &[attach(Hook::VtepEgress), attach(Hook::VtepIngress)],
    );
    assert_eq!(dataplane.observe().unwrap().unwrap(), expected());
    assert_eq!(
        sandbox.programs_on(VTEP, Hook::VtepEgress),
        [sandbox.our_program(Hook::VtepEgress)]
    );
}

fn moves_to_another_device(sandbox: &Sandbox) {
    let mut dataplane = sandbox.set_up();
    let hook = Hook::UnderlayIngress;
    execute(
        &mut dataplane,
        &[DataplaneAction::Attach {
            hook,
            device: "under1".to_owned(),
        }],
    );
    let attached = dataplane.observe().unwrap().unwrap().attached;
    assert_eq!(
        attached.get(&hook),
        Some(&Attachment {
            ifindex: ifindex("under1"),
            current: true
        })
    );
    assert_eq!(sandbox.programs_on("under1", hook), [sandbox.our_program(hook)]);
    eventually("detached from the old device", || {
        sandbox.programs_on(UNDERLAY, hook).is_empty()
    });

    let error = dataplane
        .execute(&DataplaneAction::Attach {
            hook,
            device: "nowhere".to_owned(),
        })
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("no interface is called nowhere"),
        "{error:#}"
    );
}

fn removes_everything_and_twice(sandbox: &Sandbox) {
    let mut dataplane = sandbox.set_up();
    for _ in 0..2 {
        execute(&mut dataplane, &[DataplaneAction::Remove]);
        assert_eq!(dataplane.observe().unwrap(), None);
        assert!(!sandbox.pin_dir.exists());
        for hook in Hook::ALL {
            eventually("detached", || {
                sandbox.programs_on(device_of(hook), hook).is_empty()
            });
            let qdiscs = sandbox::command("tc", &format!("qdisc show dev {}", device_of(hook)));
            assert!(!qdiscs.contains("clsact"), "{qdiscs}");
        }
    }
    execute(&mut dataplane, &sandbox::everything());
    assert_eq!(dataplane.observe().unwrap().unwrap(), expected());
}

fn attaching_loads_a_program_whose_pin_has_gone(sandbox: &Sandbox) {
    let mut dataplane = sandbox.set_up();
    let hook = Hook::VtepEgress;
    fs::remove_file(
        sandbox
            .pin_dir
            .join("programs")
            .join(format!("{}-{OBJECT_HASH}", hook.program().name())),
    )
    .unwrap();
    execute(&mut dataplane, &[attach(hook)]);
    assert_eq!(dataplane.observe().unwrap().unwrap(), expected());
}

/// Also one that this loop does not attach itself.
fn a_program_whose_pin_has_gone_is_missing_until_it_is_loaded(sandbox: &Sandbox) {
    let mut dataplane = sandbox.set_up();
    let pin = format!("{}-{OBJECT_HASH}", Program::PodIngress.name());
    fs::remove_file(sandbox.pin_dir.join("programs").join(pin)).unwrap();
    let missing = ObservedDataplane {
        missing: [Program::PodIngress].into(),
        ..expected()
    };
    assert_eq!(dataplane.observe().unwrap().unwrap(), missing);
    execute(&mut dataplane, &[DataplaneAction::Load]);
    assert_eq!(dataplane.observe().unwrap().unwrap(), expected());
}

#[test]
fn the_other_mechanism_takes_over() {
    sandbox::run(AttachChoice::Tcx, |sandbox| {
        sandbox.set_up();
        let open = |attach| Dataplane::open(sandbox.pin_dir.clone(), attach, sandbox::CAPACITY).unwrap();
        let hooks = Hook::ALL.map(attach);
        for (choice, mechanism) in [
            (AttachChoice::Clsact, Mechanism::Clsact),
            // This kernel has TCX.
            (AttachChoice::Auto, Mechanism::Tcx),
        ] {
            let mut dataplane = open(choice);
            assert_eq!(dataplane.mechanism(), mechanism);
            let observed = dataplane.observe().unwrap().unwrap();
            assert!(
                observed.attached.values().all(|attachment| !attachment.current),
                "{observed:?}"
            );
            execute(&mut dataplane, &hooks);
            assert_eq!(dataplane.observe().unwrap().unwrap(), expected());
            for hook in Hook::ALL {
                let filters = crate::hooks::filters(device_of(hook), hook).len();
                assert_eq!(filters, usize::from(mechanism == Mechanism::Clsact));
                let links = usize::from(mechanism == Mechanism::Tcx);
                eventually("links as wanted", || {
                    sandbox.programs_on(device_of(hook), hook).len() == links
                });
            }
        }
    });
}
