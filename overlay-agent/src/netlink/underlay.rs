//! The device that encapsulated packets leave by (flannel v0.28.9, main.go and pkg/ip/iface.go).

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink has dozens of messages and attributes, and the library's enums grow"
)]

mod choice;
mod select;
mod wanted;

use anyhow::{Context as _, Result, anyhow, bail};
use ipnet::IpNet;
use overlay_core::model::Underlay;
use overlay_core::observed::VxlanAttributes;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use self::choice::Candidate;
pub use self::choice::{Kept, Place};
pub use self::wanted::{InterfaceChoice, InterfaceRegex};
use super::Netlink;
use super::error::RequestError;
use super::link::Link;
use super::observe::local_address;
use super::route::{in_main_table, main_table, or_no_table};

/// Offset of `rtm_dst_len` in `struct rtmsg`.
const RTM_DST_LEN: usize = 1;

/// A default route: its metric, and its device where it has just one.
struct DefaultRoute {
    metric: u32,
    oif: Option<u32>,
}

impl Netlink {
    /// The underlay device: the chosen one, or that of the IPv4 default route with the lowest metric; and the IPv4
    /// address that packets leave with: the one it was chosen by, or global before link-local, permanent and primary
    /// ones first.
    ///
    /// # Errors
    ///
    /// When there is no such device, default route or address, with what was tried and the interfaces that there are.
    pub async fn underlay(&self, choice: impl Into<InterfaceChoice>) -> Result<Underlay> {
        self.stable_underlay(&choice.into(), None).await
    }

    /// Like [`Netlink::underlay`], but what is `kept` is preferred: its device and address, for as long as the device has
    /// the address and the choice admits it (see [`Kept`]); and otherwise its address, if the chosen device has it and
    /// nothing names another. The MTU is what the device has now.
    ///
    /// # Errors
    ///
    /// Those of [`Netlink::underlay`].
    pub async fn stable_underlay(&self, choice: &InterfaceChoice, kept: Option<Kept>) -> Result<Underlay> {
        let stays = match kept {
            Some(kept) => self.kept_underlay(choice, kept).await?,
            None => None,
        };
        let (link, address) = match stays {
            Some(found) => found,
            None => self.chosen_underlay(choice, kept.map(Kept::place)).await?,
        };
        if link.mtu == 0 {
            bail!(
                "cannot determine the MTU of the underlay interface `{}`",
                link.name
            );
        }
        Ok(Underlay {
            ifindex: link.ifindex,
            mtu: link.mtu,
            address,
            name: link.name,
        })
    }

    /// Where the VXLAN device of this name sends from, if there is one that says so.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to tell.
    pub async fn place_of(&self, vtep: &str) -> Result<Option<Place>> {
        let link = self
            .socket
            .link_named(vtep)
            .await
            .with_context(|| format!("looking up the interface `{vtep}`"))?;
        let place = |vxlan: VxlanAttributes| {
            Some(Place {
                ifindex: vxlan.underlay_ifindex?,
                address: vxlan.local?,
            })
        };
        Ok(link.and_then(|link| link.vxlan).and_then(place))
    }

    /// Whether packets on the device begin with an Ethernet header (`ARPHRD_ETHER`).
    ///
    /// # Errors
    ///
    /// When the kernel refuses to tell, or the device is gone.
    pub async fn is_ethernet(&self, ifindex: u32) -> Result<bool> {
        let link = self.socket.link_indexed(ifindex).await;
        let link = link.with_context(|| format!("looking up the interface with index {ifindex}"))?;
        link.map(|link| link.ethernet)
            .ok_or_else(|| anyhow!("the underlay interface (index {ifindex}) was deleted meanwhile"))
    }

    /// Addresses with prefix length of a device.
    ///
    /// # Errors
    ///
    /// When they cannot be read completely, for instance because the device is gone.
    pub async fn prefixes(&self, ifindex: u32) -> Result<Vec<IpNet>> {
        let addresses = self.socket.addresses(ifindex).await;
        let addresses = addresses
            .with_context(|| format!("reading the addresses of the interface with index {ifindex}"))?;
        Ok(addresses.into_iter().collect())
    }

    async fn candidates(&self, ifindex: u32) -> Result<Vec<Candidate>, RequestError> {
        let messages = self.socket.address_messages(ifindex).await?;
        Ok(messages.iter().filter_map(candidate).collect())
    }

    async fn default_underlay(&self) -> Result<Link> {
        let routes = self.socket.dump(
            RouteNetlinkMessage::GetRoute(main_table(AddressFamily::Inet)),
            |entry| match entry {
                Ok(RouteNetlinkMessage::NewRoute(message)) => Ok(default_route(&message)),
                Ok(other) => Err(RequestError::lost(format!(
                    "unexpected message in a list of routes: {other:?}"
                ))),
                // Somebody's route of an exotic kind: of interest only if it is a default route.
                Err(unreadable)
                    if unreadable
                        .payload
                        .get(RTM_DST_LEN)
                        .is_some_and(|&length| length != 0) =>
                {
                    Ok(None)
                }
                Err(unreadable) => Err(unreadable.into()),
            },
        );
        let routes = or_no_table(routes.await).context("reading the routes of table main")?;
        // The first of the lowest metric, in the kernel's order.
        let Some(route) = routes.into_iter().min_by_key(|route| route.metric) else {
            bail!(
                "cannot choose the underlay interface: table main has no IPv4 default route. Name it with --iface; there are: {}",
                self.shown_interfaces().await,
            );
        };
        let Some(ifindex) = route.oif else {
            bail!(
                "found default route but could not determine interface: it has several next hops. Name it with --iface; there are: {}",
                self.shown_interfaces().await,
            );
        };
        let link = self
            .socket
            .link_indexed(ifindex)
            .await
            .context("looking up the interface of the default route")?;
        link.ok_or_else(|| {
            anyhow!("the interface of the default route (index {ifindex}) was deleted meanwhile")
        })
    }
}

/// The route, if it is a default route that forwards.
fn default_route(message: &RouteMessage) -> Option<DefaultRoute> {
    let header = &message.header;
    let default = header.address_family == AddressFamily::Inet
        && header.destination_prefix_length == 0
        && header.kind == RouteType::Unicast
        && header.tos == 0
        && in_main_table(message);
    if !default {
        return None;
    }
    let mut route = DefaultRoute { metric: 0, oif: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Oif(ifindex) => route.oif = Some(*ifindex),
            _ => {}
        }
    }
    Some(route)
}

/// The address of the message, if it is an IPv4 one.
fn candidate(message: &AddressMessage) -> Option<Candidate> {
    let IpNet::V4(prefix) = local_address(message)? else {
        return None;
    };
    let flags = address_flags(message);
    Some(Candidate {
        address: prefix.addr(),
        deprecated: flags.contains(AddressFlags::Deprecated),
        expires: !flags.contains(AddressFlags::Permanent),
        secondary: flags.contains(AddressFlags::Secondary),
    })
}

fn address_flags(message: &AddressMessage) -> AddressFlags {
    let extended = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    extended.unwrap_or_else(|| AddressFlags::from_bits_retain(message.header.flags.bits().into()))
}
