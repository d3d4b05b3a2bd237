//! One open netlink socket: numbered requests out, their answers in.
//!
//! Nothing here waits: the kernel carries requests out, and queues its answers, before `sendmsg` returns, and it goes on
//! with a list inside `recvmsg`. What takes time – mostly other people who hold the RTNL lock – takes it inside these
//! calls. So an answer that is not there is lost.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink has dozens of messages and attributes, and the library's enums grow"
)]

use nix::errno::Errno;
use nix::libc::{MSG_DONTWAIT, MSG_TRUNC};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rustix::net::netdevice::name_to_index;

use super::error::RequestError;
use super::packet::{Packet, Unreadable};
use super::request::Change;

/// Room for answers in bytes: the kernel fills at most 32 KiB at once, and lists faster where there is as much room.
const ROOM: usize = 64 << 10;

/// A message of a dump.
pub(super) type Entry = Result<RouteNetlinkMessage, Unreadable>;

/// An open socket.
pub(super) struct Connection {
    socket: Socket,
    /// What notifications of our changes carry as the port of their cause (`nlmsg_pid`).
    port: u32,
    sequence: u32,
    /// The datagram that is being sent.
    requests: Vec<u8>,
    /// The datagram that was received.
    answers: Vec<u8>,
}

/// Why a dump gave nothing.
pub(super) enum DumpError {
    /// Worth another attempt.
    Transient(RequestError),
    Final(RequestError),
}

