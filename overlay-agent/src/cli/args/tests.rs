use clap::CommandFactory;
use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn run(line: &str) -> NodeArgs {
    match parse(line).unwrap().command {
        Command::Run(args) | Command::Plan { node: args, .. } => args,
        Command::Cleanup(_) | Command::Status(_) => panic!("not run: {line}"),
    }
}

fn error(line: &str) -> (ErrorKind, i32, String) {
    let error = parse(line).unwrap_err();
    (error.kind(), error.exit_code(), error.to_string())
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn run_has_flannels_defaults() {
    let args = run("overlay-agent run --leases /l --node worker-1");
    assert_eq!(
        args.flannel.net_config_path,
        PathBuf::from("/etc/kube-flannel/net-conf.json")
    );
    assert_eq!(args.pin_dir, PathBuf::from("/sys/fs/bpf/overlay"));
    assert_eq!(
        (args.dataplane, args.attach, args.ebpf_log),
        (DataplaneArg::Ebpf, Attach::Auto, EbpfLog::Errors)
    );
    assert_eq!(
        (args.resync, args.max_peers, args.flannel.iface),
        (60, DEFAULT_MAX_PEERS, vec![])
    );
    assert_eq!(
        (
            args.fastpath,
            args.flow_mark_mask,
            args.flow_revalidate,
            args.max_flows
        ),
        (
            Switch::On,
            MarkMask::DEFAULT,
            Duration::from_secs(1),
            DEFAULT_MAX_FLOWS
        )
    );
    let args = run(
        "overlay-agent run --leases /l --node n --fastpath=off --flow-mark-mask 16711680 --flow-revalidate 500ms \
         --max-flows 2048",
    );
    assert_eq!(
        (
            args.fastpath,
            args.flow_mark_mask.bits(),
            args.flow_revalidate,
            args.max_flows
        ),
        (Switch::Off, 0x00ff_0000, Duration::from_millis(500), 2048)
    );
}

#[test]
fn plan_takes_the_flags_of_run() {
    let flags = "--leases /l --node n --net-config-path /c --iface eth1 --dataplane kernel --attach clsact \
                 --pin-dir /p --resync 5 --ebpf-log refusals --max-peers 7";
    for verb in ["run", "plan"] {
        let args = run(&format!("overlay-agent {verb} {flags}"));
        assert_eq!(args.flannel.iface, ["eth1"]);
        assert_eq!(
            (args.dataplane, args.attach),
            (DataplaneArg::Kernel, Attach::Clsact)
        );
        assert_eq!(
            (args.resync, args.max_peers, args.ebpf_log.level()),
            (5, 7, config::LOG_REFUSALS)
        );
    }
}

#[test]
fn a_misspelt_flag_is_status_2_with_a_suggestion() {
    let (kind, code, text) = error("overlay-agent run --lease /l --node n");
    assert_eq!((kind, code), (ErrorKind::UnknownArgument, 2));
    assert!(text.contains("--leases"), "{text}");
}

#[test]
fn bad_values_name_the_flag_and_what_is_allowed() {
    for (flag, allowed) in [
        ("--resync 0", "1..=86400"),
        ("--resync soon", "invalid digit"),
        ("--max-peers 0", "1..=1048576"),
        ("--fastpath maybe", "possible values: on, off"),
        ("--flow-mark-mask 0xf00f", "adjacent"),
        ("--flow-mark-mask 0x7f", "at least 8"),
        ("--flow-revalidate 10s", "50ms..=8s"),
        ("--flow-revalidate 1", "500ms"),
        ("--max-flows 1000", "1024..=1048576"),
        ("--dataplane xdp", "possible values: ebpf, kernel"),
        ("--attach tc", "possible values: auto, tcx, clsact"),
        ("--ebpf-log all", "possible values: off, errors, refusals"),
    ] {
        let (_, code, text) = error(&format!("overlay-agent run --leases /l --node n {flag}"));
        let name = flag.split(' ').next().unwrap();
        assert!(
            code == 2 && text.contains(name) && text.contains(allowed),
            "{text}"
        );
    }
    assert!(
        error("overlay-agent cleanup --vni 16777216")
            .2
            .contains("1..=16777215")
    );
    assert!(error("overlay-agent --log loud status").2.contains("--log"));
}

#[test]
fn cleanup_and_status_need_nothing() {
    assert!(matches!(
        parse("overlay-agent cleanup").unwrap().command,
        Command::Cleanup(_)
    ));
    assert!(matches!(
        parse("overlay-agent status --json").unwrap().command,
        Command::Status(_)
    ));
}

#[test]
fn the_log_level_may_stand_anywhere() {
    for line in [
        "overlay-agent --log debug status",
        "overlay-agent status --log debug",
    ] {
        assert_eq!(parse(line).unwrap().log, LevelFilter::Debug);
    }
}
