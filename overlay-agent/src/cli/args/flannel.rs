//! flannel's flags (flannel v0.28.9, main.go), with its names, meanings and defaults.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{ArgAction, Args, value_parser};
use overlay_core::kube::{DEFAULT_PREFIX, Keys};

use crate::netlink::{InterfaceChoice, InterfaceRegex};

pub(super) const NET_CONF: &str = "/etc/kube-flannel/net-conf.json";
const SUBNET_FILE: &str = "/run/flannel/subnet.env";

/// flannel's flags.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Flags of flannel (BOOL: nothing, =true or =false)")]
pub struct FlannelArgs {
    /// Take leases from Kubernetes: the annotations of its Nodes. Publishes this node's own.
    #[arg(long, value_name = "BOOL", value_parser = boolean, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub kube_subnet_mgr: bool,
    /// URL of the API server. Without it, what the kubeconfig file says, or the one of the cluster that the agent runs in.
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    pub kube_api_url: String,
    /// kubeconfig file with the way to the API server. Without it, the service account of the agent's pod.
    #[arg(long, value_name = "FILE", default_value = "", hide_default_value = true)]
    pub kubeconfig_file: String,
    /// What the keys of the Nodes' annotations begin with.
    #[arg(long, value_name = "PREFIX", default_value = DEFAULT_PREFIX, value_parser = annotation_prefix)]
    pub kube_annotation_prefix: Keys,
    /// Whether to clear the condition NetworkUnavailable of the own Node once its overlay works.
    #[arg(long, value_name = "BOOL", value_parser = boolean, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub set_node_network_unavailable: bool,
    /// flannel's network configuration: pod network, VNI, port, MTU.
    #[arg(long, value_name = "FILE", default_value = NET_CONF)]
    pub net_config_path: PathBuf,
    /// Interface that encapsulated packets leave by: a name, or an address of it. May be repeated, the first that fits is
    /// taken. Without any of these four flags: the one with the default route.
    #[arg(long, value_name = "NAME|IP", action = ArgAction::Append)]
    pub iface: Vec<String>,
    /// Regular expression for an address or the name of the interface, anywhere in it; tried after --iface. May be repeated.
    #[arg(long, value_name = "REGEX", action = ArgAction::Append, value_parser = optional::<InterfaceRegex>)]
    pub iface_regex: Vec<Optional<InterfaceRegex>>,
    /// The interface that the node's routes take to this address; tried last.
    #[arg(long, value_name = "IP", default_value = "", hide_default_value = true, value_parser = optional::<IpAddr>)]
    pub iface_can_reach: Optional<IpAddr>,
    /// Address that other nodes send to, if it is not the interface's own, as behind address translation. Without any flag
    /// --iface...: also names the interface.
    #[arg(long, value_name = "IP", default_value = "", hide_default_value = true, value_parser = optional::<Ipv4Addr>)]
    pub public_ip: Optional<Ipv4Addr>,
    /// The same for IPv6. Not used by this version.
    #[arg(long, value_name = "IP", default_value = "", hide_default_value = true, value_parser = optional::<Ipv6Addr>)]
    pub public_ipv6: Optional<Ipv6Addr>,
    /// File for the CNI plugin that says which subnet and MTU pods get [default: /run/flannel/subnet.env; with --leases: none]
    #[arg(long, value_name = "FILE")]
    pub subnet_file: Option<PathBuf>,
    /// Address to serve /healthz and /readyz on.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0", value_parser = optional::<IpAddr>)]
    pub healthz_ip: Optional<IpAddr>,
    /// Port to serve /healthz and /readyz on; 0: they are not served.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub healthz_port: u16,
    /// Said to the CNI plugin in subnet.env. The rules themselves are not made by this version.
    #[arg(long, value_name = "BOOL", value_parser = boolean, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub ip_masq: bool,
    /// Not used by this version.
    #[arg(long, value_name = "BOOL", value_parser = boolean, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub ip_masq_fully_random_disable: bool,
    /// Not used by this version.
    #[arg(long, value_name = "BOOL", value_parser = boolean, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub iptables_forward_rules: bool,
    /// Not used by this version.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub iptables_resync: u32,
    /// Not used by this version.
    #[arg(long, value_name = "BOOL", value_parser = boolean, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub ip_blackhole_route: bool,
    /// Not used by this version: leases from Kubernetes do not expire.
    #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = value_parser!(u32).range(1..=1439))]
    pub subnet_lease_renew_margin: u32,
    /// How much to log, as flannel counts it: 2 and more is debug, 6 and more is trace. --log counts more.
    #[arg(long = "v", value_name = "N", default_value_t = 0)]
    pub v: i32,
    /// Not used by this version.
    #[arg(long, value_name = "PATTERNS", default_value = "", hide_default_value = true)]
    pub vmodule: String,
    /// Not used by this version.
    #[arg(long = "log_backtrace_at", value_name = "FILE:LINE", default_value = ":0")]
    pub log_backtrace_at: String,
    /// Not used by this version, like the other flags for etcd.
    #[arg(
        long,
        value_name = "URLS",
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379",
        hide_default_value = true
    )]
    pub etcd_endpoints: String,
    /// Not used by this version.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/coreos.com/network",
        hide_default_value = true
    )]
    pub etcd_prefix: String,
    /// Not used by this version.
    #[arg(long, value_name = "FILE", default_value = "", hide_default_value = true)]
    pub etcd_keyfile: String,
    /// Not used by this version.
    #[arg(long, value_name = "FILE", default_value = "", hide_default_value = true)]
    pub etcd_certfile: String,
    /// Not used by this version.
    #[arg(long, value_name = "FILE", default_value = "", hide_default_value = true)]
    pub etcd_cafile: String,
    /// Not used by this version.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub etcd_username: String,
    /// Not used by this version.
    #[arg(long, value_name = "PASSWORD", default_value = "", hide_default_value = true)]
    pub etcd_password: String,
}

