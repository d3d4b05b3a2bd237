//! What is received on the request socket.

use std::convert::Infallible;

use rtnetlink::packet_core::{NetlinkDeserializable, NetlinkHeader};
use rtnetlink::packet_route::RouteNetlinkMessage;

/// A route netlink message, or the bytes of one that the library cannot read: a dump that left those out would look
/// complete. So everything parses.
#[derive(Debug)]
pub(super) enum Packet {
    Message(Box<RouteNetlinkMessage>),
    Unreadable(Unreadable),
}

/// A message of the kernel that the library cannot read.
#[derive(Clone, Debug)]
pub(super) struct Unreadable {
    /// `nlmsg_type`.
    pub(super) kind: u16,
    /// Everything behind `struct nlmsghdr`.
    pub(super) payload: Vec<u8>,
    /// What the library said.
    pub(super) why: String,
}

impl NetlinkDeserializable for Packet {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(match RouteNetlinkMessage::deserialize(header, payload) {
            Ok(message) => Self::Message(Box::new(message)),
            Err(error) => Self::Unreadable(Unreadable {
                kind: header.message_type,
                payload: payload.to_vec(),
                why: error.to_string(),
            }),
        })
    }
}
