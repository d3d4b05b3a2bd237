//! Random leases from small pools, so that they collide, and random kernels: what some earlier plan left, tampered with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::action::Program;
use crate::desired::{Desired, desired};
use crate::diff::plan;
use crate::model::{
    ConntrackParameter, Dataplane, FamilyLease, FlowSettings, Lease, LeaseEvent, MacAddr, NodeFacts,
    Settings, Underlay,
};
use crate::model_kernel::ModelKernel;
use crate::net_conf::{NetConf, VxlanConf};
use crate::observed::{FdbEntry, Neighbour, Observed, Route};
use crate::view::View;

pub(super) const UNDERLAY: &str = "eth0";
pub(super) const UNDERLAY_IFINDEX: u32 = 2;

/// A desired state and a kernel that is to become it.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) desired: Desired,
    pub(super) observed: Observed,
    pub(super) foreign: Foreign,
}

/// What somebody else put on the device.
#[derive(Clone, Debug, Default)]
pub(super) struct Foreign {
    pub(super) addresses: BTreeSet<IpNet>,
    pub(super) routes: BTreeSet<Route>,
    pub(super) neighbours: BTreeSet<Neighbour>,
    pub(super) fdb: BTreeSet<FdbEntry>,
}

prop_compose! {
    pub(super) fn family()(subnet in 0u8..12, wide in prop::bool::weighted(0.1), ip in 0u8..10, mac in 0u8..10) -> FamilyLease {
        let bits = if wide { 23 } else { 24 };
        FamilyLease {
            subnet: IpNet::V4(Ipv4Net::new(Ipv4Addr::new(10, 244, subnet, 0), bits).unwrap().trunc()),
            public_ip: IpAddr::from([192, 168, 0, 10 + ip]),
            // One in ten is a group address.
            vtep_mac: MacAddr::new([if mac == 9 { 3 } else { 2 }, 0, 0, 0, 0, mac]),
        }
    }
}

/// Leases before and after. Most nodes stay as they are, so that plans meet entries that they must keep.
fn leases() -> impl Strategy<Value = (Vec<Lease>, Vec<Lease>)> {
    let after = |before: FamilyLease| {
        prop_oneof![
            6 => Just(Some(before)),
            1 => Just(None),
            1 => family().prop_map(Some),
            1 => family().prop_map(move |other| Some(FamilyLease { public_ip: other.public_ip, ..before })),
            1 => family().prop_map(move |other| Some(FamilyLease { vtep_mac: other.vtep_mac, ..before })),
        ]
    };
    let node = prop::option::weighted(0.9, family()).prop_flat_map(move |before| match before {
        Some(family) => after(family).prop_map(move |after| (before, after)).boxed(),
        None => family().prop_map(|after| (None, Some(after))).boxed(),
    });
    prop::collection::vec(node, 0..10).prop_map(|nodes| {
        let (before, after): (Vec<_>, Vec<_>) = nodes.into_iter().unzip();
        (with_own(before), with_own(after))
    })
}

pub(super) fn with_own(families: Vec<Option<FamilyLease>>) -> Vec<Lease> {
    let own = FamilyLease {
        subnet: "10.244.200.0/24".parse().unwrap(),
        public_ip: IpAddr::from([192, 168, 0, 1]),
        vtep_mac: MacAddr::new([2, 0, 0, 0, 1, 0]),
    };
    let lease = |node: String, v4| Lease {
        origin: format!("l.yaml:{node}"),
        node,
        v4: Some(v4),
        v6: None,
    };
    let peers = families.into_iter().enumerate();
    let peers = peers.filter_map(|(index, family)| Some(lease(format!("node-{index}"), family?)));
    peers.chain([lease("own".into(), own)]).collect()
}

prop_compose! {
    pub(super) fn settings()(
        ebpf in prop::bool::weighted(0.8),
        port in prop::option::weighted(0.2, Just(4789)),
        mtu in prop::option::weighted(0.2, Just(1400)),
        log_level in 0u32..2,
        max_peers in prop::sample::select(vec![1000u32, 1000, 1000, 2]),
    ) -> Settings {
        Settings {
            node: "own".into(),
            net_conf: NetConf {
                network: "10.244.0.0/16".parse().unwrap(),
                backend: VxlanConf { port, mtu, ..VxlanConf::default() },
            },
            dataplane: if ebpf { Dataplane::Ebpf } else { Dataplane::Kernel },
            log_level,
            max_peers,
 fastpath: true, flows: FlowSettings::default(), public_ip: None,
        }
    }
}

