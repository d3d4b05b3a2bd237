//! Flags and what they mean.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use log::LevelFilter;
use overlay_common::config;
use overlay_common::flow::DEFAULT_MAX_FLOWS;
use overlay_common::maps::DEFAULT_MAX_PEERS;
use overlay_core::model::MarkMask;

use super::duration;

const NET_CONF: &str = "/etc/kube-flannel/net-conf.json";
const PIN_DIR: &str = "/sys/fs/bpf/overlay";

/// Gives the pods of this node a VXLAN overlay that is compatible with flannel's, carried by eBPF.
///
/// Every peer is also programmed into the kernel's own VXLAN device, exactly as flannel does it, so packets arrive
/// with or without eBPF. Stopping the agent changes nothing: the overlay keeps forwarding. `cleanup` removes it.
#[derive(Debug, Parser)]
#[command(name = "overlay-agent", version, propagate_version = true)]
pub struct Cli {
    /// How much to log on standard error.
    #[arg(
        long,
        global = true,
        env = "OVERLAY_LOG",
        value_name = "off|error|warn|info|debug|trace",
        default_value = "info"
    )]
    pub log: LevelFilter,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep this node's part of the overlay as the leases say, until stopped.
    ///
    /// Creates the device flannel.<VNI> (or adopts flannel's), programs every peer, loads and attaches the eBPF
    /// programs, and repairs what others change. SIGTERM and SIGINT end it with status 0 and leave everything in
    /// place; a restart continues without interrupting traffic.
    Run(NodeArgs),
    /// Print what `run` would change and why; change nothing.
    ///
    /// May be used while an agent runs: what it prints then is what the agent has not got done.
    Plan {
        /// The same flags as `run`.
        #[command(flatten)]
        node: NodeArgs,
        /// Exit with status 2 when something would change, 0 when nothing would, 1 on errors.
        #[arg(long)]
        detailed_exitcode: bool,
    },
    /// Remove everything the agent ever made on this node, and nothing else.
    ///
    /// Detaches the eBPF programs, removes their pins, and deletes the device if the agent made it. A device that
    /// flannel made stays, with its routes. Refuses while an agent runs. May be repeated. Exits with status 1 when
    /// something could not be removed.
    Cleanup(CleanupArgs),
    /// Print peers, traffic and the packet counters of this node's eBPF programs.
    ///
    /// Reads the pinned maps: works whether or not an agent runs.
    Status(StatusArgs),
}

/// Flags of `run` and `plan`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The leases of all nodes: a YAML file, or a directory of *.yaml and *.yml files. Changes are followed.
    ///
    /// While any of it is broken or missing, the last good list stays in force. `leases: []` means none.
    #[arg(long, value_name = "PATH")]
    pub leases: PathBuf,
    /// Name of this node: its own lease is found by it.
    #[arg(long, env = "NODE_NAME", value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub node: String,
    /// flannel's network configuration: pod network, VNI, port, MTU.
    #[arg(long, value_name = "FILE", default_value = NET_CONF)]
    pub net_config_path: PathBuf,
    /// Device that encapsulated packets leave by. Without it: the one with the default route.
    #[arg(long, value_name = "NAME")]
    pub iface: Option<String>,
    /// Who carries overlay packets: eBPF programs with the kernel's device as fallback, or that device alone.
    #[arg(long, value_enum, default_value_t = DataplaneArg::Ebpf)]
    pub dataplane: DataplaneArg,
    /// How eBPF programs are attached: tcx needs Linux 6.6, clsact works everywhere; auto tries.
    #[arg(long, value_enum, default_value_t = Attach::Auto)]
    pub attach: Attach,
    /// Directory on a bpffs where maps, programs and links are pinned.
    #[arg(long, value_name = "DIR", default_value = PIN_DIR)]
    pub pin_dir: PathBuf,
    /// Compare everything with the kernel at least this often, even when nothing seems to have changed.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(1..=86_400))]
    pub resync: u64,
    /// What the eBPF programs log: errors are packets lost after they were modified; refusals are every tunnel packet
    /// that fails the peer check (for debugging: whoever sends them controls the rate).
    #[arg(long, value_enum, default_value_t = EbpfLog::Errors)]
    pub ebpf_log: EbpfLog,
    /// Capacity of the eBPF maps. Changing it replaces them.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_PEERS, value_parser = value_parser!(u32).range(1..=1_048_576))]
    pub max_peers: u32,
    /// Whether established flows between pods may skip the host's stack.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub fastpath: Switch,
    /// The bits of a packet's mark that the fast path uses while it learns: at least 8, adjacent, that nobody else on
    /// the node uses (kube-proxy uses 0xc000).
    #[arg(long, value_name = "MASK", default_value_t = MarkMask::DEFAULT)]
    pub flow_mark_mask: MarkMask,
    /// How often a flow on the fast path is compared with what the host's stack would do: 50ms to 8s. Changes of rules,
    /// routes and services take effect for established flows within three times this.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration::revalidate)]
    pub flow_revalidate: Duration,
    /// How many flows the fast path has room for, each way; the least recently used one makes room for a new one. Takes
    /// about 0.45 KB of kernel memory for each. Changing it replaces the maps.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_FLOWS, value_parser = value_parser!(u32).range(1024..=1_048_576))]
    pub max_flows: u32,
}

