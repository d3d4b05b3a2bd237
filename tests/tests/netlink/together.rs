//! A peer's entries in one datagram, refused in the middle: afterwards the kernel holds what it would hold if each had been
//! asked for after the one it relies on.

use std::path::PathBuf;

use overlay_agent::control::backoff::Jitter;
use overlay_agent::control::execute::{Scope, execute};
use overlay_agent::control::kernel::Kernel as _;
use overlay_agent::control::retries::Retries;
use overlay_agent::dataplane::{AttachChoice, Capacity};
use overlay_agent::netlink::InterfaceChoice;
use overlay_agent::node::{Node, Options};
use overlay_core::action::{KernelAction, Step};
use overlay_core::model::Dataplane;
use overlay_core::observed::{Device, Keys, Observed};

use crate::namespace::{
    DEVICE, add_peer, execute as carry_out, in_namespace, ip, mac, observe, overlay, set_up,
};

/// The node of the calling thread's namespace.
fn node() -> Node {
    Node::connect(Options {
        device: DEVICE.to_owned(),
        iface: InterfaceChoice::default(),
        port: 8472,
        dataplane: Dataplane::Kernel,
        pin_dir: PathBuf::from("/nothing/is/pinned/here"),
        attach: AttachChoice::default(),
        capacity: Capacity::default(),
    })
    .unwrap()
}

/// The entries of these peers in the order of a plan.
fn plan(peers: &[[KernelAction; 3]]) -> Vec<Step> {
    // `add_peer` has neighbour, forwarding entry, route.
    [1, 0, 2]
        .into_iter()
        .flat_map(|kind| peers.iter().map(move |peer| peer[kind].clone()))
        .map(|action| Step {
            action: action.into(),
            why: "missing".into(),
        })
        .collect()
}

/// What the device has of peer `n`: forwarding entry, neighbour, route.
fn has(device: &Device, n: u16) -> [bool; 3] {
    [
        device.fdb.iter().any(|entry| entry.mac == mac(n)),
        device.neighbours.iter().any(|entry| entry.address == overlay(n)),
        device
            .routes
            .iter()
            .any(|route| route.gateway == Some(overlay(n))),
    ]
}

/// Carries out a plan that was made from what is there; how many steps are done, and how many are not.
async fn run(node: &mut Node, steps: &[Step], scope: Scope<'_>) -> (usize, usize) {
    let observed: Observed = node.observe().await.unwrap();
    let mut retries = Retries::new(Jitter::from_system());
    let report = execute(node, steps, &observed, &mut retries, scope).await;
    assert_eq!(report.altered, []);
    (report.done.len(), report.not_done)
}

/// Red without `take_back` in `control::execute`.
#[test]
fn what_relies_on_a_refused_entry_is_taken_back() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        let keys = Keys::default();
        let mut node = node();
        // Refused by the kernel: a VTEP of the other address family, a neighbour of none of them, somebody else's route.
        let mut no_fdb = add_peer(2);
        no_fdb[1] = KernelAction::SetFdb {
            mac: mac(2),
            destination: "fd00::2".parse().unwrap(),
        };
        ip("route add 10.0.3.0/24 via 192.168.0.254 dev e0");
        let steps = plan(&[no_fdb, add_peer(3), add_peer(4)]);
        for scope in [Scope::Peers(&keys), Scope::Everything] {
            assert_eq!(run(&mut node, &steps, scope).await, (5, 4), "{scope:?}");
            let found = observe(&netlink).await;
            assert_eq!(has(&found, 2), [false; 3], "{scope:?}");
            assert_eq!(has(&found, 3), [true, true, false], "{scope:?}");
            assert_eq!(has(&found, 4), [true; 3], "{scope:?}");
        }
    });
}

/// The forwarding entry cannot be moved: what led to the old one stays.
#[test]
fn what_was_there_before_a_refused_change_stays() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        carry_out(&netlink, &add_peer(2)).await;
        let before = observe(&netlink).await;
        let mut moved = add_peer(2);
        moved[0] = KernelAction::SetNeighbour {
            address: overlay(2),
            mac: mac(22),
        };
        moved[1] = KernelAction::SetFdb {
            mac: mac(22),
            destination: "fd00::2".parse().unwrap(),
        };
        let keys = Keys::default();
        let steps = plan(&[moved, add_peer(3)]);
        run(&mut node(), &steps, Scope::Peers(&keys)).await;
        let found = observe(&netlink).await;
        assert_eq!(has(&found, 3), [true; 3]);
        assert!(before.neighbours.is_subset(&found.neighbours), "{found:#?}");
        assert!(before.routes.is_subset(&found.routes), "{found:#?}");
    });
}
