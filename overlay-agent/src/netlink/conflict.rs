//! Routes at destinations that a peer's route was refused at, because something stands there.
//!
//! The kernel keys a route of one table by destination, type of service and metric, whatever device or software it is
//! of. So somebody else's – a static route, a routing daemon's – may stand where ours belongs. It is never replaced.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink has dozens of messages and attributes, and the library's enums grow"
)]

mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Result, anyhow};
use ipnet::IpNet;
use overlay_core::action::KernelAction;
use overlay_core::observed::Route;
use overlay_core::ownership::{self, route_protocol};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use self::shown::{ifindexes, shown};
use super::Netlink;
use super::error::RequestError;
use super::execute::{FEW, all_failed, set_route};
use super::explain::explain;
use super::request::entry_change;
use super::route::{IPV6_DEFAULT_METRIC, in_main_table, main_table, or_no_table, read};

/// What stands at a destination, and so what becomes of the route that was to be set there.
enum Standing {
    /// Exactly the route that was to be set.
    Wanted,
    /// Nothing any more, or routes of ours to other gateways, which may be removed: gateways and protocols.
    Ours(Vec<(IpAddr, u8)>),
    /// Somebody else's, as `ip route` prints it.
    Foreign(String),
}

impl Netlink {
    /// What becomes of routes that were refused because something stands at their destinations: done if it is them,
    /// corrected if it is ours by another gateway, and an error if it is somebody else's.
    pub(super) async fn settle_routes(
        &self,
        device_name: &str,
        ifindex: u32,
        refused: &[&KernelAction],
    ) -> Vec<Result<()>> {
        let routes: Vec<(IpNet, IpAddr)> = refused.iter().filter_map(|action| set_route(action)).collect();
        let standing = match self.standing(ifindex, &routes).await {
            Ok(standing) => standing,
            Err(error) => return all_failed(refused, device_name, &error),
        };
        // Removed exactly and created exclusively, in one datagram: replacing could hit what appeared meanwhile.
        let corrections = |action: &KernelAction, standing: &Standing| {
            let (Some((destination, _)), Standing::Ours(gateways)) = (set_route(action), standing) else {
                return Vec::new();
            };
            let old = gateways
                .iter()
                .map(|&(gateway, protocol)| (KernelAction::RemoveRoute { destination, gateway }, protocol));
            let protocol = route_protocol(destination, self.routes_on(ifindex));
            old.chain([(action.clone(), protocol)])
                .filter_map(|(action, protocol)| entry_change(&action, ifindex, protocol))
                .collect()
        };
        let changes: Vec<_> = refused
            .iter()
            .zip(&standing)
            .map(|(action, standing)| corrections(action, standing))
            .collect();
        let lengths: Vec<usize> = changes.iter().map(Vec::len).collect();
        let mut answers = self
            .socket
            .change(&changes.into_iter().flatten().collect::<Vec<_>>())
            .await
            .into_iter();
        let mut results = Vec::with_capacity(refused.len());
        for (((&action, (destination, _)), standing), length) in
            refused.iter().zip(routes).zip(standing).zip(lengths)
        {
            // What the removals came to shows in the answer to the creation, which is the last.
            let answer = answers.by_ref().take(length).last();
            results.push(match standing {
                Standing::Wanted => Ok(()),
                Standing::Foreign(shown) => Err(foreign(action, device_name, destination, &shown)),
                Standing::Ours(_) => answer
                    .unwrap_or_else(|| Err(RequestError::lost("the request was not sent")))
                    .map_err(|error| explain(action, device_name, &error)),
            });
        }
        results
    }