/// Flags of `cleanup`.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// flannel's network configuration, which names the VNI. Without the file, VNI 1 is assumed.
    #[arg(long, value_name = "FILE", conflicts_with = "vni")]
    pub net_config_path: Option<PathBuf>,
    /// VNI of the overlay to remove: the device is flannel.<VNI>.
    #[arg(long, value_name = "VNI", value_parser = value_parser!(u32).range(1..=0xff_ffff))]
    pub vni: Option<u32>,
    /// Directory on a bpffs where maps, programs and links are pinned.
    #[arg(long, value_name = "DIR", default_value = PIN_DIR)]
    pub pin_dir: PathBuf,
}

impl CleanupArgs {
    /// Where the network configuration is when no flag says so.
    pub const DEFAULT_NET_CONF: &str = NET_CONF;
}

/// Flags of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Directory on a bpffs where maps, programs and links are pinned.
    #[arg(long, value_name = "DIR", default_value = PIN_DIR)]
    pub pin_dir: PathBuf,
    /// Print counters that are zero as well.
    #[arg(long)]
    pub all: bool,
    /// Print JSON (with every counter).
    #[arg(long)]
    pub json: bool,
}

/// `--dataplane`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum DataplaneArg {
    /// eBPF programs, the kernel's VXLAN device as fallback
    Ebpf,
    /// The kernel's VXLAN device alone, as flannel does
    Kernel,
}

/// `--fastpath`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Switch {
    /// Where the node allows it
    On,
    /// Every packet goes through the host's stack
    Off,
}

/// `--attach`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Attach {
    /// tcx where the kernel has it, else clsact
    Auto,
    /// TCX links (Linux 6.6)
    Tcx,
    /// Filters on a clsact qdisc
    Clsact,
}

/// `--ebpf-log`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum EbpfLog {
    /// Nothing
    Off,
    /// Packets lost after they were modified
    Errors,
    /// Also every tunnel packet that fails the peer check
    Refusals,
}

impl From<DataplaneArg> for overlay_core::model::Dataplane {
    fn from(arg: DataplaneArg) -> Self {
        match arg {
            DataplaneArg::Ebpf => Self::Ebpf,
            DataplaneArg::Kernel => Self::Kernel,
        }
    }
}

impl EbpfLog {
    /// The level in the configuration map.
    #[must_use]
    pub const fn level(self) -> u32 {
        match self {
            Self::Off => config::LOG_OFF,
            Self::Errors => config::LOG_ERRORS,
            Self::Refusals => config::LOG_REFUSALS,
        }
    }
}

#[cfg(test)]
mod tests {
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
            args.net_config_path,
            PathBuf::from("/etc/kube-flannel/net-conf.json")
        );
        assert_eq!(args.pin_dir, PathBuf::from("/sys/fs/bpf/overlay"));
        assert_eq!(
            (args.dataplane, args.attach, args.ebpf_log),
            (DataplaneArg::Ebpf, Attach::Auto, EbpfLog::Errors)
        );
        assert_eq!(
            (args.resync, args.max_peers, args.iface),
            (60, DEFAULT_MAX_PEERS, None)
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
            assert_eq!(args.iface.as_deref(), Some("eth1"));
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
}
