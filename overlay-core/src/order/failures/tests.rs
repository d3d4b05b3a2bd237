use overlay_common::addr::Addr;

use super::*;

const MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 2]);
const OTHER: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 3]);

fn vtep(last: u8) -> IpAddr {
    IpAddr::from([192, 168, 0, last])
}

#[test]
fn a_peer_without_a_forwarding_entry_gets_nothing_that_relies_on_it() {
    let mut failures = Failures::none(&Observed::default());
    let fdb = KernelAction::SetFdb {
        mac: MAC,
        destination: vtep(2),
    };
    failures.record(&fdb.into());
    let neighbour = |mac| {
        Action::from(KernelAction::SetNeighbour {
            address: IpAddr::from([10, 244, 2, 0]),
            mac,
        })
    };
    let subnet = |mac: MacAddr, last| {
        Action::from(DataplaneAction::SetSubnet {
            subnet: "10.244.2.0/24".parse().unwrap(),
            entry: SubnetEntry::new(Addr::from(vtep(last)), mac.octets()),
        })
    };
    assert!(failures.blocks(&neighbour(MAC)));
    assert!(failures.blocks(&peer(2).into()));
    assert!(failures.blocks(&subnet(MAC, 2)));
    assert!(!failures.blocks(&neighbour(OTHER)));
    assert!(!failures.blocks(&peer(3).into()));
    assert!(!failures.blocks(&subnet(OTHER, 3)));
}

#[test]
fn without_a_device_only_the_fast_path_shrinks() {
    let mut failures = Failures::none(&Observed::default());
    let delete = KernelAction::DeleteDevice {
        name: "flannel.1".into(),
        ifindex: 3,
    };
    failures.record(&delete.into());
    let route = KernelAction::SetRoute {
        destination: "10.244.2.0/24".parse().unwrap(),
        gateway: IpAddr::from([10, 244, 2, 0]),
    };
    let up = KernelAction::SetDeviceUp;
    for action in [up.into(), route.into(), peer(2).into()] {
        assert!(failures.blocks(&action), "{action}");
    }
    assert!(!failures.blocks(&DataplaneAction::RemoveSubnet("10.244.2.0/24".parse().unwrap()).into()));
    assert!(!failures.blocks(&DataplaneAction::RemovePeer(vtep(2)).into()));
    assert!(!failures.blocks(&DataplaneAction::Load.into()));
}

fn peer(last: u8) -> DataplaneAction {
    DataplaneAction::SetPeer {
        vtep: vtep(last),
        subnet: "10.244.2.0/24".parse().unwrap(),
    }
}
