//! A route as `ip route` prints it and takes it again.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteProtocol, RouteScope, RouteType, RouteVia,
};

use crate::netlink::route::ip;

/// The devices that the route leaves by.
pub(super) fn ifindexes(message: &RouteMessage) -> Vec<u32> {
    message
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            RouteAttribute::Oif(ifindex) => vec![*ifindex],
            RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
            _ => Vec::new(),
        })
        .collect()
}

/// The route in the words of iproute2, in its order: kind, destination, way, protocol, scope, source. A device without
/// a name in `names` is gone; it is called by its index.
pub(super) fn shown(message: &RouteMessage, names: &BTreeMap<u32, String>) -> String {
    let header = &message.header;
    let mut words = Vec::new();
    words.extend(kind(header.kind).map(str::to_owned));
    words.push(format!(
        "{}/{}",
        destination(message),
        header.destination_prefix_length
    ));
    words.extend(way(&message.attributes, names));
    words.push(format!("proto {}", protocol(header.protocol)));
    if header.scope == RouteScope::Link {
        words.push("scope link".to_owned());
    }
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::PrefSource(source) => {
                words.extend(ip(source).map(|source| format!("src {source}")));
            }
            RouteAttribute::MultiPath(hops) => words.extend(hops.iter().map(|hop| next_hop(hop, names))),
            _ => {}
        }
    }
    if header.flags.contains(RouteFlags::Onlink) {
        words.push("onlink".to_owned());
    }
    words.join(" ")
}

fn destination(message: &RouteMessage) -> IpAddr {
    let unspecified = if message.header.address_family == AddressFamily::Inet6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    let named = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    named.unwrap_or(unspecified)
}

/// Next hop and device.
fn way(attributes: &[RouteAttribute], names: &BTreeMap<u32, String>) -> Vec<String> {
    let next_hop = attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => ip(gateway).map(|gateway| format!("via {gateway}")),
        RouteAttribute::Via(RouteVia::Inet(gateway)) => Some(format!("via inet {gateway}")),
        RouteAttribute::Via(RouteVia::Inet6(gateway)) => Some(format!("via inet6 {gateway}")),
        _ => None,
    });
    let device = attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::Oif(ifindex) => Some(format!("dev {}", name(*ifindex, names))),
        _ => None,
    });
    next_hop.chain(device).collect()
}

fn next_hop(hop: &RouteNextHop, names: &BTreeMap<u32, String>) -> String {
    let mut words = vec!["nexthop".to_owned()];
    words.extend(way(&hop.attributes, names));
    words.push(format!("dev {}", name(hop.interface_index, names)));
    words.push(format!("weight {}", u32::from(hop.hops) + 1));
    words.join(" ")
}

fn name(ifindex: u32, names: &BTreeMap<u32, String>) -> String {
    names
        .get(&ifindex)
        .cloned()
        .unwrap_or_else(|| format!("if{ifindex}"))
}

/// What stands before the destination of a route that leads nowhere.
fn kind(kind: RouteType) -> Option<&'static str> {
    match kind {
        RouteType::BlackHole => Some("blackhole"),
        RouteType::Unreachable => Some("unreachable"),
        RouteType::Prohibit => Some("prohibit"),
        RouteType::Throw => Some("throw"),
        RouteType::Local => Some("local"),
        _ => None,
    }
}

/// The name in iproute2's `rt_protos`, for those that have the same on every system; the number for all others.
fn protocol(protocol: RouteProtocol) -> String {
    match protocol {
        RouteProtocol::Kernel
        | RouteProtocol::Boot
        | RouteProtocol::Static
        | RouteProtocol::Ra
        | RouteProtocol::Zebra
        | RouteProtocol::Bird
        | RouteProtocol::Babel
        | RouteProtocol::Bgp
        | RouteProtocol::Isis
        | RouteProtocol::Ospf
        | RouteProtocol::Rip
        | RouteProtocol::Eigrp => protocol.to_string(),
        other => u8::from(other).to_string(),
    }
}
