//! What this node should look like.

mod claims;
mod error;
mod fastpath;
mod problem;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use overlay_common::addr::{Addr, MaskedPrefix, V4_MAPPED_BITS};
use overlay_common::config::{self, Config};
use overlay_common::maps::SubnetEntry;

use self::claims::Claims;
pub(crate) use self::claims::claim;
pub use self::error::DesiredError;
pub use self::fastpath::{Fastpath, FastpathOff};
pub use self::problem::{Problem, Who};
use crate::action::{Hook, VxlanDevice};
use crate::model::{
    ConntrackParameter, Dataplane, FamilyLease, Lease, MacAddr, NodeFacts, Settings, can_be_vtep,
};
use crate::net_conf::{self, ENCAP_OVERHEAD, MIN_OVERLAY_MTU};
use crate::view::View;

/// Everything that should be on this node, and what stands in the way.
#[derive(Clone, PartialEq, Debug)]
pub struct Desired {
    /// The cluster's overlay network. What lies outside of it is never this agent's.
    pub network: Ipv4Net,
    /// The VTEP device.
    pub device: VxlanDevice,
    /// The device's addresses.
    pub addresses: BTreeSet<IpNet>,
    /// Every other node that can be reached, by its subnet. No two share a subnet, a MAC or an underlay address.
    pub peers: BTreeMap<IpNet, Peer>,
    /// The eBPF side; `None` when the kernel device alone carries the overlay.
    pub dataplane: Option<DesiredDataplane>,
    /// Whether established flows take the fast path.
    pub fastpath: Fastpath,
    /// What must be set in connection tracking first, and what it is set to now.
    pub conntrack: BTreeMap<ConntrackParameter, u32>,
    /// What is wrong with the leases or the node, for the operator. None of it stops the rest.
    pub problems: Vec<Problem>,
}

/// Another node, as the kernel and the maps need it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Name of the node.
    pub node: String,
    /// First address of the subnet: next hop of the route and key of the neighbour entry.
    pub gateway: IpAddr,
    /// Underlay address of its VTEP.
    pub public_ip: IpAddr,
    /// MAC address of its VTEP device.
    pub vtep_mac: MacAddr,
}

/// The eBPF side of [`Desired`].
#[derive(Clone, PartialEq, Debug)]
pub struct DesiredDataplane {
    /// The `CONFIG` entry, once every peer is programmed.
    pub config: Config,
    /// The `SUBNETS` entries.
    pub subnets: BTreeMap<IpNet, SubnetEntry>,
    /// The `PEERS` entries: VTEP and subnet.
    pub peers: BTreeMap<IpAddr, IpNet>,
    /// Where the programs belong.
    pub hooks: BTreeMap<Hook, HookTarget>,
}

/// The device that a program belongs on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HookTarget {
    /// Interface name.
    pub device: String,
    /// Interface index; `None` for the VTEP device, whose index is known only where it exists.
    pub ifindex: Option<u32>,
}

