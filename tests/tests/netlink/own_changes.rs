//! What the agent does itself is no news; what others do to the same objects is, in the same instant, too.

use std::time::Duration;

use overlay_agent::netlink::{Events, Netlink};
use overlay_core::action::KernelAction;
use tokio::time::timeout;

use crate::namespace::{
    DEVICE, add_peer, bridge, execute, in_namespace, ip, mac, overlay, remove_peer, set_up, subnet, vtep,
};

/// How long nothing may come where nothing should.
const SILENCE: Duration = Duration::from_millis(300);

async fn is_silent(events: &mut Events) -> bool {
    timeout(SILENCE, events.changed()).await.is_err()
}

/// A test with the device set up, peers 2 and 3 on it, and a settled subscription.
fn with_events(test: impl AsyncFnOnce(Netlink, Events) + Send + 'static) {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        execute(&netlink, &[add_peer(2), add_peer(3)].concat()).await;
        let mut events = netlink.events(DEVICE, Some("e0")).await.unwrap();
        while !is_silent(&mut events).await {}
        test(netlink, events).await;
    });
}

fn hand(change: &str) {
    match change.strip_prefix("fdb ") {
        Some(_) => bridge(change),
        None => ip(change),
    }
}

/// Red with `Filter::message` asking neither for the port nor for notes.
#[test]
fn own_changes_of_entries_are_no_events() {
    with_events(async |netlink, mut events| {
        let moved = [
            KernelAction::SetNeighbour {
                address: overlay(4),
                mac: mac(44),
            },
            KernelAction::SetFdb {
                mac: mac(4),
                destination: vtep(44),
            },
        ];
        let steps = [
            ("added", add_peer(4).to_vec()),
            ("added again", add_peer(4).to_vec()),
            ("moved", moved.to_vec()),
            ("moved back", add_peer(4).to_vec()),
            ("removed", remove_peer(4).to_vec()),
            ("removed again", remove_peer(4).to_vec()),
            ("many added", (10..1_500).flat_map(add_peer).collect()),
            ("many removed", (10..1_500).flat_map(remove_peer).collect()),
        ];
        for (what, actions) in steps {
            execute(&netlink, &actions).await;
            assert!(is_silent(&mut events).await, "{what}");
        }
    });
}

/// Another connection of the same process is somebody else.
#[test]
fn changes_by_hand_are_events_after_own_ones() {
    with_events(async |netlink, mut events| {
        for change in [
            format!("route delete {}", subnet(2)),
            format!(
                "neigh replace {} lladdr {} dev {DEVICE} nud permanent",
                overlay(2),
                mac(9)
            ),
            format!("neigh delete {} dev {DEVICE}", overlay(2)),
            format!("fdb delete {} dev {DEVICE} dst {} self", mac(2), vtep(2)),
        ] {
            execute(&netlink, &[add_peer(2), add_peer(4), remove_peer(4)].concat()).await;
            assert!(is_silent(&mut events).await, "before: {change}");
            hand(&change);
            assert!(!is_silent(&mut events).await, "{change}");
            while !is_silent(&mut events).await {}
        }
        let stranger = Netlink::connect().unwrap();
        execute(&stranger, &remove_peer(2)).await;
        assert!(!is_silent(&mut events).await, "another connection");
    });
}

/// Nothing of ours has been read when somebody else's comes. Red with notes that never go (`Listener::settle`); that each
/// is good for one notification only is tested beside them.
#[test]
fn a_change_by_hand_in_the_same_instant_is_not_swallowed() {
    with_events(async |netlink, mut events| {
        let fdb = |verb: &str, n: u16, to: u16| {
            let to = vtep(to);
            format!("fdb {verb} {} dev {DEVICE} dst {to} self permanent", mac(n))
        };
        let neighbour = format!(
            "neigh add {} lladdr {} dev {DEVICE} nud permanent",
            overlay(4),
            mac(4)
        );
        let route = format!("route add {} via {} dev {DEVICE} onlink", subnet(4), overlay(4));
        let (added, removed) = (add_peer(4).to_vec(), remove_peer(4).to_vec());
        for (own, changes) in [
            (&added, vec![format!("route delete {}", subnet(4))]),
            (&removed, vec![route]),
            (&added, vec![format!("neigh delete {} dev {DEVICE}", overlay(4))]),
            (&removed, vec![neighbour]),
            (&added, vec![fdb("delete", 4, 4)]),
            (&added, vec![fdb("replace", 4, 44)]),
            (&removed, vec![fdb("add", 4, 4)]),
            // To nothing and back: what stands there is what was set, but it was away.
            (&added, vec![fdb("delete", 4, 4), fdb("add", 4, 4)]),
            (&removed, vec![fdb("add", 4, 4), fdb("delete", 4, 4)]),
        ] {
            execute(&netlink, own).await;
            for change in &changes {
                hand(change);
            }
            assert!(!is_silent(&mut events).await, "{changes:?}");
            // Back to what the next one starts from.
            execute(&netlink, &[add_peer(4), remove_peer(4)].concat()).await;
            bridge_clear().await;
            while !is_silent(&mut events).await {}
        }
    });
}

/// Removes what `fdb replace` may have left.
async fn bridge_clear() {
    let netlink = Netlink::connect().unwrap();
    let left = KernelAction::RemoveFdb {
        mac: mac(4),
        destination: vtep(44),
    };
    execute(&netlink, &[left]).await;
}

/// A request that changed nothing leaves no note behind that would swallow somebody else's change later.
#[test]
fn what_was_expected_in_vain_is_forgotten() {
    with_events(async |netlink, mut events| {
        // Set as they are: the forwarding entry causes no notification.
        execute(&netlink, &add_peer(3)).await;
        assert!(is_silent(&mut events).await);
        let stranger = Netlink::connect().unwrap();
        for actions in [remove_peer(3), add_peer(3)] {
            for action in actions {
                execute(&stranger, std::slice::from_ref(&action)).await;
                assert!(!is_silent(&mut events).await, "{action}");
                while !is_silent(&mut events).await {}
            }
        }
    });
}
