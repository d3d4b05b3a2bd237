//! Requests for the entries of our device: addresses, neighbours, forwarding database, routes.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;
use overlay_core::action::KernelAction;
use overlay_core::model::MacAddr;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::own::{self, Notice};
use super::route::IPV6_DEFAULT_METRIC;

/// A request that changes something.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) message: RouteNetlinkMessage,
    /// `NLM_F_*` beside `REQUEST` and `ACK`.
    pub(super) flags: u16,
    /// The notification that it causes and that does not name its cause.
    pub(super) notice: Option<Notice>,
}

impl Change {
    pub(super) const fn new(message: RouteNetlinkMessage, flags: u16) -> Self {
        Self {
            message,
            flags,
            notice: None,
        }
    }
}

/// The request that carries out the action on the device; `None` if the action is about the device itself. A route that
/// is set gets this protocol; one that is removed must have it.
pub(super) fn entry_change(action: &KernelAction, ifindex: u32, protocol: u8) -> Option<Change> {
    use RouteNetlinkMessage as Message;
    const SET: u16 = NLM_F_CREATE | NLM_F_REPLACE;
    const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;
    const DELETE: u16 = 0;
    let (message, flags) = match *action {
        KernelAction::AddAddress(address) => (Message::NewAddress(own_address(address, ifindex)), ADD),
        KernelAction::RemoveAddress(address) => (Message::DelAddress(own_address(address, ifindex)), DELETE),
        KernelAction::SetNeighbour { address, mac } => {
            (Message::NewNeighbour(neighbour(address, Some(mac), ifindex)), SET)
        }
        KernelAction::RemoveNeighbour { address } => {
            (Message::DelNeighbour(neighbour(address, None, ifindex)), DELETE)
        }
        KernelAction::SetFdb { mac, destination } => {
            (Message::NewNeighbour(fdb(mac, destination, ifindex)), SET)
        }
        KernelAction::RemoveFdb { mac, destination } => {
            (Message::DelNeighbour(fdb(mac, destination, ifindex)), DELETE)
        }
        KernelAction::SetRoute { destination, gateway } => {
            // Not replaced: a route of the same destination may be any device's and anybody's.
            (
                Message::NewRoute(route(destination, gateway, ifindex, protocol)),
                ADD,
            )
        }
        KernelAction::RemoveRoute { destination, gateway } => {
            let mut message = route(destination, gateway, ifindex, protocol);
            if destination.addr().is_ipv6() {
                message
                    .attributes
                    .push(RouteAttribute::Priority(IPV6_DEFAULT_METRIC));
            }
            (Message::DelRoute(message), DELETE)
        }
        KernelAction::CreateDevice(_)
        | KernelAction::DeleteDevice { .. }
        | KernelAction::SetDeviceMtu(_)
        | KernelAction::SetDeviceUp => return None,
    };
    Some(Change {
        message,
        flags,
        notice: notice(action, ifindex),
    })
}

/// The notification of the action that does not name its cause.
const fn notice(action: &KernelAction, ifindex: u32) -> Option<Notice> {
    let change = match *action {
        KernelAction::SetFdb { mac, destination } => own::Change::FdbSet { mac, destination },
        KernelAction::RemoveFdb { mac, destination } => own::Change::FdbRemoved { mac, destination },
        KernelAction::RemoveNeighbour { address } => own::Change::NeighbourRemoved(address),
        KernelAction::CreateDevice(_)
        | KernelAction::DeleteDevice { .. }
        | KernelAction::SetDeviceMtu(_)
        | KernelAction::SetDeviceUp
        | KernelAction::AddAddress(_)
        | KernelAction::RemoveAddress(_)
        | KernelAction::SetNeighbour { .. }
        | KernelAction::SetRoute { .. }
        | KernelAction::RemoveRoute { .. } => return None,
    };
    Some(Notice { ifindex, change })
}

/// Whether the kernel's refusal says that the action was done before.
pub(super) fn already_done(action: &KernelAction, errno: Errno) -> bool {
    match action {
        KernelAction::AddAddress(_) => errno == Errno::EEXIST,
        KernelAction::RemoveAddress(_) => matches!(errno, Errno::EADDRNOTAVAIL | Errno::ENODEV),
        KernelAction::RemoveNeighbour { .. } | KernelAction::RemoveFdb { .. } => {
            matches!(errno, Errno::ENOENT | Errno::ENODEV)
        }
        KernelAction::RemoveRoute { .. } => matches!(errno, Errno::ESRCH | Errno::ENODEV),
        KernelAction::DeleteDevice { .. } => errno == Errno::ENODEV,
        KernelAction::CreateDevice(_)
        | KernelAction::SetDeviceMtu(_)
        | KernelAction::SetDeviceUp
        | KernelAction::SetNeighbour { .. }
        | KernelAction::SetFdb { .. }
        | KernelAction::SetRoute { .. } => false,
    }
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Scope global and no broadcast address, as flannel adds it.
fn own_address(address: IpNet, ifindex: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.index = ifindex;
    message.attributes = vec![
        AddressAttribute::Local(address.addr()),
        AddressAttribute::Address(address.addr()),
    ];
    message
}

fn neighbour(address: IpAddr, mac: Option<MacAddr>, ifindex: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message
        .attributes
        .push(NeighbourAttribute::Destination(address.into()));
    message
        .attributes
        .extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec())));
    message
}

fn fdb(mac: MacAddr, destination: IpAddr, ifindex: u32) -> NeighbourMessage {
    let destination: NeighbourAddress = destination.into();
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()),
    ];
    message
}

fn route(destination: IpNet, gateway: IpAddr, ifindex: u32, protocol: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(gateway),
        destination_prefix_length: destination.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::from(protocol),
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        flags: RouteFlags::Onlink,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(destination.network().into()),
        RouteAttribute::Gateway(gateway.into()),
        RouteAttribute::Oif(ifindex),
    ];
    message
}
