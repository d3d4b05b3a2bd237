//! What the kernel holds for our device.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink has dozens of messages and attributes, and the library's enums grow"
)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use nix::errno::Errno;
use overlay_core::model::MacAddr;
use overlay_core::observed::{Device, FdbEntry, Neighbour};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Netlink;
use super::error::RequestError;
use super::link::Link;
use super::socket::Socket;

/// Observations of a device that is replaced while it is read.
const ATTEMPTS: u32 = 5;

/// `NUD_PERMANENT`: a bit, because `bridge fdb` sets `NUD_NOARP` beside it.
const NUD_PERMANENT: u16 = 0x80;

impl Netlink {
    /// The link of this name with everything that a plan may concern; `None` if there is no such link.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the lists cannot be read completely.
    pub async fn observe_device(&self, name: &str) -> Result<Option<Device>> {
        let context = || format!("reading what the kernel holds for `{name}`");
        for _ in 0..ATTEMPTS {
            let Some(link) = self.socket.link_named(name).await.with_context(context)? else {
                return Ok(None);
            };
            match self.socket.contents(link).await {
                Ok(Some(device)) => {
                    self.set_routes_on(device.ifindex, device.routes.len());
                    return Ok(Some(device));
                }
                Ok(None) => {}
                Err(error) if error.errno() == Some(Errno::ENODEV) => {}
                Err(error) => return Err(error).with_context(context),
            }
        }
        bail!(
            "`{name}` was deleted and created again during each of {ATTEMPTS} attempts to read it: something fights over it"
        )
    }
}

impl Socket {
    /// The device behind the link; `None` if it was replaced meanwhile.
    async fn contents(&self, link: Link) -> Result<Option<Device>, RequestError> {
        let mut device = Device {
            ifindex: link.ifindex,
            up: link.up,
            mtu: link.mtu,
            mac: link.mac,
            alias: link.alias,
            vxlan: link.vxlan,
            addresses: self.addresses(link.ifindex).await?,
            routes: self.routes(AddressFamily::Inet, link.ifindex).await?,
            neighbours: self.neighbours(link.ifindex).await?,
            fdb: BTreeSet::new(),
        };
        device
            .routes
            .append(&mut self.routes(AddressFamily::Inet6, link.ifindex).await?);
        if device.vxlan.is_some() {
            device.fdb = self.fdb(link.ifindex).await?;
        }
        let unchanged = self
            .link_named(&link.name)
            .await?
            .is_some_and(|now| now.ifindex == link.ifindex);
        Ok(unchanged.then_some(device))
    }

    /// Addresses with prefix length of a device.
    pub(super) async fn addresses(&self, ifindex: u32) -> Result<BTreeSet<IpNet>, RequestError> {
        let read = |message: AddressMessage| local_address(&message);
        Ok(self
            .address_messages(ifindex)
            .await?
            .into_iter()
            .filter_map(read)
            .collect())
    }

    /// The address messages of a device.
    pub(super) async fn address_messages(&self, ifindex: u32) -> Result<Vec<AddressMessage>, RequestError> {
        let mut request = AddressMessage::default();
        request.header.index = ifindex;
        self.dump(RouteNetlinkMessage::GetAddress(request), |entry| match entry? {
            RouteNetlinkMessage::NewAddress(message) => {
                Ok(Some(message).filter(|m| m.header.index == ifindex))
            }
            other => Err(unexpected("addresses", &other)),
        })
        .await
    }

    async fn neighbours(&self, ifindex: u32) -> Result<BTreeSet<Neighbour>, RequestError> {
        let neighbours = self.dump(
            neighbour_request(AddressFamily::Unspec, ifindex),
            |entry| match entry? {
                RouteNetlinkMessage::NewNeighbour(message) => Ok(Some(message)
                    .filter(|m| m.header.ifindex == ifindex)
                    .and_then(|m| read_neighbour(&m))),
                other => Err(unexpected("neighbours", &other)),
            },
        );
        Ok(neighbours.await?.into_iter().collect())
    }

    async fn fdb(&self, ifindex: u32) -> Result<BTreeSet<FdbEntry>, RequestError> {
        let entries = self.dump(
            neighbour_request(AddressFamily::Bridge, ifindex),
            |entry| match entry? {
                RouteNetlinkMessage::NewNeighbour(message) => Ok(Some(message)
                    .filter(|m| m.header.ifindex == ifindex)
                    .and_then(|m| read_fdb(&m))),
                other => Err(unexpected("forwarding database entries", &other)),
            },
        );
        Ok(entries.await?.into_iter().collect())
    }
}

fn unexpected(list: &str, message: &RouteNetlinkMessage) -> RequestError {
    RequestError::lost(format!("unexpected message in a list of {list}: {message:?}"))
}

/// A request for the entries of one device. The index is an attribute: strict checking refuses it in the header.
fn neighbour_request(family: AddressFamily, ifindex: u32) -> RouteNetlinkMessage {
    let mut request = NeighbourMessage::default();
    request.header.family = family;
    request.header.kind = 0.into();
    request.attributes.push(NeighbourAttribute::IfIndex(ifindex));
    RouteNetlinkMessage::GetNeighbour(request)
}

/// The device's own address: `IFA_LOCAL`, or `IFA_ADDRESS` where IPv6 leaves the former out.
pub(super) fn local_address(message: &AddressMessage) -> Option<IpNet> {
    let mut own = None;
    let mut peer = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => own = Some(*address),
            AddressAttribute::Address(address) => peer = Some(*address),
            _ => {}
        }
    }
    IpNet::new(own.or(peer)?, message.header.prefix_len).ok()
}

fn read_neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let header = &message.header;
    if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(destination) => address = ip(destination),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = mac_address(bytes),
            _ => {}
        }
    }
    Some(Neighbour {
        address: address?,
        mac,
        permanent: u16::from(header.state) & NUD_PERMANENT != 0,
    })
}

/// An entry of the device itself; those of a bridge that the device is a port of are not its own.
fn read_fdb(message: &NeighbourMessage) -> Option<FdbEntry> {
    let header = &message.header;
    if header.family != AddressFamily::Bridge || !header.flags.contains(NeighbourFlags::Own) {
        return None;
    }
    let mut mac = None;
    let mut destination = None;
    let mut plain = header
        .flags
        .difference(NeighbourFlags::Own | NeighbourFlags::Offloaded)
        .is_empty();
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = mac_address(bytes),
            NeighbourAttribute::Destination(address) => destination = ip(address),
            NeighbourAttribute::CacheInfo(_) => {}
            _ => plain = false,
        }
    }
    Some(FdbEntry {
        mac: mac?,
        destination,
        permanent: u16::from(header.state) & NUD_PERMANENT != 0,
        plain,
    })
}

fn mac_address(bytes: &[u8]) -> Option<MacAddr> {
    <[u8; 6]>::try_from(bytes).ok().map(MacAddr::new)
}

fn ip(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some(IpAddr::V4(*address)),
        NeighbourAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        // Of the bridge family: the length tells which.
        NeighbourAddress::Other(bytes) => <[u8; 4]>::try_from(bytes.as_slice())
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from))
            .ok(),
        _ => None,
    }
}
