//! What the agent says about its flags, without any server.

use overlay_testbed::exec::Output;
use overlay_testbed::{AgentOptions, Testbed};

fn run(arguments: &[&str]) -> Output {
    let testbed = Testbed::builder().nodes(1).pods_per_node(0).build().unwrap();
    let node = testbed.node(1).unwrap();
    let options = AgentOptions::default();
    node.write_file(AgentOptions::NET_CONF, &options.net_conf)
        .unwrap();
    let config = format!(
        "--net-config-path={}",
        node.path(AgentOptions::NET_CONF).display()
    );
    let more = arguments.contains(&"run").then_some(config.as_str());
    let arguments: Vec<_> = arguments.iter().copied().chain(more).collect();
    node.agent_command(&arguments).unwrap()
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
    let output = run(&[
        "run",
        "--kube-subnet-mgr",
        "--kube-api-url=https://192.0.2.1:6443",
    ]);
    assert!(!output.status.success(), "{output:?}");
    for variable in ["NODE_NAME", "POD_NAME", "POD_NAMESPACE"] {
        assert!(output.stderr.contains(variable), "{}", output.stderr);
    }
}
