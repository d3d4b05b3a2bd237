//! One open netlink socket: numbered requests out, their answers in.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink has dozens of messages and attributes, and the library's enums grow"
)]

use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use nix::errno::Errno;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::proto::sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use rtnetlink::proto::{ConnectionHandle, NetlinkCodec};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::error::RequestError;
use super::packet::{Packet, Unreadable};

/// How long the kernel may take for one answer; requests that wait for the RTNL lock block in `sendmsg`, not here.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A request that changes something, and its `NLM_F_*` flags beside `REQUEST | ACK`.
pub(super) type Change = (RouteNetlinkMessage, u16);

/// A message of a dump.
pub(super) type Entry = Result<RouteNetlinkMessage, Unreadable>;

type Transport = rtnetlink::proto::Connection<Packet, TokioSocket, NetlinkCodec>;

/// An open socket. Answers to its dumps do not mix well: one user at a time.
pub(super) struct Connection {
    handle: ConnectionHandle<Packet>,
    /// Moves bytes between socket and handle.
    task: JoinHandle<()>,
    /// Messages sent: the transport numbers them from 1.
    sent: u32,
}

/// Why a dump gave nothing.
pub(super) enum DumpError {
    /// Worth another attempt.
    Transient(RequestError),
    Final(RequestError),
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Whether the socket failed, so that no request can be sent.
    pub(super) fn is_closed(&self) -> bool {
        self.task.is_finished()
    }

    /// Opens a socket. Must be called on a tokio runtime.
    pub(super) fn open() -> Result<Self, RequestError> {
        let opened: std::io::Result<_> = (|| {
            let (mut transport, handle, _): (Transport, _, _) =
                rtnetlink::proto::new_connection_with_codec(NETLINK_ROUTE)?;
            let socket = transport.socket_mut().socket_mut();
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
            transport.set_forward_ack(true);
            transport.set_forward_done(true);
            Ok((transport, handle))
        })();
        let (transport, handle) =
            opened.map_err(|error| RequestError::lost(format!("cannot open a netlink socket: {error}")))?;
        Ok(Self {
            handle,
            task: tokio::spawn(transport),
            sent: 0,
        })
    }

    /// Hands messages to the transport; answers with the sequence number of the first.
    fn send(
        &mut self,
        messages: Vec<NetlinkMessage<Packet>>,
    ) -> Result<(u32, impl Stream<Item = NetlinkMessage<Packet>> + use<>), RequestError> {
        let first = self.sent.wrapping_add(1);
        self.sent = self
            .sent
            .wrapping_add(u32::try_from(messages.len()).unwrap_or(u32::MAX));
        let answers = self
            .handle
            .request_batch(messages, SocketAddr::new(0, 0))
            .map_err(|_| RequestError::lost("the netlink socket is closed"))?;
        Ok((first, answers))
    }

    /// Sends the changes in order, in one datagram; one result for each.
    pub(super) async fn change(&mut self, changes: Vec<Change>) -> Vec<Result<(), RequestError>> {
        let messages: Vec<_> = changes
            .into_iter()
            .map(|(message, flags)| packet(message, NLM_F_ACK | flags))
            .collect();
        let mut results = vec![Err(RequestError::lost("the kernel did not answer")); messages.len()];
        let (first, answers) = match self.send(messages) {
            Ok(sent) => sent,
            Err(error) => return vec![Err(error); results.len()],
        };
        let mut answers = pin!(answers);
        for _ in 0..results.len() {
            let Ok(Some(answer)) = timeout(ANSWER_TIMEOUT, answers.next()).await else {
                break;
            };
            let index = answer.header.sequence_number.wrapping_sub(first);
            if let NetlinkPayload::Error(error) = &answer.payload
                && let Some(result) = usize::try_from(index)
                    .ok()
                    .and_then(|index| results.get_mut(index))
            {
                *result = RequestError::from_answer(&answer.header, error);
            }
        }
        results
    }

    /// Asks for one object.
    pub(super) async fn get(
        &mut self,
        request: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, RequestError> {
        let (_, answers) = self.send(vec![packet(request, 0)])?;
        let mut answers = pin!(answers);
        let answer = next(&mut answers).await?;
        match answer.payload {
            NetlinkPayload::InnerMessage(Packet::Message(message)) => Ok(*message),
            NetlinkPayload::InnerMessage(Packet::Unreadable(unreadable)) => Err(unreadable.into()),
            NetlinkPayload::Error(error) => {
                RequestError::from_answer(&answer.header, &error)?;
                Err(RequestError::lost("the kernel acknowledged a question"))
            }
            other => Err(RequestError::lost(format!(
                "unexpected answer of the kernel: {other:?}"
            ))),
        }
    }

    /// Reads all objects that the request selects and `read` keeps.
    pub(super) async fn dump<T>(
        &mut self,
        request: RouteNetlinkMessage,
        read: impl Fn(Entry) -> Result<Option<T>, RequestError>,
    ) -> Result<Vec<T>, DumpError> {
        let (_, answers) = self
            .send(vec![packet(request, NLM_F_DUMP)])
            .map_err(DumpError::Final)?;
        let mut answers = pin!(answers);
        let mut items = Vec::new();
        let mut interrupted = false;
        // Read to the end in any case: the kernel refuses the next dump while this one is unfinished.
        let mut failed = None;
        loop {
            let answer = next(&mut answers).await.map_err(DumpError::Final)?;
            interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            let entry = match answer.payload {
                NetlinkPayload::InnerMessage(Packet::Message(message)) => Ok(*message),
                NetlinkPayload::InnerMessage(Packet::Unreadable(unreadable)) => Err(unreadable),
                NetlinkPayload::Done(done) => {
                    RequestError::from_done(&done).map_err(DumpError::from)?;
                    break;
                }
                NetlinkPayload::Error(error) => {
                    RequestError::from_answer(&answer.header, &error).map_err(DumpError::from)?;
                    break;
                }
                other => {
                    let error = RequestError::lost(format!("unexpected answer of the kernel: {other:?}"));
                    return Err(DumpError::Final(error));
                }
            };
            match read(entry) {
                Ok(item) => items.extend(item),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if interrupted {
            let error = RequestError::lost("what the kernel lists changed during each attempt to read it");
            return Err(DumpError::Transient(error));
        }
        failed.map_or(Ok(items), |error| Err(DumpError::Final(error)))
    }
}

impl From<RequestError> for DumpError {
    /// `EBUSY`: a dump that nobody waits for any more is still being read. `EINTR`: interrupted by a change.
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

async fn next(
    answers: &mut (impl Stream<Item = NetlinkMessage<Packet>> + Unpin),
) -> Result<NetlinkMessage<Packet>, RequestError> {
    match timeout(ANSWER_TIMEOUT, answers.next()).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(RequestError::lost(
            "the netlink socket was closed before the kernel's answer was complete",
        )),
        Err(_) => Err(RequestError::lost(format!(
            "the kernel did not answer within {ANSWER_TIMEOUT:?}"
        ))),
    }
}

fn packet(message: RouteNetlinkMessage, flags: u16) -> NetlinkMessage<Packet> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message.into()))
}
