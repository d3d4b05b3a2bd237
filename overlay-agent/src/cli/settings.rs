//! From flags and files to what the planner wants to know.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context, Result};
use overlay_core::model::{FlowSettings, MarkMask, Settings};
use overlay_core::net_conf::NetConf;

use super::args::{Attach, NodeArgs, Switch};
use crate::dataplane::AttachChoice;
use crate::node::Options;

/// Reads flannel's network configuration.
pub(super) fn net_conf(path: &Path) -> Result<NetConf> {
    let text = fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read the network configuration {} (--net-config-path)",
            path.display()
        )
    })?;
    NetConf::parse(&text).with_context(|| format!("network configuration {}", path.display()))
}

/// What the operator asked for, on node `node`. `public_ip` counts as `--public-ip`, and more.
pub(super) fn settings(
    args: &NodeArgs,
    net_conf: NetConf,
    node: String,
    public_ip: Option<Ipv4Addr>,
) -> Settings {
    let mask = args.flow_mark_mask;
    if args.fastpath == Switch::On && mask.meets_kube_proxy() {
        log::warn!(
            "--flow-mark-mask {mask} overlaps {:#x}, which kube-proxy uses in its iptables mode: it would masquerade or drop \
             packets of the fast path. Use {}, or --fastpath off",
            MarkMask::KUBE_PROXY,
            MarkMask::DEFAULT
        );
    }
    Settings {
        node,
        net_conf,
        dataplane: args.dataplane.into(),
        log_level: args.ebpf_log.level(),
        max_peers: args.max_peers,
        fastpath: args.fastpath == Switch::On,
        flows: FlowSettings {
            mark_mask: args.flow_mark_mask,
            revalidate: args.flow_revalidate,
            max: args.max_flows,
        },
        public_ip: public_ip.or(args.flannel.public_ip.0).map(IpAddr::V4),
    }
}

/// How this node's kernel is reached.
pub(super) fn options(args: &NodeArgs, settings: &Settings, public_ip: Option<Ipv4Addr>) -> Options {
    let options = Options::new(settings, args.pin_dir.clone());
    Options {
        iface: args.flannel.interface_choice(public_ip, &options.device),
        attach: args.attach.into(),
        ..options
    }
}

impl From<Attach> for AttachChoice {
    fn from(attach: Attach) -> Self {
        match attach {
            Attach::Auto => Self::Auto,
            Attach::Tcx => Self::Tcx,
            Attach::Clsact => Self::Clsact,
        }
    }
}
