//! Every flag of flannel, on the command line and in the environment.

use clap::CommandFactory;

use super::super::environment;
use super::{fails, node_args};
use crate::cli::args::{Cli, FlannelArgs};

/// One of flannel's flags.
struct Flag {
    name: &'static str,
    /// flannel's default, as [`Flag::shown`] shows it.
    default: &'static str,
    /// Another value.
    value: &'static str,
    /// A value that is not allowed, and a word of what is.
    bad: Option<(&'static str, &'static str)>,
    /// What the flag says.
    shown: fn(&FlannelArgs) -> String,
}

const fn flag(
    name: &'static str,
    default: &'static str,
    value: &'static str,
    bad: Option<(&'static str, &'static str)>,
    shown: fn(&FlannelArgs) -> String,
) -> Flag {
    Flag {
        name,
        default,
        value,
        bad,
        shown,
    }
}

const BAD_BOOL: Option<(&str, &str)> = Some(("maybe", "expected true or false"));

/// Every flag of flannel v0.28.9 but `version`.
const FLAGS: [Flag; 33] = [
    flag(
        "etcd-endpoints",
        "http://127.0.0.1:4001,http://127.0.0.1:2379",
        "https://e:1",
        None,
        |f| f.etcd_endpoints.clone(),
    ),
    flag("etcd-prefix", "/coreos.com/network", "/x", None, |f| {
        f.etcd_prefix.clone()
    }),
    flag("etcd-keyfile", "", "/k", None, |f| f.etcd_keyfile.clone()),
    flag("etcd-certfile", "", "/c", None, |f| f.etcd_certfile.clone()),
    flag("etcd-cafile", "", "/a", None, |f| f.etcd_cafile.clone()),
    flag("etcd-username", "", "u", None, |f| f.etcd_username.clone()),
    flag("etcd-password", "", "p", None, |f| f.etcd_password.clone()),
    flag("iface", "[]", "eth1", None, |f| {
        format!("[{}]", f.iface.join(" "))
    }),
    flag(
        "iface-regex",
        "[]",
        "^eth",
        Some(("(", "not a regular expression")),
        |f| {
            let all: Vec<_> = f
                .iface_regex
                .iter()
                .filter_map(|r| r.0.as_ref())
                .map(ToString::to_string)
                .collect();
            format!("[{}]", all.join(" "))
        },
    ),
    flag(
        "iface-can-reach",
        "None",
        "10.0.0.1",
        Some(("gateway", "expected an IP address")),
        |f| format!("{:?}", f.iface_can_reach.0),
    ),
    flag("subnet-file", "/run/flannel/subnet.env", "/s", None, |f| {
        f.subnet_file_or_default().display().to_string()
    }),
    flag(
        "public-ip",
        "None",
        "1.2.3.4",
        Some(("fd00::1", "expected an IPv4 address")),
        |f| format!("{:?}", f.public_ip.0),
    ),
    flag(
        "public-ipv6",
        "None",
        "fd00::1",
        Some(("1.2.3.4", "expected an IPv6 address")),
        |f| format!("{:?}", f.public_ipv6.0),
    ),
    flag(
        "subnet-lease-renew-margin",
        "60",
        "1439",
        Some(("1440", "1..=1439")),
        |f| f.subnet_lease_renew_margin.to_string(),
    ),
    flag("ip-masq", "false", "true", BAD_BOOL, |f| f.ip_masq.to_string()),
    flag("ip-masq-fully-random-disable", "false", "true", BAD_BOOL, |f| {
        f.ip_masq_fully_random_disable.to_string()
    }),
    flag("kube-subnet-mgr", "false", "true", BAD_BOOL, |f| {
        f.kube_subnet_mgr.to_string()
    }),
    flag("kube-api-url", "None", "https://api:6443", None, |f| {
        format!("{:?}", f.api_url())
    }),
    flag(
        "kube-annotation-prefix",
        "flannel.alpha.coreos.com/",
        "example.com/blue",
        Some(("a/b/c", "at most one")),
        |f| f.kube_annotation_prefix.prefix().to_owned(),
    ),
    flag("kubeconfig-file", "None", "/kc", None, |f| {
        format!("{:?}", f.kubeconfig())
    }),
    flag(
        "healthz-ip",
        "0.0.0.0",
        "::1",
        Some(("localhost", "expected an IP address")),
        |f| {
            FlannelArgs {
                healthz_port: 1,
                ..f.clone()
            }
            .healthz()
            .map(|address| address.ip().to_string())
            .unwrap_or_default()
        },
    ),
    flag(
        "healthz-port",
        "None",
        "8081",
        Some(("65536", "0..=65535")),
        |f| format!("{:?}", f.healthz().map(|address| address.port())),
    ),
    flag("iptables-resync", "5", "7", Some(("-1", "0..=4294967295")), |f| {
        f.iptables_resync.to_string()
    }),
    flag("iptables-forward-rules", "true", "false", BAD_BOOL, |f| {
        f.iptables_forward_rules.to_string()
    }),
    flag("ip-blackhole-route", "false", "true", BAD_BOOL, |f| {
        f.ip_blackhole_route.to_string()
    }),
    flag(
        "net-config-path",
        "/etc/kube-flannel/net-conf.json",
        "/n",
        None,
        |f| f.net_config_path.display().to_string(),
    ),
    flag("set-node-network-unavailable", "true", "false", BAD_BOOL, |f| {
        f.set_node_network_unavailable.to_string()
    }),
    flag("v", "0", "4", Some(("loud", "invalid digit")), |f| {
        f.v.to_string()
    }),
    flag("vmodule", "", "a=1", None, |f| f.vmodule.clone()),
    flag("log_backtrace_at", ":0", "a.go:1", None, |f| {
        f.log_backtrace_at.clone()
    }),
    // Other spellings of the same.
    flag(
        "ip-masq",
        "false",
        "T",
        Some(("yes", "expected true or false")),
        |f| f.ip_masq.to_string(),
    ),
    flag("iptables-forward-rules", "true", "0", None, |f| {
        f.iptables_forward_rules.to_string()
    }),
    flag(
        "subnet-lease-renew-margin",
        "60",
        "1",
        Some(("0", "1..=1439")),
        |f| f.subnet_lease_renew_margin.to_string(),
    ),
];

