//! Route netlink without a runtime: one question, answered at once; [`Batch`], many changes to a datagram; and
//! [`notifications`], which do need one.
//!
//! Of the answers only the few attributes that are needed are parsed, so that kinds of links, routes and filters that
//! netlink-packet-route does not know, made by other people, cannot disturb us.

mod batch;
pub(crate) mod notifications;
pub(crate) mod socket_filter;

use std::io;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use rtnetlink::packet_core::{
    NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkMessage, NlaBuffer,
    NlasIterator, parse_i32, parse_string,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

pub(crate) use self::batch::{Batch, Change};

/// Whether what was listed changed meanwhile, so that entries may be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Listed {
    /// Everything was.
    All,
    /// Something may be missing; what was listed is so.
    Interrupted,
}

/// Sends one request and hands each answer (message type, payload) to `each`.
pub(crate) fn talk(
    request: RouteNetlinkMessage,
    flags: u16,
    mut each: impl FnMut(u16, &[u8]) -> Result<()>,
) -> Result<Listed> {
    let mut packet = NetlinkMessage::from(request);
    packet.header.flags = NLM_F_REQUEST | flags;
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);

    let (socket, _) = open()?;
    match socket.set_netlink_get_strict_chk(true) {
        // Without it (before Linux 4.20) more is listed than was asked for.
        Err(error) if error.raw_os_error() == Some(Errno::ENOPROTOOPT as i32) => {}
        result => result.context("cannot ask the kernel to filter")?,
    }
    socket
        .send(&bytes, 0)
        .context("cannot send the netlink request")?;
    let mut listed = Listed::All;
    loop {
        let (datagram, _) = socket
            .recv_from_full()
            .context("cannot receive the netlink answer")?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let answer = NetlinkBuffer::new_checked(rest)?;
            if answer.flags() & NLM_F_DUMP_INTR != 0 {
                listed = Listed::Interrupted;
            }
            match answer.message_type() {
                NLMSG_DONE | NLMSG_ERROR => return acknowledged(answer.payload()).map(|()| listed),
                kind => each(kind, answer.payload())?,
            }
            let next = usize::try_from(answer.length())?.next_multiple_of(4);
            rest = rest.get(next..).unwrap_or_default();
        }
    }
}

/// A socket of the calling thread's network namespace that talks to the kernel only, and its port.
fn open() -> Result<(Socket, u32)> {
    let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
    let own = socket.bind_auto().context("cannot bind the netlink socket")?;
    socket
        .connect(&SocketAddr::new(0, 0))
        .context("cannot connect the netlink socket")?;
    Ok((socket, own.port_number()))
}

/// The attribute of this kind.
pub(crate) fn find(attributes: &[u8], kind: u16) -> Result<Option<NlaBuffer<&[u8]>>> {
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        if attribute.kind() == kind {
            return Ok(Some(attribute));
        }
    }
    Ok(None)
}

/// The attribute of this kind as text.
pub(crate) fn string(attributes: &[u8], kind: u16) -> Result<Option<String>> {
    Ok(find(attributes, kind)?
        .map(|attribute| parse_string(attribute.value()))
        .transpose()?)
}

/// The attribute of this kind as a number in host byte order.
pub(crate) fn number(attributes: &[u8], kind: u16) -> Result<Option<u32>> {
    Ok(find(attributes, kind)?.and_then(|attribute| u32_at(attribute.value(), 0)))
}

/// In host byte order, as netlink has it.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

/// `struct nlmsgerr`, or the end of a list: a negative errno, 0 for success.
fn acknowledged(payload: &[u8]) -> Result<()> {
    let Some(code) = payload.get(..4) else {
        bail!("a netlink error without a code")
    };
    match parse_i32(code)? {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg()).into()),
    }
}

/// Whether the kernel refused with one of these.
pub(crate) fn refused_with(error: &anyhow::Error, errnos: &[Errno]) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error())
        .any(|code| errnos.contains(&Errno::from_raw(code)))
}