/// Computes the desired state. The same inputs always give the same result.
///
/// The outer source address is the underlay device's (`facts.underlay.address`), not the lease's `public_ip`: a device
/// with a source address that is not local cannot send. Behind address translation the two differ by intent, so a
/// difference that `settings.public_ip` does not ask for is a [`Problem`] to look at and nothing more.
///
/// A peer that cannot be served is left out and named in [`Desired::problems`]; the others are not affected.
///
/// # Errors
///
/// When there is nothing this node could be: no complete list yet, no usable lease of its own, no usable underlay.
pub fn desired(view: &View, facts: &NodeFacts, settings: &Settings) -> Result<Desired, DesiredError> {
    if !view.complete() {
        return Err(DesiredError::Incomplete);
    }
    let own = view
        .get(&settings.node)
        .ok_or_else(|| error::no_own_lease(view, &settings.node))?;
    let mut problems: Vec<_> = view
        .duplicates()
        .iter()
        .cloned()
        .map(Problem::DuplicateNode)
        .collect();
    let family = own_family(own, facts, settings, &mut problems)?;
    let mtu = overlay_mtu(facts, settings, &mut problems)?;

    let mut claims = Claims::of_own_node(own, &family, facts.underlay.address);
    let mut peers = BTreeMap::new();
    for lease in view.in_order().filter(|lease| lease.node != settings.node) {
        match claims.admit(lease, settings.net_conf.network) {
            Ok((subnet, peer)) => {
                peers.insert(subnet, peer);
            }
            Err(problem) => problems.push(*problem),
        }
    }

    let backend = &settings.net_conf.backend;
    let device = VxlanDevice {
        name: net_conf::device_name(backend.vni),
        vni: backend.vni,
        port: backend.port,
        local: facts.underlay.address,
        underlay_ifindex: facts.underlay.ifindex,
        mac: family.vtep_mac,
        mtu,
        learning: backend.learning,
        gbp: backend.gbp,
    };
    let mut dataplane = match settings.dataplane {
        Dataplane::Kernel => None,
        Dataplane::Ebpf if !facts.underlay_is_ethernet => {
            problems.push(Problem::NotEthernet {
                underlay: facts.underlay.name.clone(),
            });
            None
        }
        Dataplane::Ebpf => {
            let room = usize::try_from(settings.max_peers).unwrap_or(usize::MAX);
            if peers.len() > room {
                problems.push(Problem::TooManyPeers {
                    peers: peers.len(),
                    room,
                });
            }
            Some(dataplane(&device, &family, &peers, room, facts, settings))
        }
    };
    let fastpath = fastpath::decide(dataplane.is_some(), facts, settings);
    if let Fastpath::Off(why) = &fastpath
        && why.is_a_problem()
    {
        problems.push(Problem::NoFastpath(why.clone()));
    }
    if let (Some(dataplane), Fastpath::On { slots_per_cpu, .. }) = (&mut dataplane, &fastpath) {
        fastpath::configure(&mut dataplane.config, *slots_per_cpu, &settings.flows);
    }
    let addresses = BTreeSet::from([IpNet::from(family.subnet.network())]);
    Ok(Desired {
        network: settings.net_conf.network,
        device,
        addresses,
        peers,
        dataplane,
        conntrack: fastpath::conntrack(&fastpath, facts),
        fastpath,
        problems,
    })
}

