mod every_flag;

use clap::error::ErrorKind;
use log::{Level, LevelFilter};

use super::*;

const KUBE: &str = "overlay-agent run --kube-subnet-mgr";

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

fn read(line: &str, variables: &[(&str, &str)]) -> Result<Parsed, Error> {
    let arguments = line.split_whitespace().map(OsString::from).collect();
    parse(arguments, &environment(variables))
}

fn node_args(line: &str, variables: &[(&str, &str)]) -> NodeArgs {
    match read(line, variables).unwrap().cli.command {
        Command::Run(args) | Command::Plan { node: args, .. } => args,
        Command::Cleanup(_) | Command::Status(_) => panic!("{line}"),
    }
}

fn fails(line: &str, variables: &[(&str, &str)]) -> (ErrorKind, String) {
    let error = read(line, variables).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    (error.kind(), error.to_string())
}

fn notes(line: &str, variables: &[(&str, &str)], level: Level) -> Vec<String> {
    let notes = read(line, variables).unwrap().notes;
    notes
        .into_iter()
        .filter(|note| note.level == level)
        .map(|note| note.text)
        .collect()
}

#[test]
fn booleans_need_no_value_and_take_one_after_an_equals_sign() {
    for (flags, expected) in [
        ("", false),
        ("--ip-masq", true),
        ("--ip-masq=false", false),
        ("--ip-masq=1", true),
        ("--ip-masq --ip-masq=f", false),
    ] {
        assert_eq!(
            node_args(&format!("{KUBE} {flags}"), &[]).flannel.ip_masq,
            expected,
            "{flags}"
        );
    }
    let (kind, text) = fails("overlay-agent run --ip-masq true --kube-subnet-mgr", &[]);
    assert_eq!(kind, ErrorKind::UnknownArgument);
    assert!(
        text.contains("'true'") && text.contains("--ip-masq=true"),
        "{text}"
    );
    let (_, text) = fails(&format!("{KUBE} --ip-masq="), &[]);
    assert!(text.contains("--ip-masq"), "{text}");
}

#[test]
fn repeated_flags_add_up_or_the_last_one_counts() {
    let args = node_args(
        &format!(
            "{KUBE} --iface eth0 --iface=10.0.0.1 --iface-regex a --iface-regex=b --healthz-port 1 --healthz-port=2"
        ),
        &[],
    );
    assert_eq!(args.flannel.iface, ["eth0", "10.0.0.1"]);
    assert_eq!(
        (args.flannel.iface_regex.len(), args.flannel.healthz_port),
        (2, 2)
    );
    // One element, as flannel takes it.
    let args = node_args(KUBE, &[("FLANNELD_IFACE", "eth0,eth1")]);
    assert_eq!(args.flannel.iface, ["eth0,eth1"]);
    let args = node_args(&format!("{KUBE} --iface eth2"), &[("FLANNELD_IFACE", "eth0")]);
    assert_eq!(args.flannel.iface, ["eth2"]);
}

#[test]
fn interface_flags_become_a_choice() {
    let line = format!(
        "{KUBE} --iface eth0 --iface= --iface-regex=^e --iface-regex= --iface-can-reach 8.8.8.8 --public-ip 1.2.3.4"
    );
    let flannel = node_args(&line, &[]).flannel;
    let choice = flannel.interface_choice(None, "flannel.1");
    assert_eq!(choice.interfaces, ["eth0"]);
    assert_eq!(
        choice.regexes.len(),
        1,
        "an empty expression is none, not one that fits everything"
    );
    assert_eq!(choice.can_reach, Some([8, 8, 8, 8].into()));
    assert_eq!(choice.public_ip, Some([1, 2, 3, 4].into()));
    assert_eq!(choice.except.as_deref(), Some("flannel.1"));
    let choice = flannel.interface_choice(Some([5, 6, 7, 8].into()), "flannel.1");
    assert_eq!(
        choice.public_ip,
        Some([5, 6, 7, 8].into()),
        "the Node's annotation counts more"
    );
}

