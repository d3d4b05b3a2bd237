//! What the loop tells the rest of the agent: whether the device is there, and what is wrong.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use overlay_core::desired::{Desired, Problem};
use overlay_core::model::MacAddr;
use overlay_core::observed::Observed;

/// How this node stands after the last pass.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct State {
    /// The VTEP device, while it exists, is up and is configured as wanted.
    pub device: Option<DeviceState>,
    /// The device is in place and the first complete list has been programmed. False again when the device is gone.
    pub ready: bool,
    /// How many steps are not done: they failed, or wait for one that did. The whole plan counts as one when it could not
    /// be made.
    pub failing: usize,
    /// What is wrong with the leases or the node. None of it stops the rest.
    pub problems: Vec<Problem>,
}

/// The VTEP device as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceState {
    /// Interface name.
    pub name: String,
    /// Link-layer address.
    pub mac: MacAddr,
    /// MTU in bytes.
    pub mtu: u32,
    /// This node's pod subnet.
    pub subnet: IpNet,
    /// The cluster's overlay network.
    pub network: Ipv4Net,
    /// Name of the underlay device.
    pub underlay: String,
    /// The underlay device's address, which packets leave with.
    pub address: IpAddr,
}

/// The device of `observed`, if it is as `desired` wants it.
pub(super) fn device(
    desired: &Desired,
    observed: &Observed,
    subnet: IpNet,
    underlay: &str,
) -> Option<DeviceState> {
    let found = observed.device.as_ref()?;
    let wanted = &desired.device;
    let as_wanted = found.up
        && found.mac == Some(wanted.mac)
        && found.mtu == wanted.mtu
        && desired.addresses.is_subset(&found.addresses);
    as_wanted.then(|| DeviceState {
        name: wanted.name.clone(),
        mac: wanted.mac,
        mtu: found.mtu,
        subnet,
        network: desired.network,
        underlay: underlay.to_owned(),
        address: wanted.local,
    })
}

/// Whether a device that was as wanted is still the one that was found.
pub(super) fn stands(device: &DeviceState, observed: &Observed) -> bool {
    observed
        .device
        .as_ref()
        .is_some_and(|found| found.up && found.mac == Some(device.mac) && found.mtu == device.mtu)
}
