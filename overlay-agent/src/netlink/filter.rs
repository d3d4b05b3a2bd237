//! Which of the kernel's notifications may concern us. Reads only what it needs: on a busy node most do not.

mod notice;
#[cfg(test)]
mod tests;

use std::iter;

use nix::libc::{
    RTM_DELADDR, RTM_DELLINK, RTM_DELNEIGH, RTM_DELROUTE, RTM_DELRULE, RTM_NEWADDR, RTM_NEWLINK,
    RTM_NEWNEIGH, RTM_NEWROUTE, RTM_NEWRULE,
};
use rtnetlink::packet_core::{NLA_HEADER_SIZE, NLA_TYPE_MASK, NLM_F_REPLACE, NetlinkBuffer};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteHeader;

use self::notice::notice;
use super::own::Listener;

// Attributes of <linux/rtnetlink.h> and <linux/if_link.h>.
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_MULTIPATH: u16 = 9;
// Of <linux/fib_rules.h>.
const FRA_SPORT_RANGE: u16 = 23;

/// `sizeof(struct ifinfomsg)`.
const LINK_HEADER: usize = 16;
/// `sizeof(struct rtmsg)`.
const ROUTE_HEADER: usize = 12;
/// `sizeof(struct fib_rule_hdr)`.
const RULE_HEADER: usize = 12;
/// Offset of the interface index in `struct ifinfomsg`, `ifaddrmsg`, `ndmsg` and `rtnexthop`.
const IFINDEX: usize = 4;

/// A device by name, and its index while it exists.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) name: String,
    pub(super) ifindex: Option<u32>,
}

/// What is of interest: our device, the underlay device, VXLAN devices that may share our port, default routes, rules that
/// look at source ports. And of it, what others do: routes, neighbours and forwarding entries that our own requests change
/// are no news.
pub(super) struct Filter {
    pub(super) device: Watched,
    pub(super) underlay: Option<Watched>,
    pub(super) own: Listener,
}

impl Watched {
    /// A device whose index is not known yet.
    pub(super) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ifindex: None,
        }
    }

    fn is(&self, ifindex: u32) -> bool {
        self.ifindex == Some(ifindex)
    }

    /// Follows the device through creation, renaming and deletion; whether the message is about it.
    fn follow(&mut self, ifindex: u32, name: Option<&[u8]>, deleted: bool) -> bool {
        let named = name == Some(self.name.as_bytes());
        let indexed = self.is(ifindex);
        if deleted || (indexed && !named) {
            self.ifindex = self.ifindex.filter(|_| !indexed);
        } else if named {
            self.ifindex = Some(ifindex);
        }
        indexed || named
    }
}

