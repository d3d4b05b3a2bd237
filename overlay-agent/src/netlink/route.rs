//! Routes out of a device.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink has dozens of messages and attributes, and the library's enums grow"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nix::errno::Errno;
use overlay_core::observed::Route;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RoutePreference, RouteScope,
    RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::RequestError;
use super::socket::Socket;

/// Metric that the kernel gives an IPv6 route without one (`IP6_RT_PRIO_USER`).
pub(super) const IPV6_DEFAULT_METRIC: u32 = 1024;

/// What the kernel reports of a route's state; says nothing about how the route was made.
const STATE_FLAGS: RouteFlags = RouteFlags::Dead
    .union(RouteFlags::Linkdown)
    .union(RouteFlags::Offload)
    .union(RouteFlags::Trap)
    .union(RouteFlags::RtOffload)
    .union(RouteFlags::RtTrap)
    .union(RouteFlags::OffloadFailed);

impl Socket {
    /// Routes of table main, of one family, out of one device.
    pub(super) async fn routes(
        &self,
        family: AddressFamily,
        ifindex: u32,
    ) -> Result<BTreeSet<Route>, RequestError> {
        let mut request = main_table(family);
        request.attributes.push(RouteAttribute::Oif(ifindex));
        let routes = self
            .dump(RouteNetlinkMessage::GetRoute(request), |entry| match entry? {
                RouteNetlinkMessage::NewRoute(message) if message.header.address_family == family => {
                    Ok(read(&message, ifindex))
                }
                // Without IPv6 in the kernel, its question is answered for all families.
                RouteNetlinkMessage::NewRoute(_) => Ok(None),
                other => Err(RequestError::lost(format!(
                    "unexpected message in a list of routes: {other:?}"
                ))),
            })
            .await;
        or_no_table(routes).map(|routes| routes.into_iter().collect())
    }

    /// The route that the kernel finds for the first address of the subnet, if it is one of table main to exactly this
    /// destination that leaves by the device; `None` does not say that there is no such route. Costs no more where there
    /// are many.
    pub(super) async fn route_found(
        &self,
        destination: IpNet,
        ifindex: u32,
    ) -> Result<Option<Route>, RequestError> {
        // With strict checking the header must say nothing but this, and the address must be a whole one.
        let mut request = RouteMessage::default();
        request.header.address_family = family(destination);
        request.header.destination_prefix_length = destination.max_prefix_len();
        request.header.kind = RouteType::Unspec;
        request.header.flags = RouteFlags::FibMatch;
        request.attributes = vec![RouteAttribute::Destination(destination.network().into())];
        match self.get(RouteNetlinkMessage::GetRoute(request)).await {
            Ok(RouteNetlinkMessage::NewRoute(message)) => {
                Ok(read(&message, ifindex).filter(|route| route.destination == destination))
            }
            Ok(_) | Err(RequestError::Refused { .. }) => Ok(None),
            Err(error @ RequestError::Lost(_)) => Err(error),
        }
    }
}

const fn family(destination: IpNet) -> AddressFamily {
    match destination {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}

/// A request for the routes of table main.
pub(super) fn main_table(family: AddressFamily) -> RouteMessage {
    let mut request = every_table(family);
    request.header.table = RouteHeader::RT_TABLE_MAIN;
    request
}

/// A request for the routes of every table.
pub(super) fn every_table(family: AddressFamily) -> RouteMessage {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    // With strict checking these are filters, and zero is none.
    request.header.kind = RouteType::Unspec;
    request
}

/// A network namespace has no table main before its first route.
pub(super) fn or_no_table<T>(routes: Result<Vec<T>, RequestError>) -> Result<Vec<T>, RequestError> {
    match routes {
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(Vec::new()),
        other => other,
    }
}

/// Whether the message is about table main.
pub(super) fn in_main_table(message: &RouteMessage) -> bool {
    let extended = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    extended.unwrap_or_else(|| message.header.table.into()) == u32::from(RouteHeader::RT_TABLE_MAIN)
}

/// The route, if it is one of table main that (also) leaves by the device.
pub(super) fn read(message: &RouteMessage, ifindex: u32) -> Option<Route> {
    if !in_main_table(message) {
        return None;
    }
    let header = &message.header;
    let ipv6 = match header.address_family {
        AddressFamily::Inet => false,
        AddressFamily::Inet6 => true,
        _ => return None,
    };
    let mut destination = if ipv6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    let mut gateway = None;
    let mut metric = 0;
    let mut leaves_here = false;
    let mut plain = header.tos == 0
        && header.source_prefix_length == 0
        && header.kind == RouteType::Unicast
        && header.scope == RouteScope::Universe
        && header
            .flags
            .difference(STATE_FLAGS | RouteFlags::Onlink)
            .is_empty();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Gateway(address) => gateway = Some(ip(address)?),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(oif) => leaves_here = *oif == ifindex,
            RouteAttribute::MultiPath(hops) => {
                leaves_here |= hops.iter().any(|hop| hop.interface_index == ifindex);
                plain = false;
            }
            RouteAttribute::Table(_) => {}
            // Every IPv6 route has them.
            RouteAttribute::CacheInfo(_) | RouteAttribute::Preference(RoutePreference::Medium) if ipv6 => {}
            _ => plain = false,
        }
    }
    if ipv6 && metric == IPV6_DEFAULT_METRIC {
        metric = 0;
    }
    leaves_here.then_some(Route {
        destination: IpNet::new(destination, header.destination_prefix_length).ok()?,
        gateway,
        onlink: header.flags.contains(RouteFlags::Onlink),
        protocol: header.protocol.into(),
        metric,
        plain,
    })
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
