//! The device is flannel's, attribute for attribute.

use std::fs;

use overlay_core::action::{KernelAction, VxlanDevice};
use overlay_core::observed::VxlanAttributes;
use overlay_core::ownership::DEVICE_MARK;
use serde_json::Value;

use crate::namespace::{
    DEVICE, LOCAL, execute, in_namespace, ip, ip_json, mac, observe, set_up, try_execute, wanted,
};

/// The link as `ip -d -j link show` has it, without what differs between two devices of the same making.
fn link_json() -> Value {
    let mut links = ip_json(&format!("link show {DEVICE}"));
    let link = links[0].as_object_mut().expect("one link");
    link.remove("ifindex").expect("an index");
    links
}

/// `ip link add` of what flannel creates.
fn by_hand(device: &VxlanDevice) -> String {
    let VxlanDevice {
        name,
        vni,
        mac,
        mtu,
        local,
        ..
    } = device;
    let learning = if device.learning { "learning" } else { "nolearning" };
    let gbp = if device.gbp { "gbp" } else { "" };
    let port = device.port.unwrap_or(0);
    format!(
        "link add {name} address {mac} mtu {mtu} txqueuelen 0 type vxlan id {vni} dev e0 local {local} ttl 0 tos 0 \
         {learning} noproxy norsc nol2miss nol3miss noudp6zerocsumtx noudp6zerocsumrx {gbp} dstport {port}"
    )
}

fn is_made_like_by_hand(change: impl FnOnce(&mut VxlanDevice) + Send + 'static) {
    in_namespace(async |netlink| {
        let mut device = wanted(&netlink).await;
        change(&mut device);
        execute(&netlink, &[KernelAction::CreateDevice(device.clone())]).await;
        let mut made = link_json();
        let mark = made[0].as_object_mut().and_then(|link| link.remove("ifalias"));
        assert_eq!(
            mark,
            Some(Value::from(DEVICE_MARK)),
            "the mark is the only difference"
        );
        ip(&format!("link delete {DEVICE}"));
        ip(&by_hand(&device));
        assert_eq!(made, link_json());
    });
}

#[test]
fn default_device_is_made_like_by_hand() {
    is_made_like_by_hand(|_| {});
}

#[test]
fn device_with_every_option_is_made_like_by_hand() {
    is_made_like_by_hand(|device| {
        device.vni = 4097;
        device.port = Some(4789);
        device.mtu = 1370;
        device.learning = true;
        device.gbp = true;
    });
}

#[test]
fn observation_gives_back_what_was_created() {
    in_namespace(async |netlink| {
        assert_eq!(netlink.observe_device(DEVICE).await.unwrap(), None);
        let device = VxlanDevice {
            port: Some(8472),
            gbp: true,
            ..wanted(&netlink).await
        };
        execute(&netlink, &[KernelAction::CreateDevice(device.clone())]).await;
        let observed = observe(&netlink).await;
        assert_eq!(
            (observed.up, observed.mtu, observed.mac),
            (false, 1450, Some(mac(1)))
        );
        assert_eq!(observed.alias.as_deref(), Some(DEVICE_MARK));
        assert_eq!(
            observed.vxlan,
            Some(VxlanAttributes {
                vni: 1,
                port: 8472,
                local: Some(LOCAL.into()),
                underlay_ifindex: Some(device.underlay_ifindex),
                learning: false,
                gbp: true,
                collect_metadata: false,
                group: None,
                l2miss: false,
            })
        );
        assert!(observed.addresses.is_empty() && observed.routes.is_empty() && observed.fdb.is_empty());
        let accept_ra = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{DEVICE}/accept_ra")).unwrap();
        assert_eq!(accept_ra.trim(), "0");
    });
}

#[test]
fn each_action_on_the_device_may_be_repeated() {
    in_namespace(async |netlink| {
        let create = KernelAction::CreateDevice(wanted(&netlink).await);
        execute(&netlink, &[create.clone(), create]).await;
        execute(
            &netlink,
            &[KernelAction::SetDeviceMtu(1400), KernelAction::SetDeviceMtu(1400)],
        )
        .await;
        execute(&netlink, &[KernelAction::SetDeviceUp, KernelAction::SetDeviceUp]).await;
        let observed = observe(&netlink).await;
        assert_eq!((observed.up, observed.mtu), (true, 1400));
        let delete = KernelAction::DeleteDevice {
            name: DEVICE.to_owned(),
            ifindex: observed.ifindex,
        };
        execute(&netlink, &[delete.clone(), delete]).await;
        assert_eq!(netlink.observe_device(DEVICE).await.unwrap(), None);
    });
}

#[test]
fn device_of_another_name_or_kind_is_not_deleted() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        let ifindex = observe(&netlink).await.ifindex;
        ip(&format!("link set {DEVICE} name precious"));
        let delete = |name: &str, ifindex| KernelAction::DeleteDevice {
            name: name.to_owned(),
            ifindex,
        };
        let underlay = netlink.underlay(Some("e0")).await.unwrap().ifindex;
        let results = try_execute(&netlink, &[delete(DEVICE, ifindex), delete("e0", underlay)]).await;
        let [Err(renamed), Err(kind)] = results.as_slice() else {
            panic!("{results:?}")
        };
        assert!(renamed.contains("precious"), "{renamed}");
        assert!(kind.contains("veth"), "{kind}");
        assert_eq!(ip_json("link show precious")[0]["ifindex"], ifindex);
    });
}

#[test]
fn changed_mac_address_is_noticed_when_the_device_goes_up() {
    in_namespace(async |netlink| {
        execute(&netlink, &[KernelAction::CreateDevice(wanted(&netlink).await)]).await;
        // As udev does with MACAddressPolicy=persistent.
        ip(&format!("link set {DEVICE} address 0a:00:00:00:00:99"));
        let error = try_execute(&netlink, &[KernelAction::SetDeviceUp])
            .await
            .remove(0)
            .unwrap_err();
        for word in ["02:00:00:00:00:01", "0a:00:00:00:00:99", "udev"] {
            assert!(error.contains(word), "{error}");
        }
    });
}

#[test]
fn mtu_out_of_range_is_refused_in_the_kernels_words() {
    in_namespace(async |netlink| {
        set_up(&netlink).await;
        let error = try_execute(&netlink, &[KernelAction::SetDeviceMtu(66000)])
            .await
            .remove(0)
            .unwrap_err();
        assert!(error.contains("mtu greater than device maximum"), "{error}");
        assert!(error.contains("66000"), "{error}");
    });
}