impl Filter {
    /// Whether any of the datagram's messages may concern us. What cannot be read may.
    pub(super) fn concerns(&mut self, datagram: &[u8]) -> bool {
        let mut concerned = false;
        let mut rest = datagram;
        while !rest.is_empty() {
            let Ok(buffer) = NetlinkBuffer::new_checked(rest) else {
                return true;
            };
            concerned |= self
                .message(
                    buffer.message_type(),
                    buffer.flags(),
                    buffer.port_number(),
                    buffer.payload(),
                )
                .unwrap_or(true);
            let length = usize::try_from(buffer.length())
                .unwrap_or(usize::MAX)
                .next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
        concerned
    }

    /// `None` if the message cannot be read.
    fn message(&mut self, kind: u16, flags: u16, port: u32, payload: &[u8]) -> Option<bool> {
        match kind {
            RTM_NEWROUTE | RTM_DELROUTE | RTM_NEWNEIGH | RTM_DELNEIGH if self.own.is_own(port) => Some(false),
            RTM_NEWLINK | RTM_DELLINK => self.link(payload, kind == RTM_DELLINK),
            RTM_NEWADDR | RTM_DELADDR => {
                let ifindex = u32_at(payload, IFINDEX)?;
                Some(
                    self.device.is(ifindex)
                        || self
                            .underlay
                            .as_ref()
                            .is_some_and(|underlay| underlay.is(ifindex)),
                )
            }
            RTM_NEWRULE | RTM_DELRULE => rule(payload),
            RTM_NEWROUTE | RTM_DELROUTE => self.route(payload, flags & NLM_F_REPLACE != 0),
            RTM_NEWNEIGH | RTM_DELNEIGH => {
                let ours = self.device.is(u32_at(payload, IFINDEX)?);
                let expected = || {
                    let own = port == 0 && ours;
                    own && notice(kind, payload).is_some_and(|notice| self.own.was_expected(notice))
                };
                Some(ours && !expected())
            }
            _ => Some(false),
        }
    }

    fn link(&mut self, payload: &[u8], deleted: bool) -> Option<bool> {
        let &family = payload.first()?;
        let ifindex = u32_at(payload, IFINDEX)?;
        if family != u8::from(AddressFamily::Unspec) {
            // As a port of a bridge: says nothing about the link's own life.
            return Some(self.device.is(ifindex));
        }
        let mut name = None;
        let mut vxlan = false;
        for attribute in attributes(payload.get(LINK_HEADER..)?) {
            match attribute? {
                (IFLA_IFNAME, value) => name = Some(c_string(value)),
                (IFLA_LINKINFO, value) => vxlan = is_vxlan(value)?,
                _ => {}
            }
        }
        let ours = self.device.follow(ifindex, name, deleted);
        let underlay = self
            .underlay
            .as_mut()
            .is_some_and(|underlay| underlay.follow(ifindex, name, deleted));
        Some(ours || underlay || vxlan)
    }

    /// Routes out of our device; default routes, which select the underlay; and routes that replace another, which
    /// may have been ours: the kernel does not tell which.
    fn route(&self, payload: &[u8], replaces: bool) -> Option<bool> {
        let &prefix_len = payload.get(1)?;
        let &table = payload.get(4)?;
        if table != RouteHeader::RT_TABLE_MAIN {
            return Some(false);
        }
        if prefix_len == 0 || replaces {
            return Some(true);
        }
        for attribute in attributes(payload.get(ROUTE_HEADER..)?) {
            let ours = match attribute? {
                (RTA_OIF, value) => self.device.is(u32_at(value, 0)?),
                (RTA_MULTIPATH, value) => self.any_hop_is_ours(value)?,
                _ => false,
            };
            if ours {
                return Some(true);
            }
        }
        Some(false)
    }

    /// Walks `struct rtnexthop`s: a 16-bit length, flags, hops, interface index, attributes.
    fn any_hop_is_ours(&self, mut hops: &[u8]) -> Option<bool> {
        while !hops.is_empty() {
            if self.device.is(u32_at(hops, IFINDEX)?) {
                return Some(true);
            }
            let length = u16_at(hops, 0).filter(|&length| length >= 8)?;
            hops = hops
                .get(usize::from(length).next_multiple_of(4)..)
                .unwrap_or_default();
        }
        Some(false)
    }
}

/// Whether a rule looks at source ports; the programs follow all others by themselves. `None` if it cannot be read.
fn rule(payload: &[u8]) -> Option<bool> {
    for attribute in attributes(payload.get(RULE_HEADER..)?) {
        let (kind, _) = attribute?;
        if kind == FRA_SPORT_RANGE {
            return Some(true);
        }
    }
    Some(false)
}

/// Whether the nested `IFLA_LINKINFO` names the kind `vxlan`.
fn is_vxlan(infos: &[u8]) -> Option<bool> {
    for info in attributes(infos) {
        let (kind, value) = info?;
        if kind == IFLA_INFO_KIND {
            return Some(c_string(value) == b"vxlan");
        }
    }
    Some(false)
}

/// Kind and value of each attribute (`struct nlattr`); ends with `None` where the bytes make no sense.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = Option<(u16, &[u8])>> {
    let mut rest = bytes;
    iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let attribute = rest;
        rest = &[];
        let read = || {
            let length = usize::from(u16_at(attribute, 0)?);
            let kind = u16_at(attribute, 2)? & NLA_TYPE_MASK;
            Some((
                kind,
                attribute.get(NLA_HEADER_SIZE..length)?,
                attribute.get(length.next_multiple_of(4)..),
            ))
        };
        Some(read().map(|(kind, value, behind)| {
            rest = behind.unwrap_or_default();
            (kind, value)
        }))
    })
}

/// The bytes before the terminating zero.
fn c_string(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// In host byte order, as netlink has it.
fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes
        .get(offset..)?
        .first_chunk()
        .map(|&bytes| u32::from_ne_bytes(bytes))
}

/// In host byte order, as netlink has it.
fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes
        .get(offset..)?
        .first_chunk()
        .map(|&bytes| u16::from_ne_bytes(bytes))
}
