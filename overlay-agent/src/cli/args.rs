//! Flags and what they mean.

mod flannel;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use log::LevelFilter;
use overlay_common::config;
use overlay_common::flow::DEFAULT_MAX_FLOWS;
use overlay_common::maps::DEFAULT_MAX_PEERS;
use overlay_core::model::MarkMask;

use self::flannel::NET_CONF;
pub use self::flannel::{FlannelArgs, Optional};
use super::duration;

const PIN_DIR: &str = "/sys/fs/bpf/overlay";

/// Gives the pods of this node a VXLAN overlay that is compatible with flannel's, carried by eBPF.
///
/// Every peer is also programmed into the kernel's own VXLAN device, exactly as flannel does it, so packets arrive
/// with or without eBPF. Stopping the agent changes nothing: the overlay keeps forwarding. `cleanup` removes it.
#[derive(Debug, Parser)]
#[command(name = "overlay-agent", version, propagate_version = true)]
pub struct Cli {
    /// How much to log on standard error. Without it --v decides.
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
    ///
    /// Flags of flannel that are not given are taken from the environment: --kube-api-url from FLANNELD_KUBE_API_URL, and
    /// so on. What is empty there counts as not given. Of a flag that is repeated the last one counts.
    #[command(args_override_self = true)]
    Run(NodeArgs),
    /// Print what `run` would change and why; change nothing.
    ///
    /// May be used while an agent runs: what it prints then is what the agent has not got done.
    #[command(args_override_self = true)]
    Plan {
        /// Exit with status 2 when something would change, 0 when nothing would, 1 on errors.
        #[arg(long)]
        detailed_exitcode: bool,
        /// The same flags as `run`.
        #[command(flatten)]
        node: NodeArgs,
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
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// The leases of all nodes: a YAML file, or a directory of *.yaml and *.yml files. Changes are followed. Instead of
    /// --kube-subnet-mgr.
    ///
    /// While any of it is broken or missing, the last good list stays in force. `leases: []` means none.
    #[arg(long, value_name = "PATH")]
    pub leases: Option<PathBuf>,
    /// Name of this node: its own lease is found by it. Without it the environment variable NODE_NAME, or, with
    /// --kube-subnet-mgr, the node of the pod that POD_NAME and POD_NAMESPACE name.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub node: Option<String>,
    /// Name of the agent's own pod.
    #[arg(skip)]
    pub pod: PodName,
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
    /// about 0.42 KB of kernel memory for each. Changing it replaces the maps.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_FLOWS, value_parser = value_parser!(u32).range(1024..=1_048_576))]
    pub max_flows: u32,
    /// flannel's own.
    #[command(flatten)]
    pub flannel: FlannelArgs,
}

/// `POD_NAME` and `POD_NAMESPACE`, where a manifest sets them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PodName {
    /// Name of the agent's own pod.
    pub name: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
}

/// Where leases come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source<'a> {
    /// `--leases`.
    File(&'a Path),
    /// `--kube-subnet-mgr`.
    Kubernetes,
}

impl NodeArgs {
    /// Where leases come from.
    ///
    /// # Errors
    ///
    /// When the flags say both or neither.
    pub fn source(&self) -> Result<Source<'_>, String> {
        match (&self.leases, self.flannel.kube_subnet_mgr) {
            (Some(path), false) => Ok(Source::File(path)),
            (None, true) => Ok(Source::Kubernetes),
            (Some(_), true) => Err(
                "--leases and --kube-subnet-mgr exclude each other: leases come from files or from Kubernetes. Leave one out \
                 (FLANNELD_KUBE_SUBNET_MGR in the environment counts, too)"
                    .to_owned(),
            ),
            (None, false) => Err(
                "no source of leases. Without --kube-subnet-mgr flannel takes them from etcd, which is not supported by this \
                 version: give --kube-subnet-mgr to take them from Kubernetes, or --leases PATH to read them from files"
                    .to_owned(),
            ),
        }
    }
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
mod tests;
