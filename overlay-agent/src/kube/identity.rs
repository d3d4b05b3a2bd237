//! Who this node is in the overlay.

use std::net::IpAddr;

use anyhow::Result;
use overlay_core::model::MacAddr;
use tokio::sync::watch;
use tokio::time::sleep;

use super::mac::{self, Origin};
use super::retry::Retry;
use crate::control::state::State;
use crate::netlink::{InterfaceChoice, Kept, Netlink};

/// What peers must know to reach this node. Known once the underlay is chosen and the VTEP's MAC address decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Underlay address of this node's VTEP, as peers are told (`public-ip`).
    pub public_ip: IpAddr,
    /// MAC address of this node's VTEP device (`VtepMAC`).
    pub vtep_mac: MacAddr,
}

/// Who this node is at start: `public_ip`, or the address of the underlay interface; and the MAC address that peers know, or a
/// new one (see [`mac::choose`]). Waits for the interface.
///
/// # Errors
///
/// When the system has no randomness.
pub async fn at_start(
    netlink: &Netlink,
    iface: &InterfaceChoice,
    device: &str,
    public_ip: Option<IpAddr>,
    stored: Option<MacAddr>,
) -> Result<Identity> {
    let random = mac::random()?;
    let mut retry = Retry::default();
    loop {
        match look(netlink, iface, device).await {
            Ok((address, existing)) => {
                retry.succeeded("finding the underlay interface");
                let (vtep_mac, origin) = mac::choose(existing, stored, random);
                announce(device, vtep_mac, origin, stored);
                return Ok(Identity {
                    public_ip: public_ip.unwrap_or(address),
                    vtep_mac,
                });
            }
            Err(error) => {
                let text = format!("{error:#}; trying again, nothing is changed on this node until then");
                sleep(retry.failed(log::Level::Error, text)).await;
            }
        }
    }
}

/// The underlay address, and the MAC address of the device if it exists.
async fn look(netlink: &Netlink, iface: &InterfaceChoice, device: &str) -> Result<(IpAddr, Option<MacAddr>)> {
    let kept = netlink.place_of(device).await?.map(Kept::Found);
    let underlay = netlink.stable_underlay(iface, kept).await?;
    Ok((underlay.address, netlink.vtep_mac(device).await?))
}

fn announce(device: &str, mac: MacAddr, origin: Origin, stored: Option<MacAddr>) {
    log::info!("Interface {device} mac address set to: {mac} ({origin})");
    if let Some(stored) = stored.filter(|stored| *stored != mac) {
        log::warn!(
            "the Node's annotation says that the VTEP has MAC address {stored}, but {device} has {mac}: that is published, and \
             peers that know the other reach this node again when they have read it"
        );
    }
}

/// Follows the underlay: when the device sends from another address than before, that is what peers are told, unless
/// `public_ip` says otherwise. The MAC address stays for as long as the agent runs.
pub async fn follow(
    identity: watch::Sender<Identity>,
    public_ip: Option<IpAddr>,
    mut state: watch::Receiver<State>,
) {
    loop {
        let address = state
            .borrow_and_update()
            .device
            .as_ref()
            .map(|device| public_ip.unwrap_or(device.address));
        if let Some(address) = address {
            identity.send_if_modified(|identity| {
                let new = identity.public_ip != address;
                if new {
                    log::info!(
                        "peers are told to send to {address} from now on, no longer to {}",
                        identity.public_ip
                    );
                    identity.public_ip = address;
                }
                new
            });
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::state::DeviceState;

    fn state(address: [u8; 4]) -> State {
        State {
            device: Some(DeviceState {
                name: "flannel.1".to_owned(),
                mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
                mtu: 1450,
                subnet: "10.244.1.0/24".parse().unwrap(),
                network: "10.244.0.0/16".parse().unwrap(),
                underlay: "eth0".to_owned(),
                address: address.into(),
            }),
            ..State::default()
        }
    }

    async fn followed(public_ip: Option<IpAddr>) -> (IpAddr, bool) {
        let (states, state_of) = watch::channel(State::default());
        let start = Identity {
            public_ip: public_ip.unwrap_or([192, 168, 0, 1].into()),
            vtep_mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
        };
        let (identities, mut identity) = watch::channel(start);
        identity.mark_unchanged();
        let task = tokio::spawn(follow(identities, public_ip, state_of));
        for address in [[192, 168, 0, 1], [192, 168, 0, 2]] {
            states.send_replace(state(address));
            tokio::task::yield_now().await;
        }
        // Without a device nothing is known to be different.
        states.send_replace(State::default());
        drop(states);
        task.await.unwrap();
        let changed = identity.has_changed().is_ok_and(|changed| changed);
        (
            identity.borrow().public_ip,
            changed || identity.borrow().public_ip != start.public_ip,
        )
    }

    #[tokio::test]
    async fn the_underlay_address_is_followed() {
        assert_eq!(followed(None).await, ([192, 168, 0, 2].into(), true));
    }

    #[tokio::test]
    async fn an_address_that_an_operator_gave_stays() {
        let given = [203, 0, 113, 7].into();
        assert_eq!(followed(Some(given)).await, (given, false));
    }
}
