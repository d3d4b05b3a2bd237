//! `cleanup` leaves a node as if the agent had never been there.

use std::collections::BTreeMap;

use anyhow::ensure;
use overlay_testbed::{Node, Testbed, eventually};

use crate::bed::{SOON, command, options, pinned, with_absent};

/// Everything on a node that could tell.
fn state(node: &Node) -> BTreeMap<&'static str, String> {
    [
        // Without details: those of a bridge contain its timers.
        "ip -j link",
        "ip -j addr",
        "ip -d -j link show dev eth0",
        "ip -4 -d -j route show table all",
        "ip -6 -d -j route show table all",
        "ip -d -j rule",
        "bridge -j fdb",
        "tc -j qdisc",
        "tc filter show dev eth0 ingress",
        "tc filter show dev eth0 egress",
        "find /sys/fs/bpf /run -not -path /run/testbed/*",
        "iptables-save",
        "sysctl -a --pattern net.ipv[46].(conf.(all|default|eth0|lo|cni0)|ip_forward|neigh.default)",
    ]
    .into_iter()
    .map(|command| (command, node.run(command).unwrap()))
    .collect()
}

// Seen red with the lock file left, and with the qdisc of `--attach clsact` left.
#[test]
fn nothing_is_left_behind() {
    for attach in ["tcx", "clsact"] {
        let testbed = Testbed::builder()
            .nodes(1)
            .pods_per_node(1)
            .ipv6(false)
            .build()
            .unwrap();
        let node = testbed.node(1).unwrap();
        let leases = with_absent(&testbed, 5);
        node.write_leases(&leases).unwrap();
        let before = state(node);
        let agent = node
            .start_agent(&options().with_arguments(&["--attach", attach]))
            .unwrap();
        // The devices of pods are found beside everything else.
        agent
            .wait_log(&format!("pod device {}", node.pods()[0].host_veth()), SOON)
            .unwrap();
        let objects = pinned(node);
        assert!(objects.len() >= 7, "{objects:?}");
        assert_ne!(state(node), before);

        let refused = node.agent_command(&["cleanup"]).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        for part in ["must be stopped", "flannel.1", "process "] {
            assert!(refused.stderr.contains(part), "{refused:?}");
        }
        assert_eq!(pinned(node), objects, "a refused cleanup changes nothing");
        agent.stop().unwrap();

        let said = command(node, &["cleanup"]);
        assert!(said.contains("link delete flannel.1"), "{said}");
        let after = state(node);
        for (what, before) in &before {
            assert_eq!(&after[what], before, "{attach}: {what}");
        }
        // The kernel frees objects a moment after their last user.
        eventually(SOON, "end of the BPF objects", || {
            for object in objects.values() {
                let mut words = object.split(' ');
                let (kind, id) = (words.next().unwrap(), words.next().unwrap());
                let shown = node.space().output(&format!("bpftool {kind} show id {id}"))?;
                ensure!(!shown.status.success(), "{object} is still there");
            }
            Ok(())
        })
        .unwrap();
        let said = command(node, &["cleanup"]);
        assert_eq!(said.trim(), "nothing to do for flannel.1");
        assert_eq!(state(node), before);
    }
}