impl Connection {
    /// Opens a socket in the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self, RequestError> {
        let opened: std::io::Result<_> = (|| {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            for (option, result) in [
                // Dumps are filtered by the kernel (4.20); without it, they are filtered here only.
                ("NETLINK_GET_STRICT_CHK", socket.set_netlink_get_strict_chk(true)),
                // Refusals carry the kernel's words (4.12), and not the request.
                ("NETLINK_EXT_ACK", socket.set_ext_ack(true)),
                ("NETLINK_CAP_ACK", socket.set_cap_ack(true)),
            ] {
                match result {
                    Err(error) if error.raw_os_error() == Some(Errno::ENOPROTOOPT as i32) => {
                        log::info!("this kernel does not know {option}: continuing without");
                    }
                    other => other?,
                }
            }
            let port = socket.bind_auto()?.port_number();
            Ok((socket, port))
        })();
        let (socket, port) =
            opened.map_err(|error| RequestError::lost(format!("cannot open a netlink socket: {error}")))?;
        Ok(Self {
            socket,
            port,
            sequence: 0,
            requests: Vec::new(),
            answers: Vec::with_capacity(ROOM),
        })
    }

    /// The socket's address.
    pub(super) const fn port(&self) -> u32 {
        self.port
    }

    /// Index of the device of this name, if there is one. (`SIOCGIFINDEX`: a fraction of the price of all that netlink tells
    /// of a link, and every socket answers it.)
    pub(super) fn index_of(&self, device_name: &str) -> Result<Option<u32>, RequestError> {
        match name_to_index(&self.socket, device_name) {
            Ok(ifindex) => Ok(Some(ifindex)),
            Err(rustix::io::Errno::NODEV) => Ok(None),
            // Nothing may count as removed for that.
            Err(error) => Err(RequestError::lost(format!(
                "cannot look up the index of `{device_name}`: {error}"
            ))),
        }
    }

    /// Sends the changes in order, in one datagram; one result for each.
    ///
    /// Only the last asks for an acknowledgement: a refusal is answered in any case, and what the kernel has not refused
    /// when it acknowledges the last is done. An answer that the kernel had to drop shows as `ENOBUFS`.
    pub(super) fn change(&mut self, changes: &[Change]) -> Vec<Result<(), RequestError>> {
        let mut results: Vec<Option<Result<(), RequestError>>> = vec![None; changes.len()];
        let Some(last) = changes.len().checked_sub(1) else {
            return Vec::new();
        };
        let first = self.sequence.wrapping_add(1);
        self.requests.clear();
        for (index, change) in changes.iter().enumerate() {
            let acknowledged = if index == last { NLM_F_ACK } else { 0 };
            self.append(change.message.clone(), acknowledged | change.flags);
        }
        let mut lost = self.send().err();
        while lost.is_none() && results.last().is_some_and(Option::is_none) {
            lost = self
                .receive(|header, payload| {
                    let index = usize::try_from(header.sequence_number.wrapping_sub(first));
                    if let NetlinkPayload::Error(error) = payload
                        && let Some(result) = index.ok().and_then(|index| results.get_mut(index))
                    {
                        *result = Some(RequestError::from_answer(header, &error));
                    }
                })
                .err();
        }
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(|| lost.clone().map_or(Ok(()), Err)))
            .collect()
    }

    /// Asks for one object.
    pub(super) fn get(&mut self, request: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, RequestError> {
        self.requests.clear();
        let sequence = self.append(request, 0);
        self.send()?;
        let mut found = None;
        while found.is_none() {
            self.receive(|header, payload| {
                if header.sequence_number == sequence {
                    found.get_or_insert_with(|| one(header, payload));
                }
            })?;
        }
        found.unwrap_or_else(|| Err(RequestError::lost("the kernel did not answer")))
    }

    /// Reads all objects that the request selects and `read` keeps.
    pub(super) fn dump<T>(
        &mut self,
        request: RouteNetlinkMessage,
        read: impl Fn(Entry) -> Result<Option<T>, RequestError>,
    ) -> Result<Vec<T>, DumpError> {
        self.requests.clear();
        let sequence = self.append(request, NLM_F_DUMP);
        self.send().map_err(DumpError::Final)?;
        let mut items = Vec::new();
        let mut interrupted = false;
        // Read to the end in any case: the kernel refuses the next dump while this one is unfinished.
        let mut failed = None;
        let mut end = None;
        while end.is_none() {
            let received = self.receive(|header, payload| {
                if header.sequence_number != sequence {
                    return;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                let entry = match payload {
                    NetlinkPayload::InnerMessage(Packet::Message(message)) => Ok(*message),
                    NetlinkPayload::InnerMessage(Packet::Unreadable(unreadable)) => Err(unreadable),
                    NetlinkPayload::Done(done) => {
                        end = Some(RequestError::from_done(&done));
                        return;
                    }
                    NetlinkPayload::Error(error) => {
                        end = Some(RequestError::from_answer(header, &error));
                        return;
                    }
                    other => {
                        failed.get_or_insert(unexpected(&other));
                        return;
                    }
                };
                match read(entry) {
                    Ok(item) => items.extend(item),
                    Err(error) => {
                        failed.get_or_insert(error);
                    }
                }
            });
            received.map_err(DumpError::Final)?;
        }
        end.unwrap_or(Ok(())).map_err(DumpError::from)?;
        if interrupted {
            let error = RequestError::lost("what the kernel lists changed during each attempt to read it");
            return Err(DumpError::Transient(error));
        }
        failed.map_or(Ok(items), |error| Err(DumpError::Final(error)))
    }

    /// Puts a request behind those that are to be sent; its number.
    fn append(&mut self, message: RouteNetlinkMessage, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let start = self.requests.len();
        self.requests.resize(start + packet.buffer_len(), 0);
        if let Some(room) = self.requests.get_mut(start..) {
            packet.serialize(room);
        }
        self.requests.resize(self.requests.len().next_multiple_of(4), 0);
        self.sequence
    }

    fn send(&self) -> Result<(), RequestError> {
        match self.socket.send(&self.requests, 0) {
            Ok(_) => Ok(()),
            Err(error) => Err(RequestError::lost(format!(
                "cannot send a netlink request: {error}"
            ))),
        }
    }

    /// Takes one datagram, and hands each message of it to `each`.
    fn receive(
        &mut self,
        mut each: impl FnMut(&NetlinkHeader, NetlinkPayload<Packet>),
    ) -> Result<(), RequestError> {
        self.answers.clear();
        let (length, sender) = match self.socket.recv_from(&mut self.answers, MSG_DONTWAIT | MSG_TRUNC) {
            Ok(received) => received,
            Err(error) if error.raw_os_error() == Some(Errno::EAGAIN as i32) => {
                return Err(RequestError::lost("the kernel did not answer"));
            }
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                return Err(RequestError::lost("the kernel had to drop answers"));
            }
            Err(error) => {
                return Err(RequestError::lost(format!(
                    "cannot receive a netlink answer: {error}"
                )));
            }
        };
        // Only the kernel speaks for the kernel.
        if sender.port_number() != 0 {
            return Ok(());
        }
        if length > self.answers.len() {
            return Err(RequestError::lost(format!(
                "an answer of the kernel is {length} bytes long, there is room for {ROOM}"
            )));
        }
        let mut rest = self.answers.as_slice();
        while !rest.is_empty() {
            let senseless = |error: &dyn std::fmt::Display| {
                RequestError::lost(format!("an answer of the kernel: {error}"))
            };
            let length = NetlinkBuffer::new_checked(rest)
                .map_err(|error| senseless(&error))?
                .length();
            let message = NetlinkMessage::<Packet>::deserialize(rest).map_err(|error| senseless(&error))?;
            each(&message.header, message.payload);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}

impl From<RequestError> for DumpError {
    /// `EINTR`: interrupted by a change.
    fn from(error: RequestError) -> Self {
        match error.errno() {
            Some(Errno::EBUSY | Errno::EINTR) => Self::Transient(error),
            _ => Self::Final(error),
        }
    }
}

impl From<Unreadable> for RequestError {
    fn from(unreadable: Unreadable) -> Self {
        Self::Lost(format!(
            "cannot read a message of type {} of the kernel: {}",
            unreadable.kind, unreadable.why
        ))
    }
}

/// The answer to a question for one object.
fn one(header: &NetlinkHeader, payload: NetlinkPayload<Packet>) -> Result<RouteNetlinkMessage, RequestError> {
    match payload {
        NetlinkPayload::InnerMessage(Packet::Message(message)) => Ok(*message),
        NetlinkPayload::InnerMessage(Packet::Unreadable(unreadable)) => Err(unreadable.into()),
        NetlinkPayload::Error(error) => {
            RequestError::from_answer(header, &error)?;
            Err(RequestError::lost("the kernel acknowledged a question"))
        }
        other => Err(unexpected(&other)),
    }
}

fn unexpected(payload: &NetlinkPayload<Packet>) -> RequestError {
    RequestError::lost(format!("unexpected answer of the kernel: {payload:?}"))
}