/// A value that counts as not given when it is empty, as flannel's do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Optional<T>(pub Option<T>);

impl FlannelArgs {
    /// How the underlay interface is found: `public_ip` counts as `--public-ip`, and `device` is the overlay's own.
    #[must_use]
    pub fn interface_choice(&self, public_ip: Option<Ipv4Addr>, device: &str) -> InterfaceChoice {
        let given = |text: &&String| !text.is_empty();
        InterfaceChoice {
            interfaces: self.iface.iter().filter(given).cloned().collect(),
            regexes: self
                .iface_regex
                .iter()
                .filter_map(|regex| regex.0.clone())
                .collect(),
            can_reach: self.iface_can_reach.0,
            public_ip: public_ip.or(self.public_ip.0).map(IpAddr::V4),
            except: Some(device.to_owned()),
        }
    }

    /// `--kube-api-url`, if given.
    #[must_use]
    pub fn api_url(&self) -> Option<&str> {
        Some(self.kube_api_url.as_str()).filter(|url| !url.is_empty())
    }

    /// `--kubeconfig-file`, if given.
    #[must_use]
    pub fn kubeconfig(&self) -> Option<&Path> {
        Some(Path::new(&self.kubeconfig_file)).filter(|path| !path.as_os_str().is_empty())
    }

    /// Where subnet.env is in Kubernetes mode.
    #[must_use]
    pub fn subnet_file_or_default(&self) -> &Path {
        self.subnet_file.as_deref().unwrap_or(Path::new(SUBNET_FILE))
    }

    /// Where health is served; `None`: nowhere.
    #[must_use]
    pub fn healthz(&self) -> Option<SocketAddr> {
        let ip = self.healthz_ip.0.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        (self.healthz_port != 0).then(|| SocketAddr::new(ip, self.healthz_port))
    }

    /// What `--v` says: flannel's own messages are at 0 to 2.
    #[must_use]
    pub const fn log_level(&self) -> log::LevelFilter {
        match self.v {
            6.. => log::LevelFilter::Trace,
            2.. => log::LevelFilter::Debug,
            _ => log::LevelFilter::Info,
        }
    }
}

/// As Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("expected true or false (or 1, t, T, True, TRUE, 0, f, F, False, FALSE)".to_owned()),
    }
}

fn optional<T: Expected>(text: &str) -> Result<Optional<T>, String> {
    if text.is_empty() {
        return Ok(Optional(None));
    }
    T::read(text).map(|value| Optional(Some(value)))
}

/// A value, and what to say when a text is none.
trait Expected: Sized {
    fn read(text: &str) -> Result<Self, String>;
}

impl Expected for IpAddr {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| "expected an IP address, like 192.168.0.1".to_owned())
    }
}

impl Expected for Ipv4Addr {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| "expected an IPv4 address, like 192.168.0.1".to_owned())
    }
}

impl Expected for Ipv6Addr {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| "expected an IPv6 address, like fd00::1".to_owned())
    }
}

impl Expected for InterfaceRegex {
    fn read(text: &str) -> Result<Self, String> {
        Self::from_str(text).map_err(|error| format!("not a regular expression: {error}"))
    }
}

fn annotation_prefix(text: &str) -> Result<Keys, String> {
    Keys::new(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_gos() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(boolean(text), Ok(true), "{text}");
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(boolean(text), Ok(false), "{text}");
        }
        for text in ["", "yes", "no", "on", "tRUE", "2", " true"] {
            boolean(text).unwrap_err();
        }
    }

    #[test]
    fn what_is_empty_is_not_given() {
        assert_eq!(optional::<IpAddr>(""), Ok(Optional(None)));
        assert_eq!(
            optional::<Ipv4Addr>("10.0.0.1"),
            Ok(Optional(Some([10, 0, 0, 1].into())))
        );
        assert!(optional::<Ipv4Addr>("fd00::1").unwrap_err().contains("IPv4"));
        assert!(optional::<Ipv6Addr>("10.0.0.1").unwrap_err().contains("IPv6"));
        assert!(
            optional::<InterfaceRegex>("(")
                .unwrap_err()
                .contains("not a regular expression")
        );
    }
}
