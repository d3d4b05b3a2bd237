//! Carrying out the actions of a plan that concern links, addresses, routes, neighbours and the forwarding database.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Result, anyhow};
use ipnet::IpNet;
use nix::errno::Errno;
use overlay_core::action::KernelAction;
use overlay_core::observed::Route;
use overlay_core::ownership::{ROUTE_PROTOCOL, peer_route, route_protocol};
use rtnetlink::packet_route::AddressFamily;

use super::Netlink;
use super::error::RequestError;
use super::explain::explain;
use super::request::{Change, already_done, entry_change};

/// Routes that are asked for one by one; more are read from the list.
pub(super) const FEW: usize = 32;

/// Destination and gateway of a route.
pub(super) type Way = (IpNet, IpAddr);

impl Netlink {
    /// Carries out one action on the device of this name. Doing what is already done is `Ok`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, with what was attempted and what an operator can do.
    pub async fn execute(&self, device_name: &str, action: &KernelAction) -> Result<()> {
        match action {
            KernelAction::CreateDevice(device) => self.create_device(action, device).await,
            KernelAction::DeleteDevice { name, ifindex } => self.delete_device(action, name, *ifindex).await,
            KernelAction::SetDeviceMtu(mtu) => self.set_device_mtu(action, device_name, *mtu).await,
            KernelAction::SetDeviceUp => self.set_device_up(action, device_name).await,
            KernelAction::AddAddress(_)
            | KernelAction::RemoveAddress(_)
            | KernelAction::SetNeighbour { .. }
            | KernelAction::RemoveNeighbour { .. }
            | KernelAction::SetFdb { .. }
            | KernelAction::RemoveFdb { .. }
            | KernelAction::SetRoute { .. }
            | KernelAction::RemoveRoute { .. } => {
                let not_done = || Err(anyhow!("{action}: not attempted"));
                let mut results = self.change_entries(device_name, &[action]).await;
                results.pop().unwrap_or_else(not_done)
            }
        }
    }

    /// Carries out the actions in order on the device of this name, many to a system call: one result for each, as
    /// [`Netlink::execute`] gives it. An action that fails does not keep the next from being tried.
    pub async fn execute_all(&self, device_name: &str, actions: &[&KernelAction]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(actions.len());
        let mut rest = actions;
        while let Some((&first, tail)) = rest.split_first() {
            let entries = sent_together(rest);
            if let Some((run, behind)) = rest.split_at_checked(entries).filter(|_| entries > 0) {
                results.extend(self.change_entries(device_name, run).await);
                rest = behind;
            } else {
                results.push(self.execute(device_name, first).await);
                rest = tail;
            }
        }
        results
    }

    /// Actions on the device's entries, as one sequence of requests.
    async fn change_entries(&self, device_name: &str, actions: &[&KernelAction]) -> Vec<Result<()>> {
        let ifindex = match self.socket.index_of(device_name).await {
            Ok(Some(ifindex)) => ifindex,
            Ok(None) => {
                return actions
                    .iter()
                    .map(|action| without_device(action, device_name))
                    .collect();
            }
            Err(error) => return all_failed(actions, device_name, &error),
        };
        let mut present = match self.removable_routes(actions, ifindex).await {
            Ok(present) => present,
            Err(error) => return all_failed(actions, device_name, &error),
        };
        let mut routes = self.routes_on(ifindex);
        let changes: Vec<Option<Change>> = actions
            .iter()
            .map(|action| {
                let protocol = if let Some((destination, _)) = set_route(action) {
                    let others = routes;
                    routes = routes.saturating_add(1);
                    route_protocol(destination, others)
                } else if let Some(way) = remove_route(action) {
                    // Nothing is to be done where it is not there.
                    present.remove(&way)?
                } else {
                    ROUTE_PROTOCOL
                };
                entry_change(action, ifindex, protocol)
            })
            .collect();
        let needed: Vec<bool> = changes.iter().map(Option::is_some).collect();
        let changes: Vec<Change> = changes.into_iter().flatten().collect();
        let mut answers = self.socket.change(&changes).await.into_iter();
        let mut results = Vec::with_capacity(actions.len());
        let mut refused = Vec::new();
        for (&action, needed) in actions.iter().zip(needed) {
            let answer = if needed {
                answers
                    .next()
                    .unwrap_or_else(|| Err(RequestError::lost("the request was not sent")))
            } else {
                Ok(())
            };
            if needed && answer.is_ok() {
                self.count_route(ifindex, action);
            }
            let errno = answer.as_ref().err().and_then(RequestError::errno);
            if errno == Some(Errno::EEXIST) && matches!(action, KernelAction::SetRoute { .. }) {
                refused.push((results.len(), action));
            }
            results.push(match answer {
                Err(_) if errno.is_some_and(|errno| already_done(action, errno)) => Ok(()),
                other => other.map_err(|error| explain(action, device_name, &error)),
            });
        }
        if !refused.is_empty() {
            let (indexes, refused): (Vec<usize>, Vec<&KernelAction>) = refused.into_iter().unzip();
            let settled = self.settle_routes(device_name, ifindex, &refused).await;
            for (index, result) in indexes.into_iter().zip(settled) {
                if let Some(slot) = results.get_mut(index) {
                    *slot = result;
                }
            }
        }
        results
    }

