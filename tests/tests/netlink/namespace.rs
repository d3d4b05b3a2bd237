//! A private network namespace with an underlay, and the tools of iproute2 in it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::panic;
use std::process::Command;
use std::thread;

use ipnet::{IpNet, Ipv4Net};
use nix::sched::{CloneFlags, unshare};
use overlay_agent::netlink::Netlink;
use overlay_core::action::{KernelAction, VxlanDevice};
use overlay_core::model::MacAddr;
use overlay_core::observed::Device;
use serde_json::Value;

/// Name of the device that the tests make.
pub(crate) const DEVICE: &str = "flannel.1";

/// Address of the underlay device `e0`.
pub(crate) const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);

/// Runs the test on a thread in a new network namespace, which goes away with the thread. It has `lo` and the veth pair
/// `e0` (192.168.0.1/24) and `e1`, all up, and no IPv6 addresses.
pub(crate) fn in_namespace(test: impl AsyncFnOnce(Netlink) + Send + 'static) {
    in_empty_namespace(async |netlink| {
        ip("link add e0 type veth peer name e1");
        ip("link set e0 up");
        ip("link set e1 up");
        ip(&format!("address add {LOCAL}/24 dev e0"));
        test(netlink).await;
    });
}

/// Like [`in_namespace`], with `lo` only.
pub(crate) fn in_empty_namespace(test: impl AsyncFnOnce(Netlink) + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("the netlink tests need root (CAP_SYS_ADMIN) for network namespaces");
        // So that a device has what the test gives it, and not what IPv6 adds some time later.
        fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("a sysctl of the namespace");
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a tokio runtime");
        runtime.block_on(async { test(Netlink::connect().expect("a netlink socket")).await });
    });
    if let Err(payload) = thread.join() {
        panic::resume_unwind(payload);
    }
}

fn run(program: &str, arguments: &str) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("the netlink tests need `{program}` (iproute2): {error}"));
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).expect("text"))
    } else {
        Err(format!(
            "`{program} {arguments}`: {}",
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

/// Runs `ip`, which must succeed.
pub(crate) fn ip(arguments: &str) {
    run("ip", arguments).unwrap_or_else(|error| panic!("{error}"));
}

/// Runs `bridge`, which must succeed.
pub(crate) fn bridge(arguments: &str) {
    run("bridge", arguments).unwrap_or_else(|error| panic!("{error}"));
}

/// What `ip -d -j` prints.
pub(crate) fn ip_json(arguments: &str) -> Value {
    json("ip", arguments)
}

/// What `bridge -d -j` prints.
pub(crate) fn bridge_json(arguments: &str) -> Value {
    json("bridge", arguments)
}

fn json(program: &str, arguments: &str) -> Value {
    let text = run(program, &format!("-d -j {arguments}")).unwrap_or_else(|error| panic!("{error}"));
    if text.trim().is_empty() {
        return Value::Array(Vec::new());
    }
    serde_json::from_str(&text).expect("JSON")
}

/// MAC address of the device of node `n`.
pub(crate) fn mac(n: u16) -> MacAddr {
    let [high, low] = n.to_be_bytes();
    MacAddr::new([2, 0, 0, 0, high, low])
}

/// Overlay address of node `n`: the first of its pod subnet.
pub(crate) fn overlay(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    Ipv4Addr::new(10, high, low, 0).into()
}

/// Pod subnet of node `n`.
pub(crate) fn subnet(n: u16) -> IpNet {
    IpNet::new(overlay(n), 24).expect("a prefix length")
}

/// Underlay address of node `n`.
pub(crate) fn vtep(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    Ipv4Addr::new(192, 168, high, low).into()
}

/// The three entries of a peer.
pub(crate) fn add_peer(n: u16) -> [KernelAction; 3] {
    [
        KernelAction::SetNeighbour {
            address: overlay(n),
            mac: mac(n),
        },
        KernelAction::SetFdb {
            mac: mac(n),
            destination: vtep(n),
        },
        KernelAction::SetRoute {
            destination: subnet(n),
            gateway: overlay(n),
        },
    ]
}

/// Their removal.
pub(crate) fn remove_peer(n: u16) -> [KernelAction; 3] {
    [
        KernelAction::RemoveRoute {
            destination: subnet(n),
            gateway: overlay(n),
        },
        KernelAction::RemoveFdb {
            mac: mac(n),
            destination: vtep(n),
        },
        KernelAction::RemoveNeighbour { address: overlay(n) },
    ]
}

/// The device of node 1 on `e0`.
pub(crate) async fn wanted(netlink: &Netlink) -> VxlanDevice {
    let underlay = netlink.underlay(Some("e0")).await.expect("the underlay");
    VxlanDevice {
        name: DEVICE.to_owned(),
        vni: 1,
        port: None,
        local: LOCAL.into(),
        underlay_ifindex: underlay.ifindex,
        mac: mac(1),
        mtu: 1450,
        learning: false,
        gbp: false,
    }
}

/// Carries out actions that must succeed.
pub(crate) async fn execute(netlink: &Netlink, actions: &[KernelAction]) {
    for (action, result) in actions.iter().zip(try_execute(netlink, actions).await) {
        result.unwrap_or_else(|error| panic!("{action}: {error}"));
    }
}

/// Carries out actions; what became of each.
pub(crate) async fn try_execute(netlink: &Netlink, actions: &[KernelAction]) -> Vec<Result<(), String>> {
    let results = netlink
        .execute_all(DEVICE, &actions.iter().collect::<Vec<_>>())
        .await;
    assert_eq!(results.len(), actions.len(), "a result for each action");
    results
        .into_iter()
        .map(|result| result.map_err(|error| format!("{error:#}")))
        .collect()
}

/// Creates the device of node 1, gives it its address and sets it up.
pub(crate) async fn set_up(netlink: &Netlink) {
    let device = KernelAction::CreateDevice(wanted(netlink).await);
    let address = KernelAction::AddAddress(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 1, 0), 32).into());
    execute(netlink, &[device, address, KernelAction::SetDeviceUp]).await;
}

/// What the kernel holds for the device, which must be there.
pub(crate) async fn observe(netlink: &Netlink) -> Device {
    netlink
        .observe_device(DEVICE)
        .await
        .expect("an observation")
        .expect("the device")
}
