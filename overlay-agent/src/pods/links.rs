//! What the kernel says about links, addresses and routes, as far as it tells which devices lead to pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc::{RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE};
use overlay_core::pods::{LinkKind, PodLink};
use rtnetlink::packet_core::{NLM_F_DUMP, parse_string};
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::rtnl::{Listed, find, number, refused_with, string, talk, u32_at};

// linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
const IFLA_IFNAME: u16 = 3;
const IFLA_QDISC: u16 = 6;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
const RTN_UNICAST: u8 = 1;

/// `sizeof(struct ifinfomsg)`, `struct ifaddrmsg`, `struct rtmsg`.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
/// Offset of the interface index in the first two.
const IFINDEX: usize = 4;

/// How often a list is asked for again because it changed meanwhile.
const ATTEMPTS: u32 = 3;

/// From this many devices on, all routes are read at once: the kernel walks the whole table for each question.
const SINGLY: usize = 8;

/// IPv4 addresses by interface index.
pub(super) type Addresses = BTreeMap<u32, BTreeSet<Ipv4Addr>>;

/// Every link by index, and whether the list may lack some.
pub(super) fn links() -> Result<(BTreeMap<u32, PodLink>, bool)> {
    let mut links = BTreeMap::new();
    for _ in 0..ATTEMPTS {
        links.clear();
        let mut request = LinkMessage::default();
        let quiet = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
        request.attributes.push(quiet);
        let listed = talk(
            RouteNetlinkMessage::GetLink(request),
            NLM_F_DUMP,
            |kind, payload| {
                if kind == RTM_NEWLINK {
                    links.extend(link(payload)?);
                }
                Ok(())
            },
        )
        .context("cannot list the links")?;
        if listed == Listed::All {
            return Ok((links, false));
        }
    }
    Ok((links, true))
}

fn link(payload: &[u8]) -> Result<Option<(u32, PodLink)>> {
    let (Some(ifindex), Some(attributes)) = (u32_at(payload, IFINDEX), payload.get(LINK_HEADER..)) else {
        return Ok(None);
    };
    let Some(name) = string(attributes, IFLA_IFNAME)? else {
        return Ok(None);
    };
    let kind = match find(attributes, IFLA_LINKINFO)? {
        Some(info) => string(info.value(), IFLA_INFO_KIND)?,
        None => None,
    };
    // The kernel names the other namespace only where it is another one.
    let elsewhere = find(attributes, IFLA_LINK_NETNSID)?.is_some();
    let kind = match kind.as_deref() {
        Some("veth") if elsewhere => LinkKind::Veth,
        Some("veth") => LinkKind::LocalVeth,
        Some("bridge") => LinkKind::Bridge,
        Some(_) | None => LinkKind::Other,
    };
    Ok(Some((
        ifindex,
        PodLink {
            name,
            kind,
            master: number(attributes, IFLA_MASTER)?.filter(|master| *master != 0),
            // Set by people: any bytes.
            alias: find(attributes, IFLA_IFALIAS)?.and_then(|alias| parse_string(alias.value()).ok()),
            qdisc: string(attributes, IFLA_QDISC)?,
        },
    )))
}

/// The IPv4 addresses of all devices, and whether the list may lack some.
pub(super) fn addresses() -> Result<(Addresses, bool)> {
    let mut addresses = Addresses::new();
    for _ in 0..ATTEMPTS {
        addresses.clear();
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet;
        let listed = talk(
            RouteNetlinkMessage::GetAddress(request),
            NLM_F_DUMP,
            |kind, payload| {
                if kind == RTM_NEWADDR
                    && let Some(ifindex) = u32_at(payload, IFINDEX)
                    && let Some(attributes) = payload.get(ADDRESS_HEADER..)
                    && let Some(address) = ipv4(attributes, IFA_LOCAL)?
                {
                    addresses.entry(ifindex).or_default().insert(address);
                }
                Ok(())
            },
        )
        .context("cannot list the addresses")?;
        if listed == Listed::All {
            return Ok((addresses, false));
        }
    }
    Ok((addresses, true))
}

/// Destinations of the /32 routes of table main that leave by one of `devices`, and whether some may be missing.
pub(super) fn host_routes(devices: &[u32]) -> Result<(Addresses, bool)> {
    let questions: Vec<Option<u32>> = if devices.len() < SINGLY {
        devices.iter().copied().map(Some).collect()
    } else {
        vec![None]
    };
    let mut routes = Addresses::new();
    let mut interrupted = false;
    for device in questions {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        request.header.kind = RouteType::Unspec;
        request.attributes.extend(device.map(RouteAttribute::Oif));
        let listed = talk(
            RouteNetlinkMessage::GetRoute(request),
            NLM_F_DUMP,
            |kind, payload| {
                if kind == RTM_NEWROUTE
                    && let Some((ifindex, address)) = host_route(payload)?
                    && devices.contains(&ifindex)
                {
                    routes.entry(ifindex).or_default().insert(address);
                }
                Ok(())
            },
        );
        match listed {
            Ok(listed) => interrupted |= listed == Listed::Interrupted,
            // A network namespace has no table main before its first route; a device may just have ended.
            Err(error) if refused_with(&error, &[Errno::ENOENT, Errno::ENODEV]) => {}
            Err(error) => return Err(error).context("cannot list the routes"),
        }
    }
    Ok((routes, interrupted))
}

/// Device and destination of a message about a /32 unicast route of table main.
pub(super) fn host_route(payload: &[u8]) -> Result<Option<(u32, Ipv4Addr)>> {
    let Some(&[family, bits, _, _, table, _, _, kind]) = payload.first_chunk() else {
        return Ok(None);
    };
    let attributes = payload.get(ROUTE_HEADER..).unwrap_or_default();
    if family != u8::from(AddressFamily::Inet) || bits != 32 || kind != RTN_UNICAST {
        return Ok(None);
    }
    let table = number(attributes, RTA_TABLE)?.unwrap_or_else(|| table.into());
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return Ok(None);
    }
    Ok(number(attributes, RTA_OIF)?.zip(ipv4(attributes, RTA_DST)?))
}

fn ipv4(attributes: &[u8], kind: u16) -> Result<Option<Ipv4Addr>> {
    let address = find(attributes, kind)?;
    Ok(address.and_then(|address| Some(Ipv4Addr::from(*address.value().first_chunk::<4>()?))))
}
