//! A node that is not as it should be: one clear error, nothing touched, and the work goes on once it is repaired.

use std::fs::File;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use overlay_testbed::exec::{Output, Process};
use overlay_testbed::{AgentOptions, Leases, Node, Testbed, agent, eventually};

use crate::bed::{DEVICE, command, options, start, testbed, verb, wait_for_peers, with_files, with_leases};

const ANSWER: Duration = Duration::from_secs(5);

/// An agent of which nothing is expected yet.
struct Started {
    process: Process,
    node: Node,
}

impl Started {
    fn new(node: &Node, wrapper: &str, further: &[&str]) -> Self {
        let log = File::create(node.path_from_outside(AgentOptions::LOG)).unwrap();
        let mut words: Vec<_> = wrapper.split_whitespace().map(str::to_owned).collect();
        words.push(agent::binary().unwrap().display().to_string());
        words.extend(with_files(node, "run", further));
        let process = node
            .space()
            .spawn(&words, Stdio::from(log.try_clone().unwrap()), Stdio::from(log))
            .unwrap();
        Self {
            process,
            node: node.clone(),
        }
    }

    fn log(&self) -> String {
        self.node.read_file(AgentOptions::LOG).unwrap()
    }

    fn wait_said(&self, parts: &[&str]) {
        eventually(ANSWER, "a line in the log", || {
            let log = self.log();
            let found = log
                .lines()
                .any(|line| parts.iter().all(|part| line.contains(part)));
            anyhow::ensure!(found, "no line with {parts:?} in:\n{log}");
            Ok(())
        })
        .unwrap();
    }

    fn complaints(&self) -> Vec<String> {
        let log = self.log();
        let bad = |line: &&str| line.contains(" error ") || line.contains(" warn ");
        log.lines().filter(bad).map(str::to_owned).collect()
    }

    fn stop(mut self) {
        self.process.signal(Signal::SIGTERM).unwrap();
        let status = self.process.wait(ANSWER).unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }
}

/// A node with its files and without an agent.
fn prepared(testbed: &Testbed) -> (&Node, Leases) {
    let (node, leases) = with_leases(testbed, 2);
    node.write_file(AgentOptions::NET_CONF, &AgentOptions::default().net_conf)
        .unwrap();
    (node, leases)
}

/// What is wrong, what the agent says, what must still be there, and what repairs it.
struct Obstacle {
    make: &'static [&'static str],
    says: &'static [&'static str],
    keeps: &'static str,
    repair: &'static [&'static str],
}

const OBSTACLES: &[Obstacle] = &[
    Obstacle {
        make: &[
            "ip link add flannel.1 type bridge",
            "ip address add 198.51.100.1/32 dev flannel.1",
        ],
        says: &["flannel.1", "is not a VXLAN device", "remove or rename it"],
        keeps: "ip address show flannel.1",
        repair: &["ip link delete flannel.1"],
    },
    Obstacle {
        make: &["ip link add vx0 type vxlan id 1 dev eth0 local 192.168.0.1 dstport 8472"],
        says: &["VNI 1 on UDP port 8472 is taken by", "vx0"],
        keeps: "ip -d link show vx0",
        repair: &["ip link delete vx0"],
    },
    Obstacle {
        make: &["ip route delete default"],
        says: &["waiting", "default route", "--iface"],
        keeps: "ip link show eth0",
        repair: &["ip route add default via 192.168.0.254"],
    },
    Obstacle {
        make: &["mv /run/testbed/leases.yaml /run/testbed/elsewhere"],
        says: &["/run/testbed/leases.yaml does not exist", "waiting"],
        keeps: "ip link show eth0",
        repair: &["mv /run/testbed/elsewhere /run/testbed/leases.yaml"],
    },
    Obstacle {
        make: &["sed -i s/node-1/node-9/ /run/testbed/leases.yaml"],
        says: &[
            "waiting",
            "no lease for this node, \"node-1\"",
            "absent-1",
            "--node",
        ],
        keeps: "ip link show eth0",
        repair: &["sed -i s/node-9/node-1/ /run/testbed/leases.yaml"],
    },
    Obstacle {
        make: &["umount /sys/fs/bpf"],
        says: &[
            "failed: dataplane load",
            "not on a BPF file system",
            "mount -t bpf",
            "kernel's VXLAN device carries",
        ],
        keeps: "ip route show 10.244.101.0/24 via 10.244.101.0 dev flannel.1",
        repair: &["mount -t bpf bpf /sys/fs/bpf"],
    },
];

// Seen red with every link of the name taken for a VXLAN device, and with every attempt's error said.
#[test]
fn an_obstacle_is_named_once_and_its_end_noticed() {
    let testbed = testbed(1);
    let (node, leases) = prepared(&testbed);
    for obstacle in OBSTACLES {
        for command in obstacle.make {
            node.run(command).unwrap();
        }
        let agent = Started::new(node, "", &["--resync", "1"]);
        agent.wait_said(obstacle.says);
        let kept = node.run(obstacle.keeps).unwrap();
        assert!(!kept.trim().is_empty(), "{:?}", obstacle.make);
        // Long enough for several attempts and a resync.
        sleep(Duration::from_millis(1500));
        let complaints = agent.complaints();
        assert_eq!(complaints.len(), 1, "{complaints:#?}");
        assert_eq!(node.run(obstacle.keeps).unwrap(), kept, "{:?}", obstacle.make);
        assert!(!agent.log().contains("ready:"), "{}", agent.log());
        for command in obstacle.repair {
            node.run(command).unwrap();
        }
        agent.wait_said(&["ready: 2 peers"]);
        wait_for_peers(node, &leases);
        assert_eq!(agent.complaints(), complaints, "nothing else was wrong");
        agent.stop();
        command(node, &["cleanup"]);
    }
}