prop_compose! {
    pub(super) fn facts()(address in prop::sample::select(vec![1u8, 1, 1, 1, 2])) -> NodeFacts {
        NodeFacts {
            underlay: Underlay {
                name: UNDERLAY.into(),
                ifindex: UNDERLAY_IFINDEX,
                mtu: 1500,
                address: IpAddr::from([192, 168, 0, address]),
            },
            underlay_is_ethernet: true,
            smallest_route_mtu: None,
            routes_by_port: false,
            local_port_range: (32768, 60999),
            default_ttl: 64,
            fib_flags: 0,
            port_shared: false,
            underlay_prefixes: vec![],
        possible_cpus: 4,
        realtime: false,
        conntrack: ConntrackParameter::ALL.map(|parameter| (parameter, 1)).into(),
        }
    }
}

fn desired_of(leases: Vec<Lease>, settings: &Settings, facts: &NodeFacts) -> Desired {
    let mut view = View::default();
    view.apply(LeaseEvent::Replace(leases));
    desired(&view, facts, settings).unwrap()
}

prop_compose! {
    /// Desired states before and after; the settings mostly stay.
    fn change()(
        (leases_before, leases_after) in leases(),
        (settings_before, settings_after) in (settings(), settings()),
        (facts_before, facts_after) in (facts(), facts()),
        reconfigured in prop::bool::weighted(0.3),
    ) -> (Desired, Desired) {
        let after = if reconfigured { (&settings_after, &facts_after) } else { (&settings_before, &facts_before) };
        (
            desired_of(leases_before, &settings_before, &facts_before),
            desired_of(leases_after, after.0, after.1),
        )
    }
}

prop_compose! {
    pub(super) fn foreign()(present: [bool; 10]) -> Foreign {
        let pick = |index: usize| present[index];
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let route = |destination: &str, gateway: Option<&str>, onlink, protocol, metric, plain| Route {
            destination: net(destination), gateway: gateway.map(ip), onlink, protocol, metric, plain,
        };
        let mut foreign = Foreign::default();
        if pick(0) { foreign.addresses.insert(net("172.16.0.1/24")); }
        if pick(1) { foreign.addresses.insert(net("fe80::1/64")); }
        if pick(2) { foreign.routes.insert(route("10.244.3.0/24", Some("10.244.3.0"), true, 3, 100, true)); }
        if pick(3) { foreign.routes.insert(route("10.244.100.0/24", Some("10.244.100.0"), true, 4, 0, true)); }
        if pick(4) { foreign.routes.insert(route("172.16.0.0/24", None, false, 2, 0, false)); }
        if pick(5) { foreign.routes.insert(route("172.17.0.0/24", Some("172.17.0.0"), true, 3, 0, true)); }
        let neighbour = |address, mac, permanent| Neighbour { address: ip(address), mac, permanent };
        let mac = |last| MacAddr::new([2, 0, 0, 9, 9, last]);
        if pick(6) { foreign.neighbours.insert(neighbour("10.244.100.1", Some(mac(1)), false)); }
        if pick(7) { foreign.neighbours.insert(neighbour("172.16.0.2", Some(mac(2)), true)); }
        let fdb = |mac, to, permanent, plain| FdbEntry { mac, destination: Some(ip(to)), permanent, plain };
        if pick(8) { foreign.fdb.insert(fdb(mac(3), "192.168.0.50", false, true)); }
        if pick(9) {
            foreign.fdb.insert(fdb(mac(4), "192.168.0.50", true, false));
            foreign.fdb.insert(fdb(MacAddr::new([0; 6]), "192.168.0.51", true, true));
        }
        foreign
    }
}

