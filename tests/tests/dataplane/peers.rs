//! Entries of peers by a process that keeps its maps open: what it knows of them must stay true.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use ipnet::IpNet;
use nix::time::ClockId;
use overlay_agent::dataplane::{AttachChoice, Capacity};
use overlay_common::addr::Addr;
use overlay_common::maps::{PEER_STATS, PEERS, Peer, PeerStats, SubnetEntry};
use overlay_core::action::DataplaneAction;

use crate::sandbox::{self, CAPACITY, Sandbox, everything, execute, expected};

fn map<T: TryFrom<Map, Error = MapError>>(sandbox: &Sandbox, name: &str) -> T {
    let map = MapData::from_pin(sandbox.pin_dir.join(name)).unwrap();
    Map::from_map_data(map).unwrap().try_into().unwrap()
}

fn every_cpu<T: Pod>(value: T) -> PerCpuValues<T> {
    PerCpuValues::try_from(vec![value; nr_cpus().unwrap()]).unwrap()
}

fn vtep(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    Ipv4Addr::new(172, 16, high, low).into()
}

fn subnet(n: u16) -> IpNet {
    let [high, low] = n.to_be_bytes();
    IpNet::new(Ipv4Addr::new(10, high, low, 0).into(), 24).unwrap()
}

fn set(n: u16) -> DataplaneAction {
    DataplaneAction::SetPeer {
        vtep: vtep(n),
        subnet: subnet(n),
    }
}

/// The `PEER_STATS` index of a peer.
fn slot(sandbox: &Sandbox, n: u16) -> u32 {
    let peers: HashMap<MapData, Addr, Peer> = map(sandbox, PEERS);
    peers.get(&Addr::from(vtep(n)), 0).unwrap().stats
}

/// Red without the zeroing of used slots.
#[test]
fn a_slot_that_was_given_back_has_no_traffic_for_its_next_peer() {
    sandbox::run(AttachChoice::Tcx, |sandbox| {
        let mut dataplane = sandbox.open();
        execute(&mut dataplane, &[DataplaneAction::Load, set(2), set(3)]);
        let old = slot(sandbox, 2);
        let traffic = PeerStats {
            rx_bytes: 7,
            ..PeerStats::ZERO
        };
        let mut stats: PerCpuArray<MapData, PeerStats> = map(sandbox, PEER_STATS);
        stats.set(old, every_cpu(traffic), 0).unwrap();
        execute(&mut dataplane, &[DataplaneAction::RemovePeer(vtep(2)), set(4)]);
        assert_eq!(slot(sandbox, 4), old);
        assert_eq!(dataplane.peer_stats().unwrap()[&vtep(4)], PeerStats::ZERO);
        // Every slot can be had, and each once, however often peers come and go.
        for n in 0..500 {
            execute(
                &mut dataplane,
                &[set(100 + n), DataplaneAction::RemovePeer(vtep(100 + n))],
            );
        }
        let most = u16::try_from(CAPACITY.peers).unwrap() - 2;
        execute(&mut dataplane, &(200..200 + most).map(set).collect::<Vec<_>>());
        let peers: HashMap<MapData, Addr, Peer> = map(sandbox, PEERS);
        let slots: BTreeSet<u32> = peers.iter().map(|entry| entry.unwrap().1.stats).collect();
        assert_eq!(slots, (0..CAPACITY.peers).collect());
    });
}

