//! Pins that do not fit, are not complete, or have nowhere to go.

use std::fs;

use aya::maps::{Array, HashMap, MapData};
use nix::mount::umount;
use overlay_agent::dataplane::{AttachChoice, Capacity, Dataplane, check_pin_directory};
use overlay_common::config::Config;
use overlay_common::maps;
use overlay_core::action::{DataplaneAction, Hook};
use overlay_core::observed::ObservedDataplane;

use crate::sandbox::{self, CAPACITY, Sandbox, device_of, eventually, execute, expected};
use crate::with_each_mechanism;

with_each_mechanism!(
    maps_of_another_capacity_are_replaced,
    a_map_of_somebody_under_our_name_is_replaced,
    another_abi_is_replaced,
    an_incomplete_set_is_replaced,
    an_old_build_that_was_never_configured_is_replaced,
);

const fn with_peers(peers: u32) -> Capacity {
    Capacity { peers, ..CAPACITY }
}

/// What is pinned does not fit; loading detaches it, and the usual plan ends where it should.
fn check_replaced(sandbox: &Sandbox, capacity: Capacity) {
    let mut dataplane = sandbox.open_for(capacity);
    assert_eq!(
        dataplane.observe().unwrap().unwrap(),
        ObservedDataplane::default()
    );
    execute(&mut dataplane, &[DataplaneAction::Load]);
    let fresh = ObservedDataplane {
        compatible: true,
        ..ObservedDataplane::default()
    };
    assert_eq!(
        dataplane.observe().unwrap().unwrap(),
        fresh,
        "the kernel device takes over"
    );
    for hook in Hook::ALL {
        eventually("detached", || {
            sandbox.programs_on(device_of(hook), hook).is_empty()
        });
    }
    execute(&mut dataplane, &sandbox::everything());
    assert_eq!(dataplane.observe().unwrap().unwrap(), expected());
}

fn maps_of_another_capacity_are_replaced(sandbox: &Sandbox) {
    sandbox.set_up();
    check_replaced(sandbox, with_peers(CAPACITY.peers * 2));
    let flows = CAPACITY.flows * 2;
    check_replaced(sandbox, Capacity { flows, ..CAPACITY });
}

fn a_map_of_somebody_under_our_name_is_replaced(sandbox: &Sandbox) {
    sandbox.set_up();
    let pin = sandbox.pin_dir.join("PEERS");
    fs::remove_file(&pin).unwrap();
    HashMap::<MapData, u32, u64>::create(8, 0)
        .unwrap()
        .pin(&pin)
        .unwrap();
    check_replaced(sandbox, CAPACITY);
}

fn another_abi_is_replaced(sandbox: &Sandbox) {
    sandbox.set_up();
    let map = MapData::from_pin(sandbox.pin_dir.join("CONFIG")).unwrap();
    let mut map: Array<MapData, Config> = aya::maps::Map::from_map_data(map).unwrap().try_into().unwrap();
    let mut config = sandbox::config();
    config.abi += 1;
    map.set(0, config, 0).unwrap();
    check_replaced(sandbox, CAPACITY);
}

fn an_incomplete_set_is_replaced(sandbox: &Sandbox) {
    for name in maps::PINNED.into_iter().chain(["AYA_LOGS"]) {
        sandbox.set_up();
        fs::remove_file(sandbox.pin_dir.join(name)).unwrap();
        check_replaced(sandbox, CAPACITY);
    }
    for name in maps::PINNED.into_iter().chain(["AYA_LOGS"]) {
        fs::remove_file(sandbox.pin_dir.join(name)).unwrap();
    }
    check_replaced(sandbox, CAPACITY);
}

fn an_old_build_that_was_never_configured_is_replaced(sandbox: &Sandbox) {
    let mut dataplane = sandbox.set_up();
    execute(
        &mut dataplane,
        &[DataplaneAction::SetConfig(Box::new(Config::UNCONFIGURED))],
    );
    crate::lifecycle::age(sandbox);
    check_replaced(sandbox, CAPACITY);
}

#[test]
fn a_full_map_is_explained() {
    sandbox::run(AttachChoice::Tcx, |sandbox| {
        let mut dataplane = sandbox.open_for(with_peers(2));
        execute(&mut dataplane, &[DataplaneAction::Load]);
        let peers = ["192.168.0.2", "192.168.0.3", "192.168.0.4"].map(|peer| DataplaneAction::SetPeer {
            vtep: peer.parse().unwrap(),
            subnet: sandbox::subnet().0,
        });
        execute(&mut dataplane, &peers[..2]);
        let error = dataplane.execute(&peers[2]).unwrap_err();
        assert!(format!("{error:#}").contains("--max-peers"), "{error:#}");
    });
}

#[test]
fn without_a_bpf_file_system_the_mount_command_is_named() {
    sandbox::run(AttachChoice::Tcx, |sandbox| {
        let mount_point = sandbox.pin_dir.parent().unwrap();
        umount(mount_point).unwrap();
        let mut dataplane = sandbox.open();
        assert_eq!(dataplane.observe().unwrap(), None);
        execute(&mut dataplane, &[DataplaneAction::Remove]);
        for error in [
            dataplane.check_file_system().unwrap_err(),
            dataplane.execute(&DataplaneAction::Load).unwrap_err(),
        ] {
            let command = format!("mount -t bpf bpf {}", mount_point.display());
            assert!(format!("{error:#}").contains(&command), "{error:#}");
        }
        assert!(!sandbox.pin_dir.exists());
    });
}

#[test]
fn the_root_of_a_bpf_file_system_is_not_taken() {
    sandbox::run(AttachChoice::Tcx, |sandbox| {
        let root = sandbox.pin_dir.parent().unwrap();
        let theirs = root.join("PEERS");
        HashMap::<MapData, u32, u64>::create(8, 0)
            .unwrap()
            .pin(&theirs)
            .unwrap();
        let mut dataplane = Dataplane::open(root.to_owned(), AttachChoice::Tcx, CAPACITY).unwrap();
        let link = tempfile::tempdir().unwrap();
        let link = link.path().join("link");
        std::os::unix::fs::symlink(root, &link).unwrap();
        for error in [
            check_pin_directory(root).unwrap_err(),
            check_pin_directory(&link).unwrap_err(),
            dataplane.check_file_system().unwrap_err(),
            dataplane.execute(&DataplaneAction::Load).unwrap_err(),
        ] {
            let text = format!("{error:#}");
            for part in ["a BPF file system is mounted", "--pin-dir", "/overlay"] {
                assert!(text.contains(part), "{text}");
            }
        }
        assert!(theirs.exists());
        // Below it, whether it exists or not.
        check_pin_directory(&sandbox.pin_dir).unwrap();
        fs::create_dir(&sandbox.pin_dir).unwrap();
        check_pin_directory(&sandbox.pin_dir).unwrap();
        // Any other place is refused elsewhere, by the kind of its file system.
        check_pin_directory(std::path::Path::new("/proc/self")).unwrap();
    });
}
