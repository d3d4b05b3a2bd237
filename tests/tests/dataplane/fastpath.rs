//! What the fast path relies on: epochs that forget flows, and a place of its own for each peer's traffic.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use overlay_agent::dataplane::AttachChoice;
use overlay_common::addr::Addr;
use overlay_common::maps::{PEER_STATS, PEERS, Peer, PeerStats};
use overlay_core::action::DataplaneAction;

use crate::sandbox::{self, Sandbox, execute};

fn map<T: TryFrom<Map, Error = MapError>>(sandbox: &Sandbox, name: &str) -> T {
    let map = MapData::from_pin(sandbox.pin_dir.join(name)).unwrap();
    Map::from_map_data(map).unwrap().try_into().unwrap()
}

fn every_cpu<T: Pod>(value: T) -> PerCpuValues<T> {
    PerCpuValues::try_from(vec![value; nr_cpus().unwrap()]).unwrap()
}

fn vtep(n: u8) -> IpAddr {
    [192, 168, 0, n].into()
}

fn set(n: u8, subnet: u8) -> DataplaneAction {
    DataplaneAction::SetPeer {
        vtep: vtep(n),
        subnet: format!("10.244.{subnet}.0/24").parse().unwrap(),
    }
}

/// The `PEER_STATS` index of each peer, by the last octet of its address.
fn slots(sandbox: &Sandbox) -> BTreeMap<u8, u32> {
    let peers: HashMap<MapData, Addr, Peer> = map(sandbox, PEERS);
    peers
        .iter()
        .map(|entry| {
            let (address, peer) = entry.unwrap();
            (address.low_v4()[3], peer.stats)
        })
        .collect()
}

#[test]
fn whatever_is_written_forgets_the_flows_and_is_no_difference() {
    sandbox::run(AttachChoice::Tcx, |sandbox| {
        let mut dataplane = sandbox.open();
        execute(&mut dataplane, &[DataplaneAction::Load]);
        // Nothing to forget, and no configuration made of it.
        execute(&mut dataplane, &[DataplaneAction::ForgetFlows]);
        assert_eq!(dataplane.observe().unwrap().unwrap().config, None);
        let set = DataplaneAction::SetConfig(Box::new(sandbox::config()));
        for (epoch, action) in [
            (1, &set),
            (2, &set),
            (3, &DataplaneAction::ForgetFlows),
            (4, &DataplaneAction::ForgetFlows),
            (5, &set),
        ] {
            execute(&mut dataplane, std::slice::from_ref(action));
            assert_eq!(dataplane.flow_counts().unwrap().epoch, epoch);
            let observed = dataplane.observe().unwrap().unwrap();
            assert_eq!(observed.config, Some(sandbox::config()));
        }
    });
}

#[test]
fn every_peer_has_its_own_statistics_and_keeps_them() {
    sandbox::run(AttachChoice::Tcx, |sandbox| {
        let mut dataplane = sandbox.open();
        execute(
            &mut dataplane,
            &[DataplaneAction::Load, set(2, 2), set(3, 3), set(4, 4)],
        );
        assert_eq!(slots(sandbox), [(2, 0), (3, 1), (4, 2)].into());
        let mut stats: PerCpuArray<MapData, PeerStats> = map(sandbox, PEER_STATS);
        let traffic = PeerStats {
            tx_packets: 1,
            ..PeerStats::ZERO
        };
        for slot in 0..4 {
            stats.set(slot, every_cpu(traffic), 0).unwrap();
        }
        let sent = |n: u8| {
            let stats = sandbox.open().peer_stats().unwrap();
            stats[&vtep(n)].tx_packets
        };
        let cpus = u64::try_from(nr_cpus().unwrap()).unwrap();
        assert_eq!(sent(3), cpus);
        // The same again, and another subnet.
        execute(&mut dataplane, &[set(3, 3), set(4, 9)]);
        assert_eq!(slots(sandbox), [(2, 0), (3, 1), (4, 2)].into());
        assert_eq!((sent(3), sent(4)), (cpus, cpus));
        // Another process takes the lowest free slot, which nobody's traffic is left in.
        execute(&mut dataplane, &[DataplaneAction::RemovePeer(vtep(3))]);
        let mut other = sandbox.open();
        execute(&mut other, &[set(5, 5), set(6, 6)]);
        assert_eq!(slots(sandbox), [(2, 0), (4, 2), (5, 1), (6, 3)].into());
        assert_eq!((sent(2), sent(5), sent(6)), (cpus, 0, 0));
    });
}