/// Something that happened to the kernel between two plans.
#[derive(Clone, Debug)]
enum Tampering {
    DeviceDeleted,
    DeviceDown,
    OtherMtu,
    OtherMac,
    LearningOn,
    NotOurAlias,
    OtherAddress,
    RouteLost(Index),
    NeighbourLost(Index),
    NeighbourChanged(Index),
    FdbLost(Index),
    FdbSecondDestination(Index),
    FdbLearned(Index),
    StalePeer,
    SubnetsLost(Index),
    PeersLost(Index),
    Detached(Index),
    OldProgram(Index),
    CheckOpened,
    OtherLayout,
    AllPinsLost,
    PodProgramUnpinned,
}

fn tampering() -> impl Strategy<Value = Tampering> {
    use Tampering as T;
    let at = any::<Index>;
    prop_oneof![
        Just(T::DeviceDeleted),
        Just(T::DeviceDown),
        Just(T::OtherMtu),
        Just(T::OtherMac),
        Just(T::LearningOn),
        Just(T::NotOurAlias),
        Just(T::OtherAddress),
        at().prop_map(T::RouteLost),
        at().prop_map(T::NeighbourLost),
        at().prop_map(T::NeighbourChanged),
        at().prop_map(T::FdbLost),
        at().prop_map(T::FdbSecondDestination),
        at().prop_map(T::FdbLearned),
        Just(T::StalePeer),
        at().prop_map(T::SubnetsLost),
        at().prop_map(T::PeersLost),
        at().prop_map(T::Detached),
        at().prop_map(T::OldProgram),
        Just(T::CheckOpened),
        Just(T::OtherLayout),
        Just(T::AllPinsLost),
        Just(T::PodProgramUnpinned),
    ]
}

prop_compose! {
    /// What an earlier, perhaps interrupted, plan left behind, plus foreign objects, tampered with.
    pub(super) fn scenario()(
        (earlier, desired) in change(),
        first in prop::bool::weighted(0.1),
        cut in prop_oneof![3 => Just(None), 1 => any::<Index>().prop_map(Some)],
        foreign in foreign(),
        tampering in prop::collection::vec(tampering(), 0..4),
    ) -> Scenario {
        let mut kernel = ModelKernel::new(Observed::default(), UNDERLAY, UNDERLAY_IFINDEX);
        if !first {
            let steps = plan(&earlier, &kernel.observed).unwrap();
            let end = cut.map_or(steps.len(), |cut: Index| cut.index(steps.len() + 1));
            for step in &steps[..end] {
                kernel.apply(&step.action).unwrap();
            }
        }
        for event in tampering {
            tamper(&mut kernel, &event);
        }
        // What a device that is down cannot hold is not there.
        let mut foreign = foreign;
        match &mut kernel.observed.device {
            None => foreign = Foreign::default(),
            Some(device) => {
                if !device.up {
                    foreign.routes.clear();
                    foreign.neighbours.clear();
                }
                device.addresses.extend(foreign.addresses.iter().copied());
                device.routes.extend(foreign.routes.iter().cloned());
                device.neighbours.extend(foreign.neighbours.iter().cloned());
                device.fdb.extend(foreign.fdb.iter().cloned());
            }
        }
        Scenario { desired, observed: kernel.observed, foreign }
    }
}

fn take_key<V>(map: &mut BTreeMap<IpAddr, V>, at: &Index) {
    if !map.is_empty()
        && let Some(key) = map.keys().nth(at.index(map.len())).copied()
    {
        map.remove(&key);
    }
}

