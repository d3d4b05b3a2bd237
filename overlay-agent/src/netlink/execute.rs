//! Carrying out the actions of a plan that concern links, addresses, routes, neighbours and the forwarding database.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Result, anyhow};
use ipnet::IpNet;
use overlay_core::action::Action;
use overlay_core::observed::Route;
use overlay_core::ownership::ROUTE_PROTOCOL;
use rtnetlink::packet_route::AddressFamily;

use super::Netlink;
use super::error::RequestError;
use super::explain::explain;
use super::request::{already_done, entry_change, removes};

impl Netlink {
    /// Carries out one action on the device of this name. Doing what is already done is `Ok`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, with what was attempted and what an operator can do; when the action is none of netlink's.
    pub async fn execute(&self, device_name: &str, action: &Action) -> Result<()> {
        let not_done = || Err(anyhow!("{action}: not attempted"));
        self.execute_all(device_name, &[action])
            .await
            .pop()
            .unwrap_or_else(not_done)
    }

    /// Carries out the actions in order on the device of this name, many to a system call: one result for each, as
    /// [`Netlink::execute`] gives it. An action that fails does not keep the next from being tried.
    pub async fn execute_all(&self, device_name: &str, actions: &[&Action]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(actions.len());
        let mut rest = actions;
        while let Some((&first, tail)) = rest.split_first() {
            let entries = rest
                .iter()
                .take_while(|action| entry_change(action, 0).is_some())
                .count();
            if let Some((run, behind)) = rest.split_at_checked(entries).filter(|_| entries > 0) {
                results.extend(self.change_entries(device_name, run).await);
                rest = behind;
            } else {
                results.push(self.change_device(device_name, first).await);
                rest = tail;
            }
        }
        results
    }

    /// Actions on the device itself.
    async fn change_device(&self, device_name: &str, action: &Action) -> Result<()> {
        match action {
            Action::CreateDevice(device) => self.create_device(action, device).await,
            Action::DeleteDevice { name, ifindex } => self.delete_device(action, name, *ifindex).await,
            Action::SetDeviceMtu(mtu) => self.set_device_mtu(action, device_name, *mtu).await,
            Action::SetDeviceUp => self.set_device_up(action, device_name).await,
            Action::AddAddress(_)
            | Action::RemoveAddress(_)
            | Action::SetNeighbour { .. }
            | Action::RemoveNeighbour { .. }
            | Action::SetFdb { .. }
            | Action::RemoveFdb { .. }
            | Action::SetRoute { .. }
            | Action::RemoveRoute { .. }
            | Action::LoadDataplane
            | Action::RemoveDataplane
            | Action::Attach { .. }
            | Action::SetConfig(_)
            | Action::AddPeer(_)
            | Action::RemovePeer(_)
            | Action::SetSubnet { .. }
            | Action::RemoveSubnet(_) => Err(anyhow!("{action}: not an action on a device")),
        }
    }

    /// Actions on the device's entries, as one sequence of requests.
    async fn change_entries(&self, device_name: &str, actions: &[&Action]) -> Vec<Result<()>> {
        let ifindex = match self.socket.link_named(device_name).await {
            Ok(Some(link)) => link.ifindex,
            Ok(None) => {
                return actions
                    .iter()
                    .map(|action| without_device(action, device_name))
                    .collect();
            }
            Err(error) => {
                return actions
                    .iter()
                    .map(|action| Err(explain(action, device_name, &error)))
                    .collect();
            }
        };
        let mut present = match self.removable_routes(actions, ifindex).await {
            Ok(present) => present,
            Err(error) => {
                return actions
                    .iter()
                    .map(|action| Err(explain(action, device_name, &error)))
                    .collect();
            }
        };
        let needed: Vec<bool> = actions
            .iter()
            .map(|action| is_needed(action, &mut present))
            .collect();
        let changes = actions.iter().zip(&needed).filter(|&(_, &needed)| needed);
        let changes = changes
            .filter_map(|(action, _)| entry_change(action, ifindex))
            .collect();
        let mut answers = self.socket.change(changes).await.into_iter();
        let mut results = Vec::with_capacity(actions.len());
        for (action, needed) in actions.iter().zip(needed) {
            let answer = if needed {
                answers
                    .next()
                    .unwrap_or_else(|| Err(RequestError::lost("the request was not sent")))
            } else {
                Ok(())
            };
            results.push(match answer {
                Err(error) if error.errno().is_some_and(|errno| already_done(action, errno)) => Ok(()),
                other => other.map_err(|error| explain(action, device_name, &error)),
            });
        }
        results
    }

    /// The routes that `RemoveRoute` may remove.
    ///
    /// A deletion without metric matches a route of any metric, so one that is repeated would go on to delete
    /// somebody else's. Therefore it is sent only for a route that is there.
    async fn removable_routes(
        &self,
        actions: &[&Action],
        ifindex: u32,
    ) -> Result<BTreeSet<(IpNet, IpAddr)>, RequestError> {
        let mut present = BTreeSet::new();
        for (family, ipv6) in [(AddressFamily::Inet, false), (AddressFamily::Inet6, true)] {
            let wanted = |action: &&Action| matches!(action, Action::RemoveRoute { destination, .. } if destination.addr().is_ipv6() == ipv6);
            if actions.iter().any(wanted) {
                present.extend(
                    self.socket
                        .routes(family, ifindex)
                        .await?
                        .into_iter()
                        .filter_map(like_ours),
                );
            }
        }
        Ok(present)
    }
}

/// Destination and gateway of a route that [`Action::SetRoute`] could have made.
fn like_ours(route: Route) -> Option<(IpNet, IpAddr)> {
    let ours = route.plain && route.metric == 0 && route.protocol == ROUTE_PROTOCOL;
    Some((route.destination, route.gateway?)).filter(|_| ours)
}

/// Whether the action must be sent, given the routes present when it is its turn.
fn is_needed(action: &Action, present: &mut BTreeSet<(IpNet, IpAddr)>) -> bool {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only routes are looked up before they are removed"
    )]
    match action {
        Action::SetRoute { destination, gateway } => {
            present.insert((*destination, *gateway));
            true
        }
        Action::RemoveRoute { destination, gateway } => present.remove(&(*destination, *gateway)),
        _ => true,
    }
}

/// What an action on an entry comes to when there is no device.
fn without_device(action: &Action, device_name: &str) -> Result<()> {
    if removes(action) {
        return Ok(());
    }
    Err(anyhow!(
        "{action}: there is no device `{device_name}`; it is created again by the next plan"
    ))
}