    /// The routes that `RemoveRoute` may remove, with their protocols.
    ///
    /// A deletion without metric matches a route of any metric, so one that is repeated would go on to delete
    /// somebody else's. Therefore it is sent only for a route that is there, and names its protocol.
    async fn removable_routes(
        &self,
        actions: &[&KernelAction],
        ifindex: u32,
    ) -> Result<BTreeMap<Way, u8>, RequestError> {
        let removals: BTreeSet<Way> = actions.iter().filter_map(|action| remove_route(action)).collect();
        if removals.len() <= FEW
            && let Some(present) = self.routes_by_question(&removals, ifindex).await?
        {
            return Ok(present);
        }
        let mut present = BTreeMap::new();
        for (family, ipv6) in [(AddressFamily::Inet, false), (AddressFamily::Inet6, true)] {
            let of_family = |(destination, _): &Way| destination.addr().is_ipv6() == ipv6;
            if removals.iter().any(of_family) {
                let routes = self.socket.routes(family, ifindex).await?;
                present.extend(routes.iter().filter_map(like_ours));
            }
        }
        Ok(present)
    }

    /// These routes, asked for one by one; `None` unless every one of them is found so. One that is not may be hidden
    /// behind another: a rule that looks elsewhere first, a route to the address alone, a blackhole.
    pub(super) async fn routes_by_question(
        &self,
        ways: &BTreeSet<Way>,
        ifindex: u32,
    ) -> Result<Option<BTreeMap<Way, u8>>, RequestError> {
        let mut present = BTreeMap::new();
        for way in ways {
            let route = self.socket.route_found(way.0, ifindex).await?;
            match route
                .as_ref()
                .and_then(like_ours)
                .filter(|(found, _)| found == way)
            {
                Some((way, protocol)) => present.insert(way, protocol),
                None => return Ok(None),
            };
        }
        Ok(Some(present))
    }
}

/// Destination and gateway of a route that [`KernelAction::SetRoute`] could have made, and its protocol.
fn like_ours(route: &Route) -> Option<(Way, u8)> {
    let way = (route.destination, route.gateway?);
    peer_route(route).then_some((way, route.protocol))
}

/// How many of the first actions are about entries and can go in one sequence of requests. A route is not removed in
/// the sequence that sets one: what has become of that one shows only afterwards.
fn sent_together(actions: &[&KernelAction]) -> usize {
    let mut sets = false;
    actions
        .iter()
        .take_while(|action| {
            sets |= set_route(action).is_some();
            let removes = matches!(action, KernelAction::RemoveRoute { .. });
            entry_change(action, 0, ROUTE_PROTOCOL).is_some() && !(sets && removes)
        })
        .count()
}

/// Destination and gateway of the route that the action removes.
fn remove_route(action: &KernelAction) -> Option<Way> {
    let KernelAction::RemoveRoute { destination, gateway } = action else {
        return None;
    };
    Some((*destination, *gateway))
}

/// Destination and gateway of the route that the action sets.
pub(super) fn set_route(action: &KernelAction) -> Option<Way> {
    let KernelAction::SetRoute { destination, gateway } = action else {
        return None;
    };
    Some((*destination, *gateway))
}

pub(super) fn all_failed(
    actions: &[&KernelAction],
    device_name: &str,
    error: &RequestError,
) -> Vec<Result<()>> {
    actions
        .iter()
        .map(|action| Err(explain(action, device_name, error)))
        .collect()
}

/// What an action on an entry comes to when there is no device.
fn without_device(action: &KernelAction, device_name: &str) -> Result<()> {
    if !action.is_addition() {
        return Ok(());
    }
    Err(anyhow!(
        "{action}: there is no device `{device_name}`; it is created again by the next plan"
    ))
}
