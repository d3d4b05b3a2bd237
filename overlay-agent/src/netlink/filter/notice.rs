//! What a notification about a neighbour or a forwarding entry says, as far as it can be one of ours.

use std::net::IpAddr;

use overlay_core::model::MacAddr;
use rtnetlink::packet_route::AddressFamily;

use super::{IFINDEX, RTM_DELNEIGH, RTM_NEWNEIGH, attributes, u16_at, u32_at};
use crate::netlink::own::{Change, Notice};

// <linux/neighbour.h>
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_CACHEINFO: u16 = 3;
const NTF_SELF: u8 = 2;
const NUD_PERMANENT: u16 = 0x80;

/// `sizeof(struct ndmsg)`, and offsets in it.
const HEADER: usize = 12;
const STATE: usize = 8;
const FLAGS: usize = 10;

/// `None` for what no request of ours causes, and for what cannot be read.
pub(super) fn notice(kind: u16, payload: &[u8]) -> Option<Notice> {
    let &family = payload.first()?;
    let ifindex = u32_at(payload, IFINDEX)?;
    let change = if family == u8::from(AddressFamily::Bridge) {
        forwarding(kind, payload)?
    } else if kind == RTM_DELNEIGH {
        Change::NeighbourRemoved(destination(payload)?)
    } else {
        return None;
    };
    Some(Notice { ifindex, change })
}

/// An entry of the device itself that names a destination and nothing else.
fn forwarding(kind: u16, payload: &[u8]) -> Option<Change> {
    let mut found = None;
    let mut to = None;
    for attribute in attributes(payload.get(HEADER..)?) {
        match attribute? {
            (NDA_LLADDR, value) => found = Some(MacAddr::new(value.try_into().ok()?)),
            (NDA_DST, value) => to = Some(ip(value)?),
            (NDA_CACHEINFO, _) => {}
            _ => return None,
        }
    }
    let (mac, destination) = (found?, to?);
    let plain = payload.get(FLAGS) == Some(&NTF_SELF);
    let permanent = u16_at(payload, STATE)? & NUD_PERMANENT != 0;
    match kind {
        RTM_NEWNEIGH if plain && permanent => Some(Change::FdbSet { mac, destination }),
        RTM_DELNEIGH if plain => Some(Change::FdbRemoved { mac, destination }),
        _ => None,
    }
}

fn destination(payload: &[u8]) -> Option<IpAddr> {
    for attribute in attributes(payload.get(HEADER..)?) {
        if let (NDA_DST, value) = attribute? {
            return ip(value);
        }
    }
    None
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}
