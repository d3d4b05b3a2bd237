//! One socket, many users, some of whom give up.

use overlay_core::action::KernelAction;

use crate::namespace::{DEVICE, add_peer, execute, in_namespace, observe, set_up};

#[test]
fn clones_may_be_used_at_the_same_time() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        execute(&netlink, &(2..500).flat_map(add_peer).collect::<Vec<_>>()).await;
        let expected = observe(&netlink).await;
        let other = netlink.clone();
        let (a, b, c, port) = tokio::join!(
            observe(&netlink),
            observe(&other),
            observe(&netlink),
            other.vxlan_devices_on_port(8472, "none"),
        );
        assert!(a == expected && b == expected && c == expected);
        assert_eq!(port.unwrap(), [DEVICE]);
    });
}

#[test]
fn observation_is_consistent_while_the_device_is_replaced() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        execute(&netlink, &add_peer(2)).await;
        let other = netlink.clone();
        let replacing = async {
            for _ in 0..30 {
                let ifindex = other
                    .observe_device(DEVICE)
                    .await
                    .unwrap()
                    .expect("the device")
                    .ifindex;
                execute(
                    &other,
                    &[KernelAction::DeleteDevice {
                        name: DEVICE.to_owned(),
                        ifindex,
                    }],
                )
                .await;
                set_up(&other).await;
                execute(&other, &add_peer(2)).await;
            }
        };
        let observing = async {
            for _ in 0..200 {
                // Complete, or with nothing yet, but never with the entries of two devices.
                if let Some(device) = netlink.observe_device(DEVICE).await.unwrap() {
                    assert!(device.fdb.len() <= 1, "{device:#?}");
                    assert!(device.vxlan.is_some());
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(replacing, observing);
    });
}
