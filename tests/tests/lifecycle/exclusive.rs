//! Two overlays on one node: each has its own device and its own pins, or does not start.

use overlay_testbed::AgentOptions;
use serde_json::json;

use crate::bed::{PINS, command, options, pinned, start, testbed, verb, wait_for_peers, with_leases};

const OTHER_PINS: &str = "/sys/fs/bpf/other";

// Seen red with the lock of the device alone.
#[test]
fn a_pin_directory_belongs_to_one_agent() {
    let testbed = testbed(1);
    let (node, leases) = with_leases(&testbed, 2);
    let agent = start(node, &leases);
    let pins = pinned(node);

    let conf = options()
        .with_backend(&json!({"Type": "vxlan", "VNI": 2}))
        .net_conf;
    node.write_file(AgentOptions::NET_CONF, &conf).unwrap();
    let run = verb(node, "run", &[]);
    let cleanup = node.agent_command(&["cleanup", "--vni", "7"]).unwrap();
    for refused in [run, cleanup] {
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        for part in [
            PINS,
            "is already used by process ",
            "stop that agent",
            "--pin-dir",
        ] {
            assert!(refused.stderr.contains(part), "{part:?}: {}", refused.stderr);
        }
        let errors = refused.stderr.lines().filter(|line| !line.contains(" info "));
        assert_eq!(errors.count(), 1, "{}", refused.stderr);
    }
    assert_eq!(pinned(node), pins);
    wait_for_peers(node, &leases);
    assert!(node.run("ip link show flannel.2").is_err());

    // What concerns the other one alone is not refused.
    let said = command(node, &["cleanup", "--vni", "7", "--pin-dir", OTHER_PINS]);
    assert_eq!(said.trim(), "nothing to do for flannel.7");
    agent.stop().unwrap();
    command(node, &["cleanup"]);
    let left = node.run("find /run/overlay-agent").unwrap_or_default();
    assert_eq!(left, "", "no lock is left");
}

#[test]
fn the_root_of_the_bpf_file_system_is_refused() {
    let testbed = testbed(1);
    let node = testbed.node(1).unwrap();
    node.write_leases(&testbed.leases()).unwrap();
    node.write_file(AgentOptions::NET_CONF, &options().net_conf)
        .unwrap();
    let flags = ["--pin-dir", "/sys/fs/bpf"];
    let cleanup = node
        .agent_command(&["cleanup", "--pin-dir", "/sys/fs/bpf"])
        .unwrap();
    for refused in [verb(node, "run", &flags), verb(node, "plan", &flags), cleanup] {
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        for part in ["/sys/fs/bpf is where", "--pin-dir", "/sys/fs/bpf/overlay"] {
            assert!(refused.stderr.contains(part), "{part:?}: {}", refused.stderr);
        }
        let errors = refused.stderr.lines().filter(|line| !line.contains(" info "));
        assert_eq!(errors.count(), 1, "{}", refused.stderr);
    }
}
