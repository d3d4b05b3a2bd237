//! Namespaces, devices and a BPF file system of a test's own, and what the tests put there.

use std::net::IpAddr;
use std::panic;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::mount::{MsFlags, mount};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use overlay_agent::dataplane::{AttachChoice, Capacity, Dataplane};
use overlay_common::addr::{Addr, MaskedPrefix};
use overlay_common::config::{ABI_VERSION, Config, FLAG_ENFORCE_PEERS, LOG_REFUSALS};
use overlay_common::maps::SubnetEntry;
use overlay_core::action::{DataplaneAction, Hook};
use overlay_core::observed::{Attachment, ObservedDataplane};

/// The VTEP device of a sandbox.
pub(crate) const VTEP: &str = "flannel.1";
/// The underlay device of a sandbox.
pub(crate) const UNDERLAY: &str = "under0";
/// Capacity of the maps.
pub(crate) const CAPACITY: Capacity = Capacity {
    peers: 64,
    flows: 1024,
};

/// What a test gets.
pub(crate) struct Sandbox {
    /// Not made yet; its parent is a BPF file system.
    pub(crate) pin_dir: PathBuf,
    /// How to attach.
    pub(crate) attach: AttachChoice,
}

/// Runs `test` in a thread with its own namespaces, which the kernel takes down when the thread ends.
pub(crate) fn run(attach: AttachChoice, test: fn(&Sandbox)) {
    assert!(
        geteuid().is_root(),
        "this test needs root: it makes namespaces and loads eBPF programs"
    );
    let directory = tempfile::tempdir().unwrap();
    let bpffs = directory.path().to_owned();
    let result = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        ip("link set lo up");
        ip("link add under0 type veth peer name under1");
        ip("link set under0 up");
        ip("link set under1 up");
        ip("addr add 192.168.0.1/24 dev under0");
        add_vtep();
        test(&Sandbox {
            pin_dir: bpffs.join("overlay"),
            attach,
        });
    })
    .join();
    if let Err(panicked) = result {
        panic::resume_unwind(panicked);
    }
}

/// Makes the VTEP device.
pub(crate) fn add_vtep() {
    ip("link add flannel.1 type vxlan id 1 dev under0 local 192.168.0.1 dstport 8472 nolearning");
    ip("link set flannel.1 up");
}

/// Runs ip(8) in the namespace of this thread.
pub(crate) fn ip(arguments: &str) {
    command("ip", arguments);
}

/// Runs a program in the namespaces of this thread and returns what it prints.
pub(crate) fn command(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("this test needs {program}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn ifindex(device: &str) -> u32 {
    if_nametoindex(device).unwrap()
}

/// The device that the tests attach a hook's program to.
pub(crate) const fn device_of(hook: Hook) -> &'static str {
    match hook {
        Hook::VtepEgress | Hook::VtepIngress => VTEP,
        Hook::UnderlayIngress => UNDERLAY,
    }
}

impl Sandbox {
    /// As a process does that has just started.
    pub(crate) fn open(&self) -> Dataplane {
        self.open_for(CAPACITY)
    }

    pub(crate) fn open_for(&self, capacity: Capacity) -> Dataplane {
        Dataplane::open(self.pin_dir.clone(), self.attach, capacity).unwrap()
    }

    /// Loaded, attached, configured and filled.
    pub(crate) fn set_up(&self) -> Dataplane {
        let mut dataplane = self.open();
        execute(&mut dataplane, &everything());
        assert_eq!(dataplane.observe().unwrap().unwrap(), expected());
        dataplane
    }

    /// What is in the pin directory.
    pub(crate) fn pinned(&self) -> Vec<String> {
        let mut names: Vec<String> = walk(&self.pin_dir);
        names.sort();
        names
    }
}

fn walk(directory: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flat_map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path())
                    .into_iter()
                    .map(|below| format!("{name}/{below}"))
                    .collect()
            } else {
                vec![name]
            }
        })
        .collect()
}

pub(crate) fn execute(dataplane: &mut Dataplane, actions: &[DataplaneAction]) {
    for action in actions {
        dataplane
            .execute(action)
            .unwrap_or_else(|error| panic!("{action}: {error:#}"));
    }
}

pub(crate) fn attach(hook: Hook) -> DataplaneAction {
    DataplaneAction::Attach {
        hook,
        device: device_of(hook).to_owned(),
    }
}

pub(crate) fn config() -> Config {
    let mut config = Config::UNCONFIGURED;
    config.abi = ABI_VERSION;
    config.flags = FLAG_ENFORCE_PEERS;
    config.log_level = LOG_REFUSALS;
    config.port = 8472u16.to_be_bytes();
    config.vni = [0, 0, 1];
    config.ttl = 64;
    config.vtep_mac = [2, 0, 0, 0, 0, 1];
    config.vtep = Addr::from_v4([192, 168, 0, 1]);
    config.subnet_v4 = MaskedPrefix::new(Addr::from_v4([10, 244, 1, 0]), 96 + 24);
    config
}

pub(crate) fn peer() -> IpAddr {
    "192.168.0.2".parse().unwrap()
}

pub(crate) fn subnet() -> (IpNet, SubnetEntry) {
    (
        "10.244.2.0/24".parse().unwrap(),
        SubnetEntry::new(Addr::from(peer()), [2, 0, 0, 0, 0, 2]),
    )
}

pub(crate) fn set_peer() -> DataplaneAction {
    DataplaneAction::SetPeer {
        vtep: peer(),
        subnet: subnet().0,
    }
}

/// The actions that lead from nothing to [`expected`].
pub(crate) fn everything() -> Vec<DataplaneAction> {
    let (subnet, entry) = subnet();
    vec![
        DataplaneAction::Load,
        set_peer(),
        DataplaneAction::SetSubnet { subnet, entry },
        DataplaneAction::SetConfig(Box::new(config())),
        attach(Hook::UnderlayIngress),
        attach(Hook::VtepEgress),
        attach(Hook::VtepIngress),
    ]
}

/// What is there after [`everything`].
pub(crate) fn expected() -> ObservedDataplane {
    ObservedDataplane {
        compatible: true,
        config: Some(config()),
        subnets: [subnet()].into(),
        peers: [(peer(), subnet().0)].into(),
        attached: Hook::ALL
            .map(|hook| {
                (
                    hook,
                    Attachment {
                        ifindex: ifindex(device_of(hook)),
                        current: true,
                    },
                )
            })
            .into(),
        missing: [].into(),
    }
}

/// The kernel detaches a link a moment after its pin is gone.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !is_so() {
        assert!(Instant::now() < end, "not within 5 s: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
