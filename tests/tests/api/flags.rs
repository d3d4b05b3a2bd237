//! What the agent says about its flags, without any server.

use overlay_testbed::Testbed;
use overlay_testbed::exec::Output;

fn run(arguments: &[&str]) -> Output {
    let testbed = Testbed::builder().nodes(1).pods_per_node(0).build().unwrap();
    testbed.node(1).unwrap().agent_command(arguments).unwrap()
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

/// A node without name is a mistake in the manifest that waiting does not correct.
#[test]
fn a_node_without_name_is_an_error() {
    let output = run(&[
        "run",
        "--kube-subnet-mgr",
        "--kube-api-url=https://192.0.2.1:6443",
        "--net-config-path=/dev/null",
    ]);
    assert!(!output.status.success(), "{output:?}");
}
