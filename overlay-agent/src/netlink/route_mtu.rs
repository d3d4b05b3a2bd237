//! MTUs that routes carry.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink has dozens of messages and attributes, and the library's enums grow"
)]

use anyhow::{Context as _, Result};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMetric, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Netlink;
use super::error::RequestError;
use super::route::{every_table, or_no_table};

impl Netlink {
    /// The smallest MTU in bytes that an IPv4 route out of the device carries, of any table; `None` without such a
    /// route.
    ///
    /// The kernel's own transmit path keeps to a route's MTU; `bpf_fib_lookup` does only where it is locked
    /// (`ip_mtu_from_fib_result`, net/ipv4/route.c).
    ///
    /// # Errors
    ///
    /// When the routes cannot be read completely.
    pub async fn smallest_route_mtu(&self, ifindex: u32) -> Result<Option<u32>> {
        let mut request = every_table(AddressFamily::Inet);
        request.attributes.push(RouteAttribute::Oif(ifindex));
        request.header.kind = RouteType::Unicast;
        let mtus = self
            .socket
            .dump(RouteNetlinkMessage::GetRoute(request), |entry| match entry {
                Ok(RouteNetlinkMessage::NewRoute(message)) => Ok(mtu(&message.attributes)),
                Ok(other) => Err(RequestError::lost(format!(
                    "unexpected message in a list of routes: {other:?}"
                ))),
                // Somebody's route of an exotic kind.
                Err(_) => Ok(None),
            });
        let mtus = or_no_table(mtus.await)
            .with_context(|| format!("reading the routes out of the interface with index {ifindex}"))?;
        Ok(mtus.into_iter().min())
    }
}

/// The MTU among the metrics of a route.
fn mtu(attributes: &[RouteAttribute]) -> Option<u32> {
    attributes
        .iter()
        .filter_map(|attribute| match attribute {
            RouteAttribute::Metrics(metrics) => Some(metrics),
            _ => None,
        })
        .flatten()
        .find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
            _ => None,
        })
}
