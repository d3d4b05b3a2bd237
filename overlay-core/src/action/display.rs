//! How actions read: one line each, in the words of `ip` and `bridge` where they have some.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use overlay_common::config::{self, Config};

use super::{Action, DataplaneAction, Hook, KernelAction, Step, VxlanDevice};
use crate::model::{ConntrackParameter, MacAddr};

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.action, self.why)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(action) => action.fmt(f),
            Self::Dataplane(action) => action.fmt(f),
            Self::SetConntrack(parameter) => write!(f, "sysctl {parameter}={}", ConntrackParameter::WANTED),
        }
    }
}

impl fmt::Display for KernelAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateDevice(device) => write!(f, "link add {device}"),
            Self::DeleteDevice { name, ifindex } => write!(f, "link delete {name} (index {ifindex})"),
            Self::SetDeviceMtu(mtu) => write!(f, "link set mtu {mtu}"),
            Self::SetDeviceUp => f.write_str("link set up"),
            Self::AddAddress(address) => write!(f, "address add {address}"),
            Self::RemoveAddress(address) => write!(f, "address delete {address}"),
            Self::SetNeighbour { address, mac } => {
                write!(f, "neighbour replace {address} lladdr {mac} permanent")
            }
            Self::RemoveNeighbour { address } => write!(f, "neighbour delete {address}"),
            Self::SetFdb { mac, destination } => {
                write!(f, "fdb replace {mac} dst {destination} self permanent")
            }
            Self::RemoveFdb { mac, destination } => write!(f, "fdb delete {mac} dst {destination} self"),
            Self::SetRoute { destination, gateway } => {
                write!(f, "route add {destination} via {gateway} onlink")
            }
            Self::RemoveRoute { destination, gateway } => {
                write!(f, "route delete {destination} via {gateway} onlink")
            }
        }
    }
}

impl fmt::Display for DataplaneAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load => f.write_str("dataplane load"),
            Self::Remove => f.write_str("dataplane remove"),
            Self::Attach { hook, device } => {
                write!(
                    f,
                    "dataplane attach {} to {hook} of {device}",
                    hook.program().name()
                )
            }
            Self::SetConfig(config) => write!(f, "dataplane config {}", ConfigLine(config)),
            Self::ForgetFlows => f.write_str("forget the flows of the fast path"),
            Self::SetPeer { vtep, subnet } => write!(f, "dataplane peer set {vtep} for {subnet}"),
            Self::RemovePeer(vtep) => write!(f, "dataplane peer delete {vtep}"),
            Self::SetSubnet { subnet, entry } => {
                let mac = MacAddr::new(entry.vtep_mac);
                write!(
                    f,
                    "dataplane subnet replace {subnet} via {} lladdr {mac}",
                    entry.vtep
                )
            }
            Self::RemoveSubnet(subnet) => write!(f, "dataplane subnet delete {subnet}"),
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VtepEgress => "egress",
            Self::VtepIngress | Self::UnderlayIngress => "ingress",
        })
    }
}

impl fmt::Display for VxlanDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            vni,
            port,
            local,
            underlay_ifindex,
            mac,
            mtu,
            learning,
            gbp,
        } = self;
        write!(
            f,
            "{name} address {mac} mtu {mtu} type vxlan id {vni} local {local} dev #{underlay_ifindex}"
        )?;
        if let Some(port) = port {
            write!(f, " dstport {port}")?;
        }
        f.write_str(if *learning { " learning" } else { " nolearning" })?;
        f.write_str(if *gbp { " gbp" } else { "" })
    }
}

/// The parts of a configuration that an operator may want to see change.
struct ConfigLine<'c>(&'c Config);

impl fmt::Display for ConfigLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(config) = self;
        let [a, b, c] = config.vni;
        let vni = u32::from_be_bytes([0, a, b, c]);
        let port = u16::from_be_bytes(config.port);
        let mac = MacAddr::new(config.vtep_mac);
        let vtep = IpAddr::from(config.vtep);
        let (low, high) = (config.source_port_min, config.source_port_max);
        write!(
            f,
            "vni {vni} port {port} local {vtep} lladdr {mac} dev #{}",
            config.underlay_ifindex
        )?;
        write!(
            f,
            " srcport {low} {high} ttl {} log {}",
            config.ttl, config.log_level
        )?;
        let check = if config.has(config::FLAG_ENFORCE_PEERS) {
            "enforce"
        } else {
            "count"
        };
        write!(f, " peer-check {check}")?;
        f.write_str(if config.has(config::FLAG_PORT_SHARED) {
            " port-shared"
        } else {
            ""
        })?;
        f.write_str(if config.has(config::FLAG_GBP) { " gbp" } else { "" })?;
        if config.has(config::FLAG_FASTPATH) {
            let revalidate = Duration::from_nanos(config.revalidate);
            write!(
                f,
                " fastpath mark {:#010x} revalidate {revalidate:?}",
                config.mark_mask
            )?;
        }
        Ok(())
    }
}