/// The own lease's IPv4 side, if this node can be it.
fn own_family(
    own: &Lease,
    facts: &NodeFacts,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> Result<FamilyLease, DesiredError> {
    let who = Who::from(own);
    let family = own
        .v4
        .ok_or_else(|| DesiredError::OwnLeaseNotIpv4 { own: who.clone() })?;
    let network = settings.net_conf.network;
    if !claims::inside(network, family.subnet) {
        return Err(DesiredError::OwnSubnetOutside {
            own: who,
            subnet: family.subnet,
            network,
        });
    }
    if !family.vtep_mac.is_unicast() {
        return Err(DesiredError::OwnMac {
            own: who,
            mac: family.vtep_mac,
        });
    }
    let underlay = &facts.underlay;
    if !can_be_vtep(underlay.address) {
        return Err(DesiredError::UnderlayAddress {
            name: underlay.name.clone(),
            address: underlay.address,
        });
    }
    if family.subnet.contains(&underlay.address) {
        return Err(DesiredError::UnderlayInOverlay {
            own: who,
            subnet: family.subnet,
            address: underlay.address,
        });
    }
    if family.public_ip != underlay.address && settings.public_ip != Some(family.public_ip) {
        problems.push(Problem::OwnPublicIp {
            own: who,
            public_ip: family.public_ip,
            underlay: underlay.name.clone(),
            address: underlay.address,
        });
    }
    Ok(family)
}

/// MTU of the overlay device in bytes.
fn overlay_mtu(
    facts: &NodeFacts,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> Result<u32, DesiredError> {
    let underlay = &facts.underlay;
    let wanted = settings.net_conf.backend.mtu.unwrap_or(underlay.mtu);
    if wanted > underlay.mtu {
        // The kernel refuses a larger one on an existing device, and clamps it silently on a new one.
        problems.push(Problem::MtuTooLarge {
            wanted,
            underlay: underlay.name.clone(),
            mtu: underlay.mtu,
        });
    }
    wanted
        .min(underlay.mtu)
        .checked_sub(ENCAP_OVERHEAD)
        .filter(|mtu| *mtu >= MIN_OVERLAY_MTU)
        .ok_or_else(|| DesiredError::MtuTooSmall {
            underlay: underlay.name.clone(),
            mtu: wanted.min(underlay.mtu),
        })
}

fn dataplane(
    device: &VxlanDevice,
    own: &FamilyLease,
    peers: &BTreeMap<IpNet, Peer>,
    room: usize,
    facts: &NodeFacts,
    settings: &Settings,
) -> DesiredDataplane {
    let entry = |peer: &Peer| SubnetEntry::new(Addr::from(peer.public_ip), peer.vtep_mac.octets());
    let underlay = HookTarget {
        device: facts.underlay.name.clone(),
        ifindex: Some(facts.underlay.ifindex),
    };
    let vtep = HookTarget {
        device: device.name.clone(),
        ifindex: None,
    };
    let mut config = config(device, own, facts, settings);
    if peers.len() > room {
        // A check that does not know every peer would refuse what the kernel delivers.
        config.flags &= !config::FLAG_ENFORCE_PEERS;
    }
    DesiredDataplane {
        config,
        subnets: peers
            .iter()
            .take(room)
            .map(|(subnet, peer)| (*subnet, entry(peer)))
            .collect(),
        peers: peers
            .iter()
            .take(room)
            .map(|(subnet, peer)| (peer.public_ip, *subnet))
            .collect(),
        hooks: BTreeMap::from([
            (Hook::VtepEgress, vtep.clone()),
            (Hook::VtepIngress, vtep),
            (Hook::UnderlayIngress, underlay),
        ]),
    }
}

/// The longest outer packet that fits every route out of the underlay device, and whose inner packet fits the VTEP device:
/// the stack would not have sent a longer one there.
fn max_segment(device: &VxlanDevice, facts: &NodeFacts) -> u16 {
    let mtu = facts
        .smallest_route_mtu
        .map_or(facts.underlay.mtu, |route| route.min(facts.underlay.mtu))
        .min(device.mtu + ENCAP_OVERHEAD);
    // No IPv4 packet is longer.
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

fn config(device: &VxlanDevice, own: &FamilyLease, facts: &NodeFacts, settings: &Settings) -> Config {
    let backend = &settings.net_conf.backend;
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    let [_, vni @ ..] = device.vni.to_be_bytes();
    let (source_port_min, source_port_max) = facts.local_port_range;
    Config {
        abi: config::ABI_VERSION,
        flags: config::FLAG_ENFORCE_PEERS
            | flag(facts.port_shared, config::FLAG_PORT_SHARED)
            | flag(backend.gbp, config::FLAG_GBP)
            | flag(facts.routes_by_port, config::FLAG_ROUTES_BY_PORT),
        log_level: settings.log_level,
        underlay_ifindex: facts.underlay.ifindex,
        fib_flags: facts.fib_flags,
        source_port_min,
        source_port_max,
        port: backend.port_or_default().to_be_bytes(),
        ttl: facts.default_ttl,
        vni,
        vtep_mac: device.mac.octets(),
        max_segment: max_segment(device, facts),
        vtep: Addr::from(device.local),
        subnet_v4: MaskedPrefix::new(
            Addr::from(own.subnet.network()),
            V4_MAPPED_BITS + u32::from(own.subnet.prefix_len()),
        ),
        ..Config::UNCONFIGURED
    }
}
