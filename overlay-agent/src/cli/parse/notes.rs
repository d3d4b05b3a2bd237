//! What is said at the start about flags that this version takes and does not act on.

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};
use log::Level;

use super::Environment;
use crate::cli::args::{Cli, FlannelArgs, NodeArgs};

/// A line for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::cli) struct Note {
    pub(in crate::cli) level: Level,
    pub(in crate::cli) text: String,
}

impl Note {
    pub(super) const fn info(text: String) -> Self {
        Self {
            level: Level::Info,
            text,
        }
    }

    const fn warn(text: String) -> Self {
        Self {
            level: Level::Warn,
            text,
        }
    }
}

const ETCD: [&str; 7] = [
    "etcd-endpoints",
    "etcd-prefix",
    "etcd-keyfile",
    "etcd-certfile",
    "etcd-cafile",
    "etcd-username",
    "etcd-password",
];
const KLOG: [&str; 2] = ["vmodule", "log_backtrace_at"];
const KUBE: [&str; 4] = [
    "kube-api-url",
    "kubeconfig-file",
    "kube-annotation-prefix",
    "set-node-network-unavailable",
];

/// One warning for each matter that was asked for, on the command line or in the environment, and does not happen.
pub(super) fn of(args: &NodeArgs, matches: &ArgMatches, environment: &Environment) -> Vec<Note> {
    let asked = |long: &str| {
        // The ids are the names with `_`.
        let id = long.replace('-', "_");
        matches.value_source(&id) == Some(ValueSource::CommandLine)
            && matches
                .try_get_raw(&id)
                .ok()
                .flatten()
                .is_some_and(|mut values| values.any(|value| !value.is_empty()))
    };
    let among = |flags: &[&str]| -> Option<String> {
        let flags: Vec<_> = flags
            .iter()
            .filter(|flag| asked(flag))
            .map(|flag| format!("--{flag}"))
            .collect();
        (!flags.is_empty()).then(|| flags.join(", "))
    };
    let mut notes = rules(&args.flannel, &asked);
    if let Some(flags) = among(&ETCD) {
        notes.push(format!(
            "{flags}: no effect: this version does not take leases from etcd; they come from {}. Leave these flags out",
            if args.flannel.kube_subnet_mgr { "Kubernetes (--kube-subnet-mgr)" } else { "files (--leases)" }
        ));
    }
    if !args.flannel.kube_subnet_mgr
        && let Some(flags) = among(&KUBE)
    {
        notes.push(format!(
            "{flags}: no effect with --leases: Kubernetes is not asked and not told anything"
        ));
    }
    if let Some(flags) = among(&KLOG) {
        notes.push(format!(
            "{flags}: no effect: --v and --log say how much is logged"
        ));
    }
    if args.flannel.public_ipv6.0.is_some() {
        notes.push(
            "--public-ipv6: no effect: this version carries IPv4 overlays only, and does not advertise the address".to_owned(),
        );
    }
    if asked("subnet-lease-renew-margin") {
        notes.push("--subnet-lease-renew-margin: no effect: leases do not expire here".to_owned());
    }
    let unknown = environment.unknown(&Cli::command());
    if !unknown.is_empty() {
        notes.push(format!(
            "no flag is called like these variables of the environment, they are ignored: {}",
            unknown.join(", ")
        ));
    }
    let mut notes: Vec<_> = notes.into_iter().map(Note::warn).collect();
    let pointless = [
        (
            "EVENT_QUEUE_DEPTH",
            "changes are not queued, each Node's newest state counts",
        ),
        (
            "CONT_WHEN_CACHE_NOT_READY",
            "the agent always waits for the API server, and serves /healthz meanwhile",
        ),
    ];
    for (variable, why) in pointless {
        if environment.get(variable).is_some() {
            let text = format!("{variable} in the environment has no meaning here: {why}");
            notes.push(Note {
                level: Level::Debug,
                text,
            });
        }
    }
    notes
}

/// About rules and routes that flannel would make.
fn rules(flannel: &FlannelArgs, asked: &impl Fn(&str) -> bool) -> Vec<String> {
    let mut notes = Vec::new();
    if flannel.ip_masq {
        notes.push(
            "--ip-masq: masquerading rules are not managed by this version: what pods send out of the pod network leaves \
             with the pod's address unless another rule translates it, and by FLANNEL_IPMASQ=true in subnet.env the CNI \
             plugin makes none either. Rules that flannel left on this node stay until it boots; otherwise add them: \
             iptables -t nat -A POSTROUTING -s NETWORK ! -d NETWORK -j MASQUERADE, with NETWORK from the net-conf"
                .to_owned(),
        );
    }
    if flannel.ip_masq_fully_random_disable {
        notes.push(
            "--ip-masq-fully-random-disable: no effect: masquerading rules are not managed by this version"
                .to_owned(),
        );
    }
    if flannel.iptables_forward_rules && asked("iptables-forward-rules") {
        notes.push(
            "--iptables-forward-rules: forward rules are not managed by this version. Where the policy of the FORWARD chain \
             is DROP, accept the pod network: iptables -A FORWARD -s NETWORK -j ACCEPT; iptables -A FORWARD -d NETWORK -j \
             ACCEPT, with NETWORK from the net-conf"
                .to_owned(),
        );
    }
    if flannel.ip_blackhole_route {
        notes.push(
            "--ip-blackhole-route: blackhole routes are not managed by this version: packets for addresses of this node's \
             pod subnet that no pod has may follow the default route. Add it: ip route add blackhole SUBNET, with this \
             node's pod subnet"
                .to_owned(),
        );
    }
    if asked("iptables-resync") {
        notes.push("--iptables-resync: no effect: rules are not managed by this version".to_owned());
    }
    notes
}
