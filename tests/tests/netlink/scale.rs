//! Thousands of peers: complete, and fast.

use std::time::{Duration, Instant};

use overlay_core::action::KernelAction;

use crate::namespace::{add_peer, execute, in_namespace, observe, remove_peer, set_up};

fn all(peers: u16, actions: fn(u16) -> [KernelAction; 3]) -> Vec<KernelAction> {
    (2..peers + 2).flat_map(actions).collect()
}

#[test]
fn dump_of_5000_peers_is_complete() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        let before = observe(&netlink).await;
        execute(&netlink, &all(5_000, add_peer)).await;
        let observed = observe(&netlink).await;
        assert_eq!(observed.neighbours.len(), before.neighbours.len() + 5_000);
        assert_eq!(observed.fdb.len(), before.fdb.len() + 5_000);
        assert_eq!(observed.routes.len(), before.routes.len() + 5_000);
        execute(&netlink, &all(5_000, remove_peer)).await;
        assert_eq!(observe(&netlink).await, before);
    });
}

/// The aim is 0.25 s in a release build; the bound leaves room for a debug build beside other tests.
#[test]
fn programming_1000_peers_is_fast() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        let add = all(1_000, add_peer);
        let remove = all(1_000, remove_peer);
        let time = async |actions: &[KernelAction]| {
            let start = Instant::now();
            execute(&netlink, actions).await;
            start.elapsed()
        };
        let (added, repeated) = (time(&add).await, time(&add).await);
        let start = Instant::now();
        observe(&netlink).await;
        let observed = start.elapsed();
        let removed = time(&remove).await;
        println!(
            "1,000 peers: added in {added:?}, again in {repeated:?}, observed in {observed:?}, removed in {removed:?}"
        );
        assert!(added < Duration::from_secs(2), "{added:?}");
        assert!(removed < Duration::from_secs(2), "{removed:?}");
    });
}