fn take<T: Ord + Clone>(set: &mut BTreeSet<T>, at: &Index) -> Option<T> {
    if set.is_empty() {
        return None;
    }
    let item = set.iter().nth(at.index(set.len())).cloned()?;
    set.take(&item)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "each kind of tampering concerns one part"
)]
fn tamper(kernel: &mut ModelKernel, event: &Tampering) {
    use Tampering as T;
    match event {
        T::DeviceDown => return kernel.set_down(),
        T::OtherLayout => {
            if let Some(dataplane) = &mut kernel.observed.dataplane {
                *dataplane = crate::observed::ObservedDataplane::default();
            }
        }
        T::AllPinsLost => kernel.observed.dataplane = None,
        T::PodProgramUnpinned => {
            if let Some(dataplane) = &mut kernel.observed.dataplane
                && dataplane.compatible
            {
                dataplane.missing.insert(Program::PodIngress);
            }
        }
        T::DeviceDeleted => {
            let ifindex = kernel.observed.device.take().map(|device| device.ifindex);
            if let Some(dataplane) = &mut kernel.observed.dataplane {
                dataplane
                    .attached
                    .retain(|_, attachment| Some(attachment.ifindex) != ifindex);
            }
        }
        _ => {}
    }
    if let Some(device) = &mut kernel.observed.device {
        match event {
            T::OtherMtu => device.mtu = 1300,
            T::OtherMac => device.mac = Some(MacAddr::new([2, 9, 9, 9, 9, 9])),
            T::LearningOn => {
                if let Some(vxlan) = &mut device.vxlan {
                    vxlan.learning = true;
                }
            }
            T::NotOurAlias => device.alias = None,
            T::OtherAddress => {
                device.addresses.insert("10.244.77.0/32".parse().unwrap());
            }
            T::RouteLost(at) => drop(take(&mut device.routes, at)),
            T::NeighbourLost(at) => drop(take(&mut device.neighbours, at)),
            T::NeighbourChanged(at) => {
                if let Some(neighbour) = take(&mut device.neighbours, at) {
                    device.neighbours.insert(Neighbour {
                        mac: None,
                        permanent: false,
                        ..neighbour
                    });
                }
            }
            T::FdbLost(at) => drop(take(&mut device.fdb, at)),
            T::FdbSecondDestination(at) => {
                if let Some(entry) = take(&mut device.fdb, at) {
                    let second = FdbEntry {
                        destination: Some(IpAddr::from([192, 168, 9, 9])),
                        ..entry.clone()
                    };
                    device.fdb.extend([entry, second]);
                }
            }
            T::FdbLearned(at) => {
                if let Some(entry) = take(&mut device.fdb, at) {
                    device.fdb.retain(|other| other.mac != entry.mac);
                    device.fdb.insert(FdbEntry {
                        permanent: false,
                        ..entry
                    });
                }
            }
            T::StalePeer if device.up => {
                let mac = MacAddr::new([2, 0, 0, 0, 8, 8]);
                let gateway = IpAddr::from([10, 244, 88, 0]);
                let destination = Some(IpAddr::from([192, 168, 0, 88]));
                device.fdb.insert(FdbEntry {
                    mac,
                    destination,
                    permanent: true,
                    plain: true,
                });
                // The kernel has one entry per address.
                device.neighbours.retain(|other| other.address != gateway);
                device.neighbours.insert(Neighbour {
                    address: gateway,
                    mac: Some(mac),
                    permanent: true,
                });
                // One of many of its kind.
                device.routes.insert(Route {
                    destination: "10.244.88.0/24".parse().unwrap(),
                    gateway: Some(gateway),
                    onlink: true,
                    protocol: 217,
                    metric: 0,
                    plain: true,
                });
            }
            _ => {}
        }
    }
    if let Some(dataplane) = &mut kernel.observed.dataplane {
        match event {
            T::SubnetsLost(at) if !dataplane.subnets.is_empty() => {
                let index = at.index(dataplane.subnets.len());
                let subnet = *dataplane.subnets.keys().nth(index).unwrap();
                dataplane.subnets.remove(&subnet);
            }
            T::PeersLost(at) => take_key(&mut dataplane.peers, at),
            T::Detached(at) if !dataplane.attached.is_empty() => {
                let index = at.index(dataplane.attached.len());
                let hook = *dataplane.attached.keys().nth(index).unwrap();
                dataplane.attached.remove(&hook);
            }
            T::OldProgram(at) if !dataplane.attached.is_empty() => {
                let index = at.index(dataplane.attached.len());
                dataplane.attached.values_mut().nth(index).unwrap().current = false;
            }
            T::CheckOpened => {
                if let Some(config) = &mut dataplane.config {
                    config.flags &= !overlay_common::config::FLAG_ENFORCE_PEERS;
                }
            }
            _ => {}
        }
    }
}
