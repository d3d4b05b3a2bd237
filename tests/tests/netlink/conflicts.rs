//! Errors name the other device.

use std::net::UdpSocket;

use overlay_core::action::{KernelAction, VxlanDevice};

use crate::namespace::{DEVICE, execute, in_namespace, ip, try_execute, wanted};

#[test]
fn another_device_with_the_same_vni_and_port_is_named() {
    in_namespace(async |netlink| {
        ip("link add other0 type vxlan id 1 dev e0 dstport 0");
        ip("link add bystander0 type vxlan id 1 dev e0 dstport 4789");
        let create = KernelAction::CreateDevice(wanted(&netlink).await);
        let error = try_execute(&netlink, &[create]).await.remove(0).unwrap_err();
        for word in ["EEXIST", "other0", "VNI 1", "8472"] {
            assert!(error.contains(word), "{error}");
        }
        assert!(!error.contains("bystander0"), "{error}");
    });
}

#[test]
fn another_link_of_our_name_is_described() {
    in_namespace(async |netlink| {
        ip(&format!("link add {DEVICE} type bridge"));
        let create = KernelAction::CreateDevice(wanted(&netlink).await);
        let error = try_execute(&netlink, &[create]).await.remove(0).unwrap_err();
        assert!(error.contains("bridge"), "{error}");
        assert_eq!(
            netlink
                .observe_device(DEVICE)
                .await
                .unwrap()
                .expect("the bridge")
                .vxlan,
            None
        );
    });
}

#[test]
fn device_of_our_name_with_other_attributes_is_not_taken_for_ours() {
    in_namespace(async |netlink| {
        let device = wanted(&netlink).await;
        execute(&netlink, &[KernelAction::CreateDevice(device.clone())]).await;
        let create = KernelAction::CreateDevice(VxlanDevice { vni: 2, ..device });
        let error = try_execute(&netlink, &[create]).await.remove(0).unwrap_err();
        assert!(error.contains("vxlan id 1"), "{error}");
    });
}

#[test]
fn metadata_device_on_our_port_is_named() {
    in_namespace(async |netlink| {
        ip("link add meta0 type vxlan external dstport 8472");
        ip("link set meta0 up");
        ip("link add other0 type vxlan id 7 dev e0 dstport 4789");
        let create = KernelAction::CreateDevice(wanted(&netlink).await);
        let results = try_execute(&netlink, &[create, KernelAction::SetDeviceUp]).await;
        let [Ok(()), Err(error)] = results.as_slice() else {
            panic!("{results:?}")
        };
        for word in ["EADDRINUSE", "meta0", "8472"] {
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(
            netlink.vxlan_devices_on_port(8472, DEVICE).await.unwrap(),
            ["meta0"]
        );
        assert_eq!(
            netlink.vxlan_devices_on_port(4789, DEVICE).await.unwrap(),
            ["other0"]
        );
        assert_eq!(
            netlink.vxlan_devices_on_port(8472, "meta0").await.unwrap(),
            [DEVICE]
        );
        assert!(netlink.vxlan_devices_on_port(1, DEVICE).await.unwrap().is_empty());
    });
}

#[test]
fn process_on_our_port_is_hinted_at() {
    in_namespace(async |netlink| {
        let _holder = UdpSocket::bind("0.0.0.0:8472").unwrap();
        let create = KernelAction::CreateDevice(wanted(&netlink).await);
        let results = try_execute(&netlink, &[create, KernelAction::SetDeviceUp]).await;
        let [Ok(()), Err(error)] = results.as_slice() else {
            panic!("{results:?}")
        };
        assert!(error.contains("another process"), "{error}");
    });
}

#[test]
fn missing_underlay_is_refused() {
    in_namespace(async |netlink| {
        let device = VxlanDevice {
            underlay_ifindex: 4711,
            ..wanted(&netlink).await
        };
        let error = try_execute(&netlink, &[KernelAction::CreateDevice(device)])
            .await
            .remove(0)
            .unwrap_err();
        assert!(error.contains("ENODEV"), "{error}");
    });
}
