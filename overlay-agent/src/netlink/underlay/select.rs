//! From what the operator says about the underlay interface to a device and an address.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink has dozens of messages and attributes, and the library's enums grow"
)]

use std::net::IpAddr;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::errno::Errno;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::candidate;
use super::choice::{Kept, Place, choose, has};
use super::wanted::{Alternative, Interface, InterfaceChoice, admits, fitting, with_address};
use crate::netlink::Netlink;
use crate::netlink::error::RequestError;
use crate::netlink::link::Link;

/// A device, and the address of it that packets leave with.
type Found = (Link, IpAddr);

impl Netlink {
    /// The device and address that are in use, if they still belong together and may stay.
    pub(super) async fn kept_underlay(&self, choice: &InterfaceChoice, kept: Kept) -> Result<Option<Found>> {
        let Place { ifindex, address } = kept.place();
        let look = async || -> Result<Option<Link>, RequestError> {
            let Some(link) = self.socket.link_indexed(ifindex).await? else {
                return Ok(None);
            };
            let candidates = self.candidates(ifindex).await?;
            Ok(Some(link).filter(|_| has(&candidates, address)))
        };
        let link = match look().await {
            // Deleted meanwhile.
            Err(error) if error.errno() == Some(Errno::ENODEV) => None,
            result => result
                .with_context(|| format!("looking for {address} on the interface with index {ifindex}"))?,
        };
        let Some(link) = link else { return Ok(None) };
        let stays = matches!(kept, Kept::Chosen(_)) || self.is_admitted(choice, &link, address).await;
        Ok(stays.then_some((link, address)))
    }

    /// Whether the flags could have meant this device and address.
    async fn is_admitted(&self, choice: &InterfaceChoice, link: &Link, address: IpAddr) -> bool {
        let alternatives = choice.alternatives();
        if alternatives.is_empty() || alternatives.iter().any(|a| admits(a, &link.name, address)) {
            return true;
        }
        match choice.can_reach {
            Some(target) => matches!(self.way_to(target).await, Ok((ifindex, _)) if ifindex == link.ifindex),
            None => false,
        }
    }

    /// The first alternative that fits, or the interface of the default route.
    pub(super) async fn chosen_underlay(
        &self,
        choice: &InterfaceChoice,
        kept: Option<Place>,
    ) -> Result<Found> {
        let alternatives = choice.alternatives();
        if alternatives.is_empty() {
            let link = self.default_underlay().await?;
            return self.with_best_address(link, kept).await;
        }
        let mut interfaces = self
            .all_interfaces()
            .await
            .context("reading the interfaces of this node")?;
        interfaces.retain(|interface| Some(&interface.name) != choice.except.as_ref());
        let mut failures = Vec::new();
        for alternative in alternatives {
            match self.find(&alternative, &interfaces, choice, kept).await {
                Ok(found) => return Ok(found),
                Err(error) => {
                    log::debug!("Could not find valid interface matching {alternative}: {error:#}");
                    failures.push(format!("{alternative}: {error:#}"));
                }
            }
        }
        bail!(
            "no interface fits ({}). This node has: {}",
            failures.join("; "),
            shown(&interfaces)
        )
    }

    async fn find(
        &self,
        alternative: &Alternative<'_>,
        interfaces: &[Interface],
        choice: &InterfaceChoice,
        kept: Option<Place>,
    ) -> Result<Found> {
        match *alternative {
            Alternative::Name(name) => {
                let link = self.socket.link_named(name).await;
                let link = link.with_context(|| format!("looking up the interface `{name}`"))?;
                let link = link.ok_or_else(|| anyhow!("there is no interface `{name}` on this node"))?;
                if choice.except.as_ref() == Some(&link.name) {
                    bail!("`{name}` is the overlay's own device");
                }
                self.with_best_address(link, kept).await
            }
            Alternative::Address(address) if address.is_ipv6() => {
                bail!("{address} is an IPv6 address, and the overlay's underlay is IPv4")
            }
            Alternative::Address(address) => {
                let interface = with_address(interfaces, address);
                let interface = interface.ok_or_else(|| anyhow!("no interface has the address {address}"))?;
                Ok((self.link_of(interface).await?, address))
            }
            Alternative::PublicIp(address) => {
                let interface = with_address(interfaces, address).ok_or_else(|| {
                    anyhow!(
                        "no interface has the address {address}, and without --iface it names the interface, too. If \
                         {address} is translated to an address of this node, name the interface with --iface, or leave \
                         --public-ip out and set the annotation public-ip-overwrite of the Node"
                    )
                })?;
                Ok((self.link_of(interface).await?, address))
            }
            Alternative::Regex(regex) => {
                let found = fitting(interfaces, regex);
                let (interface, address) = found.ok_or_else(|| anyhow!("fits no address and no name"))?;
                let link = self.link_of(interface).await?;
                match address {
                    Some(address) => Ok((link, address)),
                    None => self.with_best_address(link, kept).await,
                }
            }
            Alternative::Reach(target) => {
                let (ifindex, source) = self.way_to(target).await?;
                let interface = interfaces
                    .iter()
                    .find(|interface| interface.ifindex == ifindex)
                    .ok_or_else(|| anyhow!("the route to {target} leads into the overlay's own device"))?;
                let link = self.link_of(interface).await?;
                match source {
                    Some(source) if has(&interface.candidates, source) => Ok((link, source)),
                    Some(_) | None => self.with_best_address(link, kept).await,
                }
            }
        }
    }

