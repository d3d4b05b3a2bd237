//! What the agent says about its flags, without any server.

use overlay_testbed::exec::Output;
use overlay_testbed::{AgentOptions, Testbed};

fn testbed() -> Testbed {
    Testbed::builder().nodes(1).pods_per_node(0).build().unwrap()
}

fn run(arguments: &[&str]) -> Output {
    testbed().node(1).unwrap().agent_command(arguments).unwrap()
}

/// flannel exits with 0 after an unknown flag, and manifests with a typing error seem to work.
#[test]
fn an_unknown_flag_is_an_error_with_a_suggestion() {
    let output = run(&["run", "--kube-subnet-mrg"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stderr.contains("--kube-subnet-mgr"), "{}", output.stderr);
}

#[test]
fn the_version_needs_nothing_else() {
    let output = run(&["--version"]);
    assert!(
        output.status.success() && output.stdout.contains("overlay-agent"),
        "{output:?}"
    );
}

/// A node without name is a mistake in the manifest that waiting does not correct. Seen red with an empty name instead.
#[test]
fn a_node_without_name_is_an_error() {
    let testbed = testbed();
    let node = testbed.node(1).unwrap();
    let config = AgentOptions::default().net_conf;
    node.write_file(AgentOptions::NET_CONF, &config).unwrap();
    let path = node.path(AgentOptions::NET_CONF);
    let output = node
        .agent_command(&[
            "run",
            "--kube-subnet-mgr",
            "--kube-api-url=https://192.0.2.1:6443",
            &format!("--net-config-path={}", path.display()),
        ])
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    for variable in ["NODE_NAME", "POD_NAME", "POD_NAMESPACE"] {
        assert!(output.stderr.contains(variable), "{}", output.stderr);
    }
}