// Seen red without the comparison of the port.
#[test]
fn a_vxlan_device_of_our_name_that_does_not_fit_is_made_anew() {
    let testbed = testbed(1);
    let (node, leases) = prepared(&testbed);
    for (wrong, why) in [
        ("id 5 dstport 8472", "VNI is 5, wanted 1"),
        ("id 1 dstport 4789", "port is 4789, wanted 8472"),
        ("external dstport 8472", "metadata mode is on, wanted off"),
    ] {
        let external = wrong.starts_with("external");
        let place = if external {
            ""
        } else {
            "local 192.168.0.1 dev eth0"
        };
        node.run(&format!(
            "ip link add {DEVICE} type vxlan {wrong} {place} nolearning"
        ))
        .unwrap();
        let agent = Started::new(node, "", &[]);
        agent.wait_said(&["link delete flannel.1", why]);
        agent.wait_said(&["link add flannel.1", why]);
        agent.wait_said(&["ready: 2 peers"]);
        wait_for_peers(node, &leases);
        assert!(agent.complaints().is_empty(), "{:?}", agent.complaints());
        agent.stop();
        assert!(command(node, &["cleanup"]).contains("link delete flannel.1"));
    }
}

/// The command ends with `code` and one line on standard error, with all of `parts`.
fn assert_refused(output: &Output, code: i32, parts: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    for part in parts {
        assert!(output.stderr.contains(part), "{part:?}: {}", output.stderr);
    }
    let errors = output
        .stderr
        .lines()
        .filter(|line| line.contains("error") && !line.contains(" info "))
        .count();
    assert_eq!(errors, 1, "{}", output.stderr);
}

#[test]
fn what_cannot_heal_by_itself_ends_with_one_error() {
    let testbed = testbed(1);
    let (node, leases) = prepared(&testbed);
    let run = |further: &[&str]| verb(node, "run", further);

    assert_refused(
        &node
            .agent_command(&["run", "--node", "node-1", "--leases", "/run/testbed/leases.yaml"])
            .unwrap(),
        1,
        &[
            "overlay-agent: error: cannot read the network configuration /etc/kube-flannel/net-conf.json",
            "--net-config-path",
        ],
    );
    assert_refused(&run(&["--pindir", "/x"]), 2, &["--pindir", "--pin-dir"]);
    assert_refused(&run(&["--resync", "0"]), 2, &["--resync", "1..=86400"]);
    assert_refused(&node.agent_command(&["rum"]).unwrap(), 2, &["rum", "run"]);
    for (conf, parts) in [
        (
            "{\"Network\": \"10.244.0.0/16\"",
            ["net-conf.json", "not valid JSON"],
        ),
        (
            "{\"Network\": \"10.244.0.0/16\", \"Backend\": {\"Type\": \"udp\"}}",
            ["Backend.Type", "only \"vxlan\""],
        ),
        (
            "{\"Network\": \"10.244.0.0/16\", \"Backend\": {\"Type\": \"vxlan\", \"DirectRouting\": true}}",
            ["Backend.DirectRouting", "not supported"],
        ),
        (
            "{\"Network\": \"10.244.0.0/16\", \"EnableIPv6\": true, \"Backend\": {\"Type\": \"vxlan\"}}",
            ["EnableIPv6", "not supported"],
        ),
    ] {
        node.write_file(AgentOptions::NET_CONF, conf).unwrap();
        assert_refused(&run(&[]), 1, &parts);
    }
    let version = node.agent_command(&["--version"]).unwrap().success().unwrap();
    assert_eq!(
        version.trim(),
        concat!("overlay-agent ", env!("CARGO_PKG_VERSION"))
    );
    assert!(
        node.run(&format!("ip link show {DEVICE}")).is_err(),
        "nothing was made"
    );

    let agent = node.start_agent(&options()).unwrap();
    assert_refused(
        &run(&[]),
        1,
        &[
            "overlay-agent: error: flannel.1 is already looked after by process",
            "flannel.1.lock",
            "stop it first",
        ],
    );
    wait_for_peers(node, &leases);
    agent.stop().unwrap();
}

#[test]
fn missing_rights_are_named() {
    let testbed = testbed(1);
    let (node, leases) = prepared(&testbed);
    let before = node.run("ip -j link").unwrap();
    // Another user.
    let words = with_files(node, "run", &[]);
    let mut other: Vec<_> = "setpriv --reuid 65534 --regid 65534 --clear-groups"
        .split(' ')
        .collect();
    let binary = agent::binary().unwrap().display().to_string();
    other.push(&binary);
    other.extend(words.iter().map(String::as_str));
    let output = node.space().output_args(&other, None, ANSWER).unwrap();
    assert_refused(
        &output,
        1,
        &["overlay-agent: error:", "/run/overlay-agent", "Permission denied"],
    );
    // Root without the capabilities, as in a container.
    let agent = Started::new(
        node,
        "setpriv --bounding-set -all --inh-caps -all",
        &["--resync", "1"],
    );
    agent.wait_said(&["CAP_NET_ADMIN"]);
    sleep(Duration::from_millis(1500));
    let complaints = agent.complaints();
    assert_eq!(node.run("ip -j link").unwrap(), before);
    assert!(
        complaints.len() <= 3,
        "one for each thing that it may not do: {complaints:#?}"
    );
    agent.stop();
    // With them the work is done.
    let agent = start(node, &leases);
    agent.stop().unwrap();
}
