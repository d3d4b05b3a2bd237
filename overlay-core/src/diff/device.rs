//! The VTEP device: created, recreated or corrected in place.

use std::fmt::Write as _;

use super::ForeignDevice;
use crate::action::{KernelAction, VxlanDevice};
use crate::desired::Desired;
use crate::net_conf::DEFAULT_PORT;
use crate::observed::{Device, VxlanAttributes};
use crate::order::{Ordered, Phase};
use crate::ownership;

/// What becomes of the link with our name.
pub(super) enum Fate<'o> {
    /// There is none.
    Create,
    /// It cannot become what it should be: deleted and created. Whatever is on it goes with it.
    Recreate { device: &'o Device, why: String },
    /// It stays.
    Keep(&'o Device),
}

impl<'o> Fate<'o> {
    /// The device whose contents survive the plan.
    pub(super) fn kept(&self) -> Option<&'o Device> {
        match self {
            Self::Keep(device) => Some(device),
            Self::Create | Self::Recreate { .. } => None,
        }
    }
}

pub(super) fn fate<'o>(wanted: &VxlanDevice, found: Option<&'o Device>) -> Result<Fate<'o>, ForeignDevice> {
    let Some(device) = found else {
        return Ok(Fate::Create);
    };
    if !ownership::usable(device) {
        return Err(ForeignDevice {
            name: wanted.name.clone(),
            ifindex: device.ifindex,
        });
    }
    let why = differences(wanted, device);
    Ok(if why.is_empty() {
        Fate::Keep(device)
    } else {
        Fate::Recreate { device, why }
    })
}

pub(super) fn plan(desired: &Desired, fate: &Fate<'_>, steps: &mut Ordered) {
    let wanted = &desired.device;
    match fate {
        Fate::Keep(device) => {
            if device.mtu != wanted.mtu {
                let why = format!("MTU is {}, wanted {}", device.mtu, wanted.mtu);
                steps.push(Phase::Mtu, KernelAction::SetDeviceMtu(wanted.mtu), why);
            }
            if !device.up {
                steps.push(Phase::Up, KernelAction::SetDeviceUp, "the device is down");
            }
        }
        Fate::Create => {
            steps.push(
                Phase::CreateDevice,
                KernelAction::CreateDevice(wanted.clone()),
                "missing",
            );
            steps.push(Phase::Up, KernelAction::SetDeviceUp, "the device is new");
        }
        Fate::Recreate { device, why } => {
            let delete = KernelAction::DeleteDevice {
                name: wanted.name.clone(),
                ifindex: device.ifindex,
            };
            steps.push(Phase::DeleteDevice, delete, why.clone());
            steps.push(
                Phase::CreateDevice,
                KernelAction::CreateDevice(wanted.clone()),
                why.clone(),
            );
            steps.push(Phase::Up, KernelAction::SetDeviceUp, "the device is new");
        }
    }
    let network = desired.network;
    let present = fate.kept().map(|device| &device.addresses);
    let is_present = |address| present.is_some_and(|addresses| addresses.contains(address));
    for address in desired.addresses.iter().filter(|address| !is_present(address)) {
        steps.push(Phase::AddAddress, KernelAction::AddAddress(*address), "missing");
    }
    for address in present.into_iter().flatten() {
        if ownership::address(network, address) && !desired.addresses.contains(address) {
            let why = "inside the overlay's Network and not this node's";
            steps.push(Phase::RemoveAddress, KernelAction::RemoveAddress(*address), why);
        }
    }
}

/// What an existing device has that cannot be changed in place, in words; empty when there is nothing.
///
/// Stricter than flannel, which compares ports, indices and addresses only where both sides have one, and the MAC and
/// learning not at all: then the device would not be what the leases and the programs' configuration say it is.
fn differences(wanted: &VxlanDevice, device: &Device) -> String {
    let mut why = String::new();
    let mut differs = |what: &str, found: String, wanted: String| {
        if found != wanted {
            let separator = if why.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            write!(why, "{separator}{what} is {found}, wanted {wanted}").unwrap_or_default();
        }
    };
    let Some(VxlanAttributes {
        vni,
        port,
        local,
        underlay_ifindex,
        learning,
        gbp,
        collect_metadata,
        group,
        l2miss,
    }) = &device.vxlan
    else {
        return why;
    };
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".into());
    let on_off = |on: bool| if on { "on" } else { "off" }.to_owned();
    differs("metadata mode", on_off(*collect_metadata), on_off(false));
    differs("VNI", vni.to_string(), wanted.vni.to_string());
    differs(
        "port",
        port.to_string(),
        wanted.port.unwrap_or(DEFAULT_PORT).to_string(),
    );
    differs(
        "local address",
        or_none(local.map(|ip| ip.to_string())),
        wanted.local.to_string(),
    );
    let index = or_none(underlay_ifindex.map(|index| index.to_string()));
    differs(
        "underlay device index",
        index,
        wanted.underlay_ifindex.to_string(),
    );
    differs(
        "MAC",
        or_none(device.mac.map(|mac| mac.to_string())),
        wanted.mac.to_string(),
    );
    differs("learning", on_off(*learning), on_off(wanted.learning));
    differs("group policy", on_off(*gbp), on_off(wanted.gbp));
    differs("group", or_none(group.map(|ip| ip.to_string())), or_none(None));
    differs("l2miss", on_off(*l2miss), on_off(false));
    why
}
