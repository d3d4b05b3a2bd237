//! `plan` says what the agent would do, and changes nothing: neither here nor at the API server.

use overlay_testbed::Node;

use crate::agent::{KubeAgent, SUBNET_ENV};
use crate::bed::{DEVICE, KUBECONFIG, NET_CONF, absent, turn};
use crate::peers::{AT_ONCE, wait_peers};

/// What it prints, and its status.
fn plan(node: &Node) -> (String, Option<i32>) {
    let file = |name: &str| node.path(name).display().to_string();
    let words = [
        "plan".to_owned(),
        "--kube-subnet-mgr".to_owned(),
        format!("--node={}", node.name()),
        format!("--kubeconfig-file={}", file(KUBECONFIG)),
        format!("--net-config-path={}", file(NET_CONF)),
        "--detailed-exitcode".to_owned(),
    ];
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let output = node.agent_command(&words).unwrap();
    (output.stdout.clone(), output.status.code())
}

#[test]
fn a_plan_says_what_a_run_would_do() {
    let mut bed = turn();
    let node = bed.machine();
    (1..=2).for_each(|number| bed.create_absent(&absent(number)));

    // Where no agent has been: everything, with the names of the nodes.
    let (text, code) = plan(&node);
    for part in [DEVICE, "absent-1", "absent-2", "nothing was changed"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(code, Some(2), "{text}");
    assert!(node.run(&format!("ip link show {DEVICE}")).is_err());
    assert!(node.read_file(SUBNET_ENV).is_err());
    for verb in ["patch", "update", "create", "delete"] {
        let asked = bed.requests(&node).iter().any(|request| request.verb == verb);
        assert!(!asked, "{:#?}", bed.requests(&node));
    }

    let agent = KubeAgent::start(&node);
    wait_peers(&node, &[absent(1), absent(2)], AT_ONCE);
    // Beside a running agent, and after it.
    assert_eq!(
        plan(&node),
        ("nothing to do: 2 peers in place\n".to_owned(), Some(0))
    );
    agent.stop();
    assert_eq!(
        plan(&node),
        ("nothing to do: 2 peers in place\n".to_owned(), Some(0))
    );

    // One peer's five entries, and the flows that may rely on them; one entry of the other's.
    bed.server.delete_node(&absent(1).node).unwrap();
    node.run(&format!("ip route del {}/24", absent(2).subnet))
        .unwrap();
    let (text, code) = plan(&node);
    let lines: Vec<_> = text.lines().collect();
    let removed = lines.iter().filter(|line| line.starts_with("  - ")).count();
    let added: Vec<_> = lines.iter().filter(|line| line.starts_with("  + ")).collect();
    assert_eq!((removed, added.len(), code), (6, 1, Some(2)), "{text}");
    assert!(added[0].contains("10.244.202.0/24"), "{text}");
}