#[test]
fn there_is_exactly_one_source() {
    let (_, text) = fails("overlay-agent run --leases /l --node n --kube-subnet-mgr", &[]);
    assert!(text.contains("exclude each other"), "{text}");
    let (_, text) = fails(
        "overlay-agent run --leases /l --node n",
        &[("FLANNELD_KUBE_SUBNET_MGR", "true")],
    );
    assert!(text.contains("FLANNELD_KUBE_SUBNET_MGR"), "{text}");
    for line in [
        "overlay-agent run",
        "overlay-agent plan",
        "overlay-agent run --node n --kube-subnet-mgr=false",
    ] {
        let (_, text) = fails(line, &[]);
        for part in [
            "etcd",
            "not supported by this version",
            "--kube-subnet-mgr",
            "--leases",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
    assert!(
        node_args(
            "overlay-agent run --leases /l --node n --kube-subnet-mgr=false",
            &[]
        )
        .source()
        .is_ok()
    );
    let (_, text) = fails("overlay-agent run --leases /l", &[("NODE_NAME", "")]);
    assert!(text.contains("--node") && text.contains("NODE_NAME"), "{text}");
}

#[test]
fn the_node_and_the_pod_come_from_the_environment() {
    let pod = [
        ("POD_NAME", "agent-x"),
        ("POD_NAMESPACE", "kube-flannel"),
        ("NODE_NAME", "w1"),
    ];
    let args = node_args(KUBE, &pod);
    assert_eq!(args.node.as_deref(), Some("w1"));
    assert_eq!(
        (args.pod.name.as_deref(), args.pod.namespace.as_deref()),
        (Some("agent-x"), Some("kube-flannel"))
    );
    assert_eq!(
        node_args(&format!("{KUBE} --node w2"), &pod).node.as_deref(),
        Some("w2")
    );
    let args = node_args(KUBE, &[("NODE_NAME", ""), ("POD_NAME", "")]);
    assert_eq!((args.node, args.pod), (None, PodName::default()));
}

#[test]
fn one_dash_is_answered_with_two() {
    for (flag, advice) in [
        ("-iface=eth0", "--iface=eth0"),
        ("-v=4", "--v=4"),
        ("-healthz-port=8081", "--healthz-port=8081"),
        ("-kube-subnet-mgr", "--kube-subnet-mgr"),
        ("-version", "--version"),
        ("-help", "--help"),
        ("-vmodule=a=1", "--vmodule=a=1"),
    ] {
        for line in [
            format!("overlay-agent run {flag}"),
            format!("overlay-agent {flag}"),
        ] {
            let (kind, text) = fails(&line, &[]);
            assert_eq!(kind, ErrorKind::UnknownArgument);
            assert!(text.contains(&format!("'{advice}'")), "{text}");
        }
    }
    let help = read("overlay-agent run -h", &[]).unwrap_err();
    assert_eq!((help.kind(), help.exit_code()), (ErrorKind::DisplayHelp, 0));
}

#[test]
fn an_unknown_flag_is_an_error_with_a_suggestion() {
    for (flag, suggestion) in [
        ("--kube-subnet-manager", "--kube-subnet-mgr"),
        ("--ifaces=a", "--iface"),
        ("--publicip", "--public-ip"),
    ] {
        let (kind, text) = fails(&format!("{KUBE} {flag}"), &[]);
        assert_eq!(kind, ErrorKind::UnknownArgument);
        assert!(text.contains(suggestion), "{text}");
    }
}

#[test]
fn the_version_needs_nothing_else() {
    for line in [
        "overlay-agent --version",
        "overlay-agent run --version",
        "overlay-agent run --version --leases /l",
    ] {
        let version = read(line, &[("FLANNELD_HEALTHZ_PORT", "x")]).unwrap_err();
        assert_eq!(
            (version.kind(), version.exit_code()),
            (ErrorKind::DisplayVersion, 0),
            "{line}"
        );
        assert!(version.to_string().contains(env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn what_is_not_done_is_said_once_when_it_was_asked_for() {
    assert_eq!(
        notes(KUBE, &[("NODE_NAME", "n")], Level::Warn),
        [""; 0],
        "nothing at the defaults"
    );
    let shipped = notes(
        "overlay-agent run --ip-masq --kube-subnet-mgr --healthz-port=8081",
        &[],
        Level::Warn,
    );
    assert!(
        shipped.len() == 1
            && shipped[0].starts_with("--ip-masq: masquerading rules are not managed by this version"),
        "{shipped:?}"
    );
    for (flags, words) in [
        ("--ip-masq", "MASQUERADE"),
        ("--ip-masq-fully-random-disable", "no effect"),
        ("--iptables-forward-rules", "FORWARD"),
        ("--iptables-forward-rules=true", "FORWARD"),
        ("--ip-blackhole-route", "blackhole"),
        ("--iptables-resync=5", "no effect"),
        (
            "--etcd-password=p --etcd-username u",
            "--etcd-username, --etcd-password: no effect",
        ),
        (
            "--vmodule=a=1 --log_backtrace_at x:1",
            "--vmodule, --log_backtrace_at: no effect",
        ),
        ("--public-ipv6 fd00::1", "IPv4 overlays only"),
        ("--subnet-lease-renew-margin 30", "do not expire"),
    ] {
        let said = notes(&format!("{KUBE} {flags}"), &[], Level::Warn);
        assert!(said.len() == 1 && said[0].contains(words), "{flags}: {said:?}");
        assert!(!said[0].contains("=p"), "{said:?}");
    }
    for flags in [
        "--ip-masq=false",
        "--iptables-forward-rules=false",
        "--ip-blackhole-route=0",
        "--etcd-password=",
        "--kube-api-url=https://a",
    ] {
        assert_eq!(
            notes(&format!("{KUBE} {flags}"), &[], Level::Warn),
            [""; 0],
            "{flags}"
        );
    }
    let by_environment = notes(
        KUBE,
        &[("FLANNELD_IP_MASQ", "true"), ("FLANNELD_ETCD_PREFIX", "/x")],
        Level::Warn,
    );
    assert_eq!(by_environment.len(), 2, "{by_environment:?}");
    let files = notes(
        "overlay-agent run --leases /l --node n --kube-api-url https://a",
        &[],
        Level::Warn,
    );
    assert!(
        files.len() == 1 && files[0].contains("no effect with --leases"),
        "{files:?}"
    );
    let misspelt = notes(KUBE, &[("FLANNELD_IPMASQ", "true")], Level::Warn);
    assert!(
        misspelt.len() == 1 && misspelt[0].contains("FLANNELD_IPMASQ"),
        "{misspelt:?}"
    );
    let manifest = [
        ("EVENT_QUEUE_DEPTH", "5000"),
        ("CONT_WHEN_CACHE_NOT_READY", "false"),
    ];
    assert_eq!(notes(KUBE, &manifest, Level::Warn), [""; 0]);
    assert_eq!(notes(KUBE, &manifest, Level::Debug).len(), 2);
}

#[test]
fn the_flags_in_force_are_logged_without_secrets() {
    let line =
        format!("{KUBE} --iface a --iface b --etcd-password secret --kube-api-url https://u:secret@api:6443");
    let said = notes(&line, &[("FLANNELD_ETCD_USERNAME", "me")], Level::Info);
    assert_eq!(said.len(), 1);
    for part in [
        "CLI flags config: ",
        " iface=[a b]",
        " kube-subnet-mgr=true",
        " healthz-port=0",
        " etcd-username=me",
        " etcd-password=<redacted>",
        " kube-api-url=https://<redacted>@api:6443",
    ] {
        assert!(said[0].contains(part), "{part}: {said:?}");
    }
    assert!(!said[0].contains("secret"), "{said:?}");
    assert!(
        !notes(KUBE, &[], Level::Info)[0].contains("etcd-password"),
        "what is empty is not shown"
    );
    assert_eq!(
        notes("overlay-agent plan --leases /l --node n", &[], Level::Info),
        [""; 0]
    );
}

#[test]
fn verbosity_is_flannels_unless_the_log_level_is_said() {
    for (flags, level) in [
        ("", LevelFilter::Info),
        ("--v=1", LevelFilter::Info),
        ("--v 2", LevelFilter::Debug),
        ("--v=5", LevelFilter::Debug),
        ("--v=10", LevelFilter::Trace),
        ("--v=-1", LevelFilter::Info),
        ("--v=10 --log warn", LevelFilter::Warn),
    ] {
        assert_eq!(
            read(&format!("{KUBE} {flags}"), &[]).unwrap().level,
            level,
            "{flags}"
        );
    }
    assert_eq!(
        read(KUBE, &[("FLANNELD_V", "6")]).unwrap().level,
        LevelFilter::Trace
    );
    assert_eq!(
        read("overlay-agent --log error status", &[]).unwrap().level,
        LevelFilter::Error
    );
}