impl Flag {
    fn of(&self, line: &str, variables: &[(&str, &str)]) -> String {
        (self.shown)(&node_args(line, variables).flannel)
    }

    fn variable(&self) -> String {
        format!("FLANNELD_{}", self.name.to_uppercase().replace('-', "_"))
    }
}

#[test]
fn every_flag_works_on_the_command_line_and_in_the_environment() {
    // What a flag says is looked at with a source of leases that is not the flag itself.
    let base = |verb: &str, name: &str| match name {
        "kube-subnet-mgr" => None,
        _ => Some(format!("overlay-agent {verb} --kube-subnet-mgr")),
    };
    for flag in &FLAGS {
        let (name, value, variable) = (flag.name, flag.value, flag.variable());
        for verb in ["run", "plan"] {
            let plain = base(verb, name).unwrap_or(format!("overlay-agent {verb} --leases /l --node n"));
            let line = base(verb, name).unwrap_or(format!("overlay-agent {verb}"));
            assert_eq!(flag.of(&plain, &[]), flag.default, "--{name}");
            let wanted = flag.of(&format!("{line} --{name}={value}"), &[]);
            assert_ne!(wanted, flag.default, "--{name}={value}");
            assert_eq!(
                flag.of(&line, &[(&variable, value)]),
                wanted,
                "{variable}={value}"
            );
            assert_eq!(
                flag.of(&plain, &[(&variable, "")]),
                flag.default,
                "{variable} is empty"
            );
            assert_eq!(
                flag.of(
                    &format!("{line} --{name}={value}"),
                    &[(&variable, flag.bad.map_or("other", |(bad, _)| bad))]
                ),
                wanted,
                "the command line counts more than {variable}"
            );
            if let Some((bad, allowed)) = flag.bad {
                let (_, text) = fails(&format!("{line} --{name}={bad}"), &[]);
                assert!(text.contains(name) && text.contains(allowed), "{text}");
                let (_, text) = fails(&line, &[(&variable, bad)]);
                assert!(
                    text.contains(&format!("{variable}={bad}"))
                        && text.contains(name)
                        && text.contains(allowed),
                    "{text}"
                );
            }
        }
    }
}

#[test]
fn no_flag_is_missing_in_the_table() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    for flag in run.get_arguments().filter(|flag| environment::is_flannels(flag)) {
        let long = flag.get_long().unwrap();
        assert!(FLAGS.iter().any(|flag| flag.name == long), "--{long}");
    }
    assert_eq!(
        run.get_arguments()
            .filter(|flag| environment::is_flannels(flag))
            .count(),
        30
    );
}