/// As after a restart. Red with `peers` that tells of the first index only.
#[test]
fn what_a_look_has_found_in_use_is_not_given_to_another_peer() {
    sandbox::run(AttachChoice::Tcx, |sandbox| {
        let mut before = sandbox.open();
        execute(&mut before, &[DataplaneAction::Load, set(2), set(3), set(4)]);
        let remove = |n| DataplaneAction::RemovePeer(vtep(n));
        let lists: [&[DataplaneAction]; 3] = [
            &[set(5), set(6)],
            &[remove(2), set(5), set(6)],
            &[set(5), remove(5), remove(6), set(2), set(7)],
        ];
        for actions in lists {
            let mut dataplane = sandbox.open();
            dataplane.observer().observe().unwrap();
            execute(&mut dataplane, actions);
            let peers: HashMap<MapData, Addr, Peer> = map(sandbox, PEERS);
            let slots: Vec<u32> = peers.iter().map(|entry| entry.unwrap().1.stats).collect();
            let different: BTreeSet<u32> = slots.iter().copied().collect();
            assert_eq!(different.len(), slots.len(), "{slots:?}");
        }
        // Removed before the look is over: what it found is not used.
        let mut dataplane = sandbox.open();
        let look = dataplane.observer();
        execute(&mut dataplane, &[remove(3)]);
        look.observe().unwrap();
        execute(&mut dataplane, &[set(8), set(9)]);
        assert_ne!(slot(sandbox, 8), slot(sandbox, 9));
    });
}

/// Red with `Kept::open` that does not look at the pin.
#[test]
fn maps_that_others_have_replaced_are_noticed() {
    sandbox::run(AttachChoice::Tcx, |sandbox| {
        let mut dataplane = sandbox.set_up();
        execute(&mut dataplane, &[set(2), set(3)]);
        let mut other = sandbox.open();
        execute(&mut other, &[DataplaneAction::Remove]);
        execute(&mut other, &everything());
        execute(&mut other, &[set(4)]);
        execute(
            &mut dataplane,
            &[
                set(5),
                DataplaneAction::SetSubnet {
                    subnet: subnet(5),
                    entry: SubnetEntry::new(Addr::from(vtep(5)), [2, 0, 0, 0, 0, 5]),
                },
            ],
        );
        let observed = sandbox.open().observe().unwrap().unwrap();
        assert!(!observed.peers.contains_key(&vtep(2)));
        assert_eq!(observed.peers[&vtep(5)], subnet(5));
        assert!(observed.subnets.contains_key(&subnet(5)));
        assert_ne!(slot(sandbox, 4), slot(sandbox, 5));
    });
}

#[test]
fn what_was_prepared_is_loaded_and_pins_nothing_before() {
    sandbox::run(AttachChoice::Tcx, |sandbox| {
        let mut dataplane = sandbox.open();
        dataplane.prepare();
        assert!(!sandbox.pin_dir.exists());
        execute(&mut dataplane, &everything());
        assert_eq!(dataplane.observe().unwrap().unwrap(), expected());
        execute(&mut dataplane, &[DataplaneAction::Remove]);
        // Somebody else was faster: what is pinned stays.
        dataplane.prepare();
        let mut other = sandbox.set_up();
        execute(&mut other, &[set(9)]);
        execute(&mut dataplane, &[DataplaneAction::Load]);
        assert!(dataplane.observe().unwrap().unwrap().peers.contains_key(&vtep(9)));
    });
}

/// The figure of a release build is 3 µs for the two entries of a peer; the bound leaves room for a debug build. CPU time:
/// what else the machine does is not the point.
#[test]
fn entries_of_15000_peers_are_written_fast() {
    sandbox::run(AttachChoice::Tcx, |sandbox| {
        let mut dataplane = sandbox.open_for(Capacity {
            peers: 16_384,
            ..CAPACITY
        });
        execute(&mut dataplane, &[DataplaneAction::Load]);
        let both = |n: u16| {
            let entry = SubnetEntry::new(Addr::from(vtep(n)), [2, 0, 0, 0, 0, 5]);
            let subnet = DataplaneAction::SetSubnet {
                subnet: subnet(n),
                entry,
            };
            [set(n), subnet]
        };
        let actions: Vec<_> = (0..15_000).flat_map(both).collect();
        let cpu = || {
            ClockId::CLOCK_THREAD_CPUTIME_ID
                .now()
                .map(Duration::from)
                .unwrap()
        };
        let start = cpu();
        execute(&mut dataplane, &actions);
        let each = (cpu() - start) / 15_000;
        let start = Instant::now();
        assert_eq!(dataplane.observe().unwrap().unwrap().peers.len(), 15_000);
        println!("15,000 peers: {each:?} each, observed in {:?}", start.elapsed());
        assert!(each.as_micros() < 300, "{each:?}");
    });
}
