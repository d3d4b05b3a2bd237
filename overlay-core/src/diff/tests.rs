use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};

use super::*;
use crate::action::{Action, DataplaneAction, Hook, KernelAction, Program};
use crate::desired::desired;
use crate::model::{
    ConntrackParameter, Dataplane, FamilyLease, FlowSettings, Lease, LeaseEvent, MacAddr, NodeFacts,
    Settings, Underlay,
};
use crate::model_kernel::ModelKernel;
use crate::net_conf::{NetConf, VxlanConf};
use crate::observed::{Attachment, ObservedDataplane, VxlanAttributes};
use crate::view::View;

/// The lease of node `n`: subnet 10.(n high).(n low).0/24, its VTEP in 172.16.0.0/12.
fn lease(n: u16) -> Lease {
    let [high, low] = n.to_be_bytes();
    let subnet = Ipv4Net::new(Ipv4Addr::new(10, high, low, 0), 24).unwrap();
    Lease {
        node: format!("n{n}"),
        origin: format!("l.yaml:{n}"),
        v4: Some(FamilyLease {
            subnet: IpNet::V4(subnet),
            public_ip: IpAddr::from([172, 16, high, low]),
            vtep_mac: MacAddr::new([2, 0, 0, 0, high, low]),
        }),
        v6: None,
    }
}

