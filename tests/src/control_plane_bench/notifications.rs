//! What the kernel says about routes and neighbours as it happens: just enough of rtnetlink.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc::{RTM_DELNEIGH, RTM_DELROUTE, RTM_NEWNEIGH, RTM_NEWROUTE};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use crate::packet::Mac;

/// `RTMGRP_NEIGH` and `RTMGRP_IPV4_ROUTE` (linux/rtnetlink.h).
const GROUPS: u32 = 0x4 | 0x40;
/// Room for what comes while this process does not run, in bytes.
const RECEIVE_BUFFER: usize = 16 << 20;
/// The kernel sends at most 32 KiB at once.
const DATAGRAM: usize = 64 << 10;

const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;

/// Whether something came or went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// It was made, or replaced.
    New,
    /// It is gone.
    Gone,
}

/// An entry of the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Object {
    /// IPv4 route to this network.
    Route(Ipv4Addr),
    /// IPv4 neighbour entry of this address.
    Neighbour(Ipv4Addr),
    /// Forwarding-database entry of this MAC address.
    Fdb(Mac),
}

/// A change of an entry of one of the node's devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Notification {
    pub(super) change: Change,
    pub(super) object: Object,
}

/// A socket that hears of every change of routes and neighbours in the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Notifications {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Notifications {
    /// Opens it; [`Self::receive`] waits for at most `patience`.
    pub(super) fn open(patience: Duration) -> Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .context("cannot open a netlink socket")?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .context("cannot give the netlink socket a larger buffer")?;
        let patience = TimeVal::new(patience.as_secs().try_into()?, patience.subsec_micros().into());
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))
            .context("cannot subscribe to routes and neighbours")?;
        Ok(Self {
            socket,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// The next changes and when they were seen; none when nothing happened for as long as was said.
    ///
    /// # Errors
    ///
    /// When changes were lost, because there were more than the buffer holds.
    pub(super) fn receive(&mut self) -> Result<(Instant, Vec<Notification>)> {
        let length = match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok((Instant::now(), Vec::new())),
            Err(Errno::ENOBUFS) => {
                bail!("the kernel had more to say than {RECEIVE_BUFFER} bytes: changes were missed")
            }
            Err(error) => return Err(error).context("cannot read the kernel's notifications"),
        };
        let now = Instant::now();
        Ok((now, parse(self.buffer.get(..length).unwrap_or_default())))
    }
}

/// Every change of a route or neighbour in a datagram; anything else is left out.
fn parse(mut datagram: &[u8]) -> Vec<Notification> {
    let mut found = Vec::new();
    // struct nlmsghdr: length, type, flags, sequence number, port.
    while let (Some(length), Some(kind)) = (u32_at(datagram, 0), u16_at(datagram, 4)) {
        let Some(length) = usize::try_from(length).ok().filter(|length| *length >= 16) else {
            break;
        };
        let Some(message) = datagram.get(16..length) else {
            break;
        };
        found.extend(notification(kind, message));
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn notification(kind: u16, message: &[u8]) -> Option<Notification> {
    let change = match kind {
        RTM_NEWROUTE | RTM_NEWNEIGH => Change::New,
        RTM_DELROUTE | RTM_DELNEIGH => Change::Gone,
        _ => return None,
    };
    // struct rtmsg and struct ndmsg both begin with the address family and are 12 bytes long.
    let (family, attributes) = (*message.first()?, message.get(12..)?);
    let object = match (kind, family) {
        // RTA_DST
        (RTM_NEWROUTE | RTM_DELROUTE, AF_INET) => Object::Route(ipv4(attribute(attributes, 1)?)?),
        // NDA_DST
        (_, AF_INET) => Object::Neighbour(ipv4(attribute(attributes, 1)?)?),
        // NDA_LLADDR
        (_, AF_BRIDGE) => Object::Fdb(Mac(attribute(attributes, 2)?.try_into().ok()?)),
        _ => return None,
    };
    Some(Notification { change, object })
}

/// The value of the attribute `wanted` (struct nlattr: length with header, kind, value, padding).
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let value = attributes.get(4..length)?;
        if u16_at(attributes, 2)? == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn ipv4(value: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = value.try_into().ok()?;
    Some(octets.into())
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, family: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![0; 12];
        body[0] = family;
        for (kind, value) in attributes {
            body.extend(u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend_from_slice(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut message = u32::try_from(body.len() + 16).unwrap().to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(16, 0);
        message.extend(body);
        message
    }

    #[test]
    fn routes_neighbours_and_forwarding_entries_are_told_apart() {
        let datagram = [
            message(
                RTM_NEWROUTE,
                AF_INET,
                &[(15, &[254, 0, 0, 0]), (1, &[10, 1, 2, 0])],
            ),
            // Somebody's route over IPv6, and a link: not of interest.
            message(RTM_NEWROUTE, 10, &[(1, &[0; 16])]),
            message(16, 0, &[]),
            message(
                RTM_DELNEIGH,
                AF_INET,
                &[(1, &[10, 1, 2, 0]), (2, &[6, 0, 0, 0, 1, 2])],
            ),
            message(
                RTM_DELNEIGH,
                AF_BRIDGE,
                &[(2, &[6, 0, 0, 0, 1, 2]), (1, &[172, 16, 1, 2])],
            ),
        ]
        .concat();
        let subnet = Ipv4Addr::new(10, 1, 2, 0);
        let expected = [
            (Change::New, Object::Route(subnet)),
            (Change::Gone, Object::Neighbour(subnet)),
            (Change::Gone, Object::Fdb(Mac([6, 0, 0, 0, 1, 2]))),
        ];
        assert_eq!(
            parse(&datagram),
            expected.map(|(change, object)| Notification { change, object })
        );
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let whole = message(RTM_NEWROUTE, AF_INET, &[(1, &[10, 1, 2, 0])]);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), [], "{length} bytes");
        }
        // A length of 0 must not be read for ever.
        assert_eq!(parse(&[0; 64]), []);
    }
}