    /// What stands at each destination of these routes (destination, gateway) out of the device of this index.
    ///
    /// Where they are few and all of them as wanted, the kernel says so. Otherwise one dump of table main, however many
    /// there are: the kernel cannot select routes by destination.
    async fn standing(
        &self,
        ifindex: u32,
        wanted: &[(IpNet, IpAddr)],
    ) -> Result<Vec<Standing>, RequestError> {
        if wanted.len() <= FEW {
            let ways = wanted.iter().copied().collect();
            if self.routes_by_question(&ways, ifindex).await?.is_some() {
                return Ok(wanted.iter().map(|_| Standing::Wanted).collect());
            }
        }
        let mut found = BTreeMap::<IpNet, Vec<RouteMessage>>::new();
        for (family, ipv6) in [(AddressFamily::Inet, false), (AddressFamily::Inet6, true)] {
            let destinations: BTreeSet<IpNet> = wanted
                .iter()
                .map(|(destination, _)| *destination)
                .filter(|destination| destination.addr().is_ipv6() == ipv6)
                .collect();
            if destinations.is_empty() {
                continue;
            }
            for (destination, message) in self.same_key(family, &destinations).await? {
                found.entry(destination).or_default().push(message);
            }
        }
        let names = self.names(&found).await?;
        Ok(wanted
            .iter()
            .map(|(destination, gateway)| {
                let messages = found.get(destination).map(Vec::as_slice).unwrap_or_default();
                judge(messages, ifindex, *gateway, &names)
            })
            .collect())
    }

    /// The routes that have the key of ours to one of these destinations.
    async fn same_key(
        &self,
        family: AddressFamily,
        destinations: &BTreeSet<IpNet>,
    ) -> Result<Vec<(IpNet, RouteMessage)>, RequestError> {
        let routes = self
            .socket
            .dump(RouteNetlinkMessage::GetRoute(main_table(family)), |entry| {
                // A route that cannot be read may be to a destination that nobody asked about.
                let Ok(RouteNetlinkMessage::NewRoute(message)) = entry else {
                    return Ok(None);
                };
                let key = key(&message).filter(|destination| destinations.contains(destination));
                Ok(key.map(|destination| (destination, message)))
            })
            .await;
        or_no_table(routes)
    }

    /// The names of the devices that these routes leave by.
    async fn names(
        &self,
        routes: &BTreeMap<IpNet, Vec<RouteMessage>>,
    ) -> Result<BTreeMap<u32, String>, RequestError> {
        let indexes: BTreeSet<u32> = routes.values().flatten().flat_map(ifindexes).collect();
        let mut names = BTreeMap::new();
        for ifindex in indexes {
            if let Some(link) = self.socket.link_indexed(ifindex).await? {
                names.insert(ifindex, link.name);
            }
        }
        Ok(names)
    }
}

/// Says whose route is in the way of ours, and what an operator can do.
fn foreign(action: &KernelAction, device_name: &str, destination: IpNet, shown: &str) -> anyhow::Error {
    let ip = if destination.addr().is_ipv6() {
        "ip -6"
    } else {
        "ip"
    };
    anyhow!(
        "{device_name}: {action}: somebody else's route is there: `{shown}`; it is left alone, and what this node sends \
         to that peer's pods follows it, not the overlay; if it is not meant to be there: `{ip} route delete {shown}`"
    )
}

fn judge(
    messages: &[RouteMessage],
    ifindex: u32,
    gateway: IpAddr,
    names: &BTreeMap<u32, String>,
) -> Standing {
    let mut gateways = Vec::new();
    let mut foreign = None;
    for message in messages {
        match read(message, ifindex).filter(ownership::peer_route) {
            Some(Route {
                gateway: Some(found), ..
            }) if found == gateway => return Standing::Wanted,
            Some(Route {
                gateway: Some(found),
                protocol,
                ..
            }) => gateways.push((found, protocol)),
            _ => foreign = foreign.or(Some(message)),
        }
    }
    foreign.map_or(Standing::Ours(gateways), |message| {
        Standing::Foreign(shown(message, names))
    })
}

/// The destination, if the rest of the key is that of our routes: table main, no type of service, no metric.
fn key(message: &RouteMessage) -> Option<IpNet> {
    let header = &message.header;
    let (unspecified, default_metric) = match header.address_family {
        AddressFamily::Inet => (IpAddr::from([0_u8; 4]), 0),
        AddressFamily::Inet6 => (IpAddr::from([0_u8; 16]), IPV6_DEFAULT_METRIC),
        _ => return None,
    };
    let mut destination = unspecified;
    let mut metric = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = super::route::ip(address)?,
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let ours = in_main_table(message) && header.tos == 0 && metric == default_metric;
    IpNet::new(destination, header.destination_prefix_length)
        .ok()
        .filter(|_| ours)
}