    async fn with_best_address(&self, link: Link, kept: Option<Place>) -> Result<Found> {
        let name = &link.name;
        let candidates = self.candidates(link.ifindex).await;
        let candidates = candidates.with_context(|| format!("reading the addresses of `{name}`"))?;
        let address = choose(&candidates, kept.map(|place| place.address)).ok_or_else(|| {
            anyhow!("the underlay interface `{name}` has no usable IPv4 address: give it one, or choose another interface with --iface")
        })?;
        Ok((link, IpAddr::V4(address)))
    }

    async fn link_of(&self, interface: &Interface) -> Result<Link> {
        let link = self.socket.link_indexed(interface.ifindex).await;
        let link = link.with_context(|| format!("looking up the interface `{}`", interface.name))?;
        link.ok_or_else(|| anyhow!("the interface `{}` was deleted meanwhile", interface.name))
    }

    /// Index of the interface that the kernel's routes take to the address, and the source address they choose.
    async fn way_to(&self, target: IpAddr) -> Result<(u32, Option<IpAddr>)> {
        let mut request = RouteMessage::default();
        let (family, length, address) = match target {
            IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
            IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
        };
        request.header.address_family = family;
        request.header.destination_prefix_length = length;
        request.header.kind = RouteType::Unspec;
        request.attributes.push(RouteAttribute::Destination(address));
        let route = match self.socket.get(RouteNetlinkMessage::GetRoute(request)).await {
            Ok(RouteNetlinkMessage::NewRoute(route)) => route,
            Ok(other) => bail!("unexpected answer of the kernel: {other:?}"),
            Err(error) => return Err(error).with_context(|| format!("no route to {target}")),
        };
        if route.header.kind == RouteType::Local {
            bail!("{target} is an address of this node, which is reached by no interface");
        }
        let mut oif = None;
        let mut source = None;
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(ifindex) => oif = Some(*ifindex),
                RouteAttribute::PrefSource(RouteAddress::Inet(address)) => {
                    source = Some(IpAddr::V4(*address));
                }
                _ => {}
            }
        }
        let oif = oif.ok_or_else(|| anyhow!("the route to {target} has no interface"))?;
        Ok((oif, source))
    }

    /// All interfaces with their IPv4 addresses, by index.
    async fn all_interfaces(&self) -> Result<Vec<Interface>, RequestError> {
        let links = self.socket.link_names_by_index().await?;
        let addresses = self
            .socket
            .dump(
                RouteNetlinkMessage::GetAddress(AddressMessage::default()),
                |entry| match entry? {
                    RouteNetlinkMessage::NewAddress(message) => {
                        Ok(candidate(&message).map(|candidate| (message.header.index, candidate)))
                    }
                    other => Err(RequestError::lost(format!(
                        "unexpected message in a list of addresses: {other:?}"
                    ))),
                },
            )
            .await?;
        let interface = |(ifindex, name)| Interface {
            ifindex,
            name,
            candidates: addresses
                .iter()
                .filter(|(index, _)| *index == ifindex)
                .map(|(_, candidate)| *candidate)
                .collect(),
        };
        Ok(links.into_iter().map(interface).collect())
    }

    /// The interfaces of this node, for messages.
    pub(super) async fn shown_interfaces(&self) -> String {
        match self.all_interfaces().await {
            Ok(interfaces) => shown(&interfaces),
            Err(error) => format!("(the list of interfaces cannot be read: {error})"),
        }
    }
}

fn shown(interfaces: &[Interface]) -> String {
    let shown: Vec<_> = interfaces.iter().map(ToString::to_string).collect();
    shown.join(", ")
}
