//! What travels on the request socket.

use std::convert::Infallible;

use rtnetlink::packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use rtnetlink::packet_route::RouteNetlinkMessage;

/// A route netlink message, or the bytes of one that the library cannot read.
///
/// The transport logs and drops what does not parse; a dump would lose entries and look complete. So everything parses.
#[derive(Clone, Debug)]
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

impl From<RouteNetlinkMessage> for Packet {
    fn from(message: RouteNetlinkMessage) -> Self {
        Self::Message(Box::new(message))
    }
}

impl NetlinkDeserializable for Packet {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(match RouteNetlinkMessage::deserialize(header, payload) {
            Ok(message) => message.into(),
            Err(error) => Self::Unreadable(Unreadable {
                kind: header.message_type,
                payload: payload.to_vec(),
                why: error.to_string(),
            }),
        })
    }
}

impl NetlinkSerializable for Packet {
    fn message_type(&self) -> u16 {
        match self {
            Self::Message(message) => message.message_type(),
            Self::Unreadable(unreadable) => unreadable.kind,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Message(message) => message.buffer_len(),
            Self::Unreadable(unreadable) => unreadable.payload.len(),
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        match self {
            Self::Message(message) => message.serialize(buffer),
            Self::Unreadable(unreadable) => {
                if let Some(target) = buffer.get_mut(..unreadable.payload.len()) {
                    target.copy_from_slice(&unreadable.payload);
                }
            }
        }
    }
}