fn desired_for(leases: Vec<Lease>, backend: VxlanConf, dataplane: Dataplane) -> Desired {
    let mut view = View::default();
    view.apply(LeaseEvent::Replace(leases));
    let facts = NodeFacts {
        underlay: Underlay {
            name: "eth0".into(),
            ifindex: 2,
            mtu: 1500,
            address: IpAddr::from([172, 16, 0, 1]),
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
    };
    let net_conf = NetConf {
        network: "10.0.0.0/8".parse().unwrap(),
        backend,
    };
    desired(
        &view,
        &facts,
        &Settings {
            node: "n1".into(),
            net_conf,
            dataplane,
            log_level: 0,
            max_peers: 16_384,
            fastpath: true,
            flows: FlowSettings::default(),
            public_ip: None,
        },
    )
    .unwrap()
}

fn of(leases: Vec<Lease>) -> Desired {
    desired_for(leases, VxlanConf::default(), Dataplane::Ebpf)
}

fn lines(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

/// A kernel as the plan for `desired` leaves it.
fn settled(desired: &Desired) -> ModelKernel {
    let mut kernel = ModelKernel::new(Observed::default(), "eth0", 2);
    run(&mut kernel, desired);
    kernel
}

fn run(kernel: &mut ModelKernel, desired: &Desired) -> Vec<Step> {
    let steps = plan(desired, &kernel.observed).unwrap();
    for step in &steps {
        kernel.apply(&step.action).unwrap();
    }
    steps
}

#[test]
fn a_first_plan_reads_like_the_commands_it_stands_for() {
    let steps = plan(&of(vec![lease(1), lease(2)]), &Observed::default()).unwrap();
    assert_eq!(
        lines(&steps),
        [
            "link add flannel.1 address 02:00:00:00:00:01 mtu 1450 type vxlan id 1 local 172.16.0.1 dev #2 nolearning \
             (missing)",
            "dataplane load (nothing is pinned)",
            "dataplane attach vtep_egress to egress of flannel.1 (not attached)",
            "dataplane attach vtep_ingress to ingress of flannel.1 (not attached)",
            "dataplane attach underlay_ingress to ingress of eth0 (not attached)",
            "address add 10.0.1.0/32 (missing)",
            "link set up (the device is new)",
            "fdb replace 02:00:00:00:00:02 dst 172.16.0.2 self permanent (n2: missing)",
            "neighbour replace 10.0.2.0 lladdr 02:00:00:00:00:02 permanent (n2: missing)",
            "route add 10.0.2.0/24 via 10.0.2.0 onlink (n2: missing)",
            "dataplane peer set 172.16.0.2 for 10.0.2.0/24 (missing)",
            "dataplane subnet replace 10.0.2.0/24 via 172.16.0.2 lladdr 02:00:00:00:00:02 (missing)",
            "dataplane config vni 1 port 8472 local 172.16.0.1 lladdr 02:00:00:00:00:01 dev #2 srcport 32768 60999 ttl \
             64 log 0 peer-check enforce fastpath mark 0xfff00000 revalidate 1s (not configured)",
        ]
    );
}

#[test]
fn a_leaving_peer_leaves_the_fast_path_first() {
    let mut kernel = settled(&of(vec![lease(1), lease(2), lease(3)]));
    let steps = run(&mut kernel, &of(vec![lease(1), lease(3)]));
    assert_eq!(
        lines(&steps),
        [
            "dataplane subnet delete 10.0.2.0/24 (no lease names it)",
            "dataplane peer delete 172.16.0.2 (no lease names it)",
            "forget the flows of the fast path (entries that they may rely on are gone)",
            "route delete 10.0.2.0/24 via 10.0.2.0 onlink (no lease names it)",
            "fdb delete 02:00:00:00:00:02 dst 172.16.0.2 self (no lease names it)",
            "neighbour delete 10.0.2.0 (no lease names it)",
        ]
    );
}

#[test]
fn a_moving_peer_is_off_the_fast_path_while_the_kernel_changes() {
    let mut kernel = settled(&of(vec![lease(1), lease(2)]));
    let mut moved = lease(2);
    moved.v4.as_mut().unwrap().public_ip = IpAddr::from([172, 16, 9, 9]);
    moved.v4.as_mut().unwrap().vtep_mac = MacAddr::new([2, 0, 0, 0, 9, 9]);
    let steps = run(&mut kernel, &of(vec![lease(1), moved]));
    assert_eq!(
        lines(&steps),
        [
            "dataplane subnet delete 10.0.2.0/24 (the peer has moved)",
            "dataplane peer delete 172.16.0.2 (no lease names it)",
            "forget the flows of the fast path (entries that they may rely on are gone)",
            "fdb replace 02:00:00:00:09:09 dst 172.16.9.9 self permanent (n2: missing)",
            "neighbour replace 10.0.2.0 lladdr 02:00:00:00:09:09 permanent (n2: MAC was 02:00:00:00:00:02)",
            "fdb delete 02:00:00:00:00:02 dst 172.16.0.2 self (no lease names it)",
            "dataplane peer set 172.16.9.9 for 10.0.2.0/24 (missing)",
            "dataplane subnet replace 10.0.2.0/24 via 172.16.9.9 lladdr 02:00:00:00:09:09 (the peer has moved)",
        ]
    );
}

#[test]
fn a_device_that_went_down_gets_back_what_it_lost() {
    let desired = of(vec![lease(1), lease(2)]);
    let mut kernel = settled(&desired);
    kernel.set_down();
    assert_eq!(
        lines(&run(&mut kernel, &desired)),
        [
            "link set up (the device is down)",
            "neighbour replace 10.0.2.0 lladdr 02:00:00:00:00:02 permanent (n2: missing)",
            "route add 10.0.2.0/24 via 10.0.2.0 onlink (n2: missing)",
        ]
    );
}

#[test]
fn the_mtu_is_corrected_in_place() {
    let desired = of(vec![lease(1)]);
    let mut kernel = settled(&desired);
    kernel.observed.device.as_mut().unwrap().mtu = 1500;
    assert_eq!(
        lines(&run(&mut kernel, &desired)),
        ["link set mtu 1450 (MTU is 1500, wanted 1450)"]
    );
}

#[test]
fn whatever_else_differs_recreates_the_device() {
    let desired = of(vec![lease(1)]);
    type Change = fn(&mut VxlanAttributes);
    let changes: [(&str, Change); 9] = [
        ("VNI is 2, wanted 1", |v| v.vni = 2),
        ("port is 4789, wanted 8472", |v| v.port = 4789),
        ("local address is none, wanted 172.16.0.1", |v| v.local = None),
        ("underlay device index is 9, wanted 2", |v| {
            v.underlay_ifindex = Some(9);
        }),
        ("learning is on, wanted off", |v| v.learning = true),
        ("group policy is on, wanted off", |v| v.gbp = true),
        ("metadata mode is on, wanted off", |v| v.collect_metadata = true),
        ("group is 239.1.1.1, wanted none", |v| {
            v.group = Some([239, 1, 1, 1].into());
        }),
        ("l2miss is on, wanted off", |v| v.l2miss = true),
    ];
    for (why, change) in changes {
        let mut kernel = settled(&desired);
        change(kernel.observed.device.as_mut().unwrap().vxlan.as_mut().unwrap());
        let steps = run(&mut kernel, &desired);
        let delete = KernelAction::DeleteDevice {
            name: "flannel.1".into(),
            ifindex: 3,
        };
        assert_eq!(
            steps[0],
            Step {
                action: delete.into(),
                why: why.into()
            }
        );
        assert!(matches!(
            steps[1].action,
            Action::Kernel(KernelAction::CreateDevice(_))
        ));
    }
    let mut kernel = settled(&desired);
    kernel.observed.device.as_mut().unwrap().mac = Some(MacAddr::new([2, 9, 9, 9, 9, 9]));
    let steps = run(&mut kernel, &desired);
    assert_eq!(steps[0].why, "MAC is 02:09:09:09:09:09, wanted 02:00:00:00:00:01");
}

#[test]
fn a_link_of_another_kind_is_named_and_left_alone() {
    let desired = of(vec![lease(1)]);
    let mut kernel = settled(&desired);
    kernel.observed.device.as_mut().unwrap().vxlan = None;
    let error = plan(&desired, &kernel.observed).unwrap_err();
    assert_eq!(
        error,
        ForeignDevice {
            name: "flannel.1".into(),
            ifindex: 3
        }
    );
    let cleanup = cleanup_plan(&kernel.observed, "flannel.1");
    assert_eq!(lines(&cleanup.steps), ["dataplane remove (cleanup)"]);
    assert!(
        cleanup.notes[0].contains("it is not a VXLAN device"),
        "{:?}",
        cleanup.notes
    );
}

#[test]
fn cleanup_leaves_an_adopted_device_and_says_so() {
    let desired = of(vec![lease(1), lease(2)]);
    let mut kernel = settled(&desired);
    assert_eq!(
        lines(&cleanup_plan(&kernel.observed, "flannel.1").steps),
        [
            "dataplane remove (cleanup)",
            "link delete flannel.1 (index 3) (cleanup: made by this agent)"
        ]
    );
    kernel.observed.device.as_mut().unwrap().alias = None;
    let cleanup = cleanup_plan(&kernel.observed, "flannel.1");
    assert_eq!(lines(&cleanup.steps), ["dataplane remove (cleanup)"]);
    assert!(
        cleanup.notes[0].starts_with("flannel.1 (index 3) stays"),
        "{:?}",
        cleanup.notes
    );
}

#[test]
fn another_vni_empties_the_fast_path_before_the_configuration_changes() {
    // The programs still sit on flannel.1, under its configuration; the new device has another name.
    let mut kernel = settled(&of(vec![lease(1), lease(2)]));
    kernel.observed.device = None;
    let other = VxlanConf {
        vni: 7,
        ..VxlanConf::default()
    };
    let steps = plan(
        &desired_for(vec![lease(1), lease(2)], other, Dataplane::Ebpf),
        &kernel.observed,
    )
    .unwrap();
    let at = |wanted: fn(&Action) -> bool| steps.iter().position(|step| wanted(&step.action)).unwrap();
    let order = [
        at(|action| matches!(action, Action::Dataplane(DataplaneAction::RemoveSubnet(_)))),
        at(|action| matches!(action, Action::Kernel(KernelAction::CreateDevice(_)))),
        at(|action| matches!(action, Action::Dataplane(DataplaneAction::SetConfig(_)))),
        at(|action| {
            matches!(
                action,
                Action::Dataplane(DataplaneAction::Attach {
                    hook: Hook::VtepEgress,
                    ..
                })
            )
        }),
        at(|action| matches!(action, Action::Kernel(KernelAction::SetDeviceUp))),
        at(|action| matches!(action, Action::Kernel(KernelAction::SetRoute { .. }))),
        at(|action| matches!(action, Action::Dataplane(DataplaneAction::SetSubnet { .. }))),
    ];
    assert!(order.is_sorted(), "{:#?}", lines(&steps));
}

#[test]
fn an_open_check_is_closed_after_the_last_peer() {
    let desired = of(vec![lease(1), lease(2)]);
    let mut kernel = settled(&desired);
    let dataplane = kernel.observed.dataplane.as_mut().unwrap();
    dataplane.config.as_mut().unwrap().flags &= !overlay_common::config::FLAG_ENFORCE_PEERS;
    dataplane.peers.clear();
    let steps = run(&mut kernel, &desired);
    assert!(
        matches!(
            steps[0].action,
            Action::Dataplane(DataplaneAction::SetPeer { .. })
        ),
        "{:?}",
        lines(&steps)
    );
    assert!(matches!(
        steps[1].action,
        Action::Dataplane(DataplaneAction::SetConfig(_))
    ));
    assert_eq!(steps.len(), 2);
}

#[test]
fn a_dataplane_of_another_layout_is_removed_before_anything_changes() {
    let desired = of(vec![lease(1), lease(2)]);
    let mut kernel = settled(&desired);
    kernel.observed.dataplane = Some(ObservedDataplane::default());
    let steps = run(&mut kernel, &desired);
    assert_eq!(steps[0].action, DataplaneAction::Remove.into());
    assert_eq!(steps[1].action, DataplaneAction::Load.into());
}

#[test]
fn programs_of_another_build_are_replaced_and_their_maps_kept() {
    let desired = of(vec![lease(1), lease(2)]);
    let mut kernel = settled(&desired);
    kernel
        .observed
        .dataplane
        .as_mut()
        .unwrap()
        .attached
        .get_mut(&Hook::VtepEgress)
        .unwrap()
        .current = false;
    assert_eq!(
        lines(&run(&mut kernel, &desired)),
        [
            "dataplane load (an attached program is of another build)",
            "forget the flows of the fast path (an attached program is of another build)",
            "dataplane attach vtep_egress to egress of flannel.1 (the program is of another build)",
        ]
    );
}

#[test]
fn programs_that_are_not_pinned_are_loaded() {
    let desired = of(vec![lease(1), lease(2)]);
    let mut kernel = settled(&desired);
    kernel.observed.dataplane.as_mut().unwrap().missing = [Program::PodIngress, Program::PodEgress].into();
    assert_eq!(
        lines(&run(&mut kernel, &desired)),
        ["dataplane load (not pinned: pod_ingress, pod_egress)"]
    );
    assert_eq!(run(&mut kernel, &desired), []);
}

#[test]
fn the_ingress_program_follows_the_underlay() {
    let desired = of(vec![lease(1)]);
    let mut kernel = settled(&desired);
    let attached = &mut kernel.observed.dataplane.as_mut().unwrap().attached;
    attached.insert(
        Hook::UnderlayIngress,
        Attachment {
            ifindex: 0,
            current: true,
        },
    );
    assert_eq!(
        lines(&run(&mut kernel, &desired)),
        ["dataplane attach underlay_ingress to ingress of eth0 (attached to index 0, wanted 2)"]
    );
}

#[test]
fn the_kernel_dataplane_removes_the_ebpf_one_first() {
    let mut kernel = settled(&of(vec![lease(1), lease(2), lease(3)]));
    let kernel_only = desired_for(vec![lease(1), lease(2)], VxlanConf::default(), Dataplane::Kernel);
    let steps = run(&mut kernel, &kernel_only);
    assert_eq!(steps[0].action, DataplaneAction::Remove.into());
    assert!(matches!(
        steps[1].action,
        Action::Kernel(KernelAction::RemoveRoute { .. })
    ));
}

#[test]
fn fifteen_thousand_peers_take_n_log_n() {
    let leases: Vec<_> = (1..=15_000).map(lease).collect();
    let started = Instant::now();
    let desired = of(leases);
    let kernel = settled(&desired);
    assert_eq!(plan(&desired, &kernel.observed), Ok(vec![]));
    let mut leaving = kernel.clone();
    let steps = plan(&of(vec![lease(1)]), &leaving.observed).unwrap();
    assert_eq!(steps.len(), 5 * 14_999 + 1);
    leaving.apply(&steps[0].action).unwrap();
    // Quadratic work would take minutes; this takes a second or two, unoptimised.
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "{:?}",
        started.elapsed()
    );
}

fn forgets(steps: &[Step]) -> usize {
    let forget = Action::from(DataplaneAction::ForgetFlows);
    steps.iter().filter(|step| step.action == forget).count()
}

#[test]
fn a_cluster_that_grows_keeps_its_flows() {
    let mut kernel = settled(&of(vec![lease(1), lease(2)]));
    let steps = run(&mut kernel, &of(vec![lease(1), lease(2), lease(3), lease(4)]));
    assert_eq!(forgets(&steps), 0, "{:?}", lines(&steps));
}

#[test]
fn another_subnet_of_a_vtep_forgets_flows_before_and_after() {
    let mut kernel = settled(&of(vec![lease(1), lease(2)]));
    let mut moved = lease(2);
    moved.v4.as_mut().unwrap().subnet = "10.0.9.0/24".parse().unwrap();
    let steps = lines(&run(&mut kernel, &of(vec![lease(1), moved])));
    let at = |start: &str| steps.iter().position(|line| line.starts_with(start)).unwrap();
    let last = steps
        .iter()
        .rposition(|line| line.starts_with("forget the flows"))
        .unwrap();
    let order = [
        at("dataplane subnet delete"),
        at("forget the flows"),
        at("neighbour replace"),
        at("dataplane peer set"),
        last,
        at("dataplane subnet replace"),
    ];
    assert!(order.is_sorted() && order[1] < last, "{steps:?}");
}

#[test]
fn connection_tracking_comes_before_the_fast_path() {
    let mut desired = of(vec![lease(1), lease(2)]);
    desired.conntrack = [(ConntrackParameter::BeLiberal, 0)].into();
    let mut kernel = ModelKernel::new(Observed::default(), "eth0", 2);
    let first = lines(&run(&mut kernel, &desired));
    let at = |start: &str| first.iter().position(|line| line.starts_with(start)).unwrap();
    let sysctl = "sysctl net.netfilter.nf_conntrack_tcp_be_liberal=1";
    assert!(at(sysctl) < at("dataplane config"), "{first:?}");
    // When somebody has changed it meanwhile, the executor must be able to switch the fast path off.
    let again = lines(&plan(&desired, &kernel.observed).unwrap());
    assert!(
        again.len() == 2 && again[0].starts_with(sysctl) && again[1].starts_with("dataplane config"),
        "{again:?}"
    );
}
