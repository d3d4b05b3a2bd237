//! What the operator asked for and what this node is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use overlay_common::flow::DEFAULT_MAX_FLOWS;

use super::{ConntrackParameter, MarkMask};
use crate::net_conf::NetConf;

/// Which dataplane carries overlay packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dataplane {
    /// eBPF programs on the hooks, the kernel device as fallback.
    Ebpf,
    /// The kernel device alone, as flannel does.
    Kernel,
}

/// What the operator asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Name of this node: its own lease is found by it.
    pub node: String,
    /// flannel's network configuration.
    pub net_conf: NetConf,
    /// Which dataplane to use.
    pub dataplane: Dataplane,
    /// `overlay_common::config::LOG_*` level of the programs' log.
    pub log_level: u32,
    /// How many peers the eBPF maps have room for.
    pub max_peers: u32,
    /// Whether established flows may take the fast path.
    pub fastpath: bool,
    /// How the fast path works.
    pub flows: FlowSettings,
    /// The address that the operator wants advertised instead of the underlay device's, as behind address translation.
    pub public_ip: Option<IpAddr>,
}

/// How the fast path works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowSettings {
    /// The bits of `skb->mark` that it uses.
    pub mark_mask: MarkMask,
    /// How often a flow entry is proved anew.
    pub revalidate: Duration,
    /// How many flows the maps have room for, each way.
    pub max: u32,
}

impl Default for FlowSettings {
    fn default() -> Self {
        Self {
            mark_mask: MarkMask::DEFAULT,
            revalidate: Duration::from_secs(1),
            max: DEFAULT_MAX_FLOWS,
        }
    }
}

/// The device that encapsulated packets leave by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Underlay {
    /// Interface name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// MTU of the device in bytes.
    pub mtu: u32,
    /// The address of the device that packets leave with.
    pub address: IpAddr,
}

/// What the agent found out about its node. Read again before each plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeFacts {
    /// The device that encapsulated packets leave by.
    pub underlay: Underlay,
    /// Whether packets on that device begin with an Ethernet header (`ARPHRD_ETHER`), as the programs expect.
    pub underlay_is_ethernet: bool,
    /// Smallest MTU in bytes that a route out of the underlay device carries, if any does.
    pub smallest_route_mtu: Option<u32>,
    /// Whether the way of an IPv4 packet may depend on its source port: `net.ipv4.fib_multipath_hash_policy`, or a rule.
    pub routes_by_port: bool,
    /// `net.ipv4.ip_local_port_range`: lowest and highest source port, as the sysctl prints them.
    pub local_port_range: (u16, u16),
    /// `net.ipv4.ip_default_ttl`.
    pub default_ttl: u8,
    /// Flags for `bpf_fib_lookup` that this kernel knows.
    pub fib_flags: u32,
    /// Whether a VXLAN device other than ours uses our UDP port.
    pub port_shared: bool,
    /// Addresses with prefix of the underlay device, for messages.
    pub underlay_prefixes: Vec<IpNet>,
    /// How many CPUs the kernel may ever use: it has that many copies of per-CPU data.
    pub possible_cpus: u32,
    /// Whether it is a real-time kernel (`PREEMPT_RT`).
    pub realtime: bool,
    /// What connection tracking is set to; absent is what this kernel does not have (yet).
    pub conntrack: BTreeMap<ConntrackParameter, u32>,
}
