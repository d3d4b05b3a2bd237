//! Reading traffic control over netlink: which devices have a clsact qdisc, and which filters are on it.
//!
//! Of the answers only the few attributes needed here are parsed, so that filters of kinds that netlink-packet-route
//! does not know, made by other people, cannot disturb us.

use std::io;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkMessage, NlaBuffer,
    NlasIterator, parse_i32, parse_string, parse_u32,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

// linux/rtnetlink.h, linux/pkt_cls.h
const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;

/// `struct tcmsg`: what precedes the attributes.
const TCMSG: usize = 20;

/// A qdisc at the place of clsact.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Qdisc {
    pub(super) ifindex: u32,
    /// `clsact` or `ingress`.
    pub(super) kind: String,
}

/// A filter on the ingress or egress hook of a clsact qdisc.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) priority: u16,
    /// 0 for the entry that stands for a whole priority.
    pub(super) handle: u32,
    /// Name of a BPF filter: the first 15 bytes of its program's name, when aya attached it.
    pub(super) name: Option<String>,
    /// The kernel's id of the program of a BPF filter.
    pub(super) program: Option<u32>,
}

/// The hooks of a clsact qdisc.
#[derive(Debug, Clone, Copy)]
pub(super) enum Parent {
    Ingress,
    Egress,
}

impl Parent {
    const fn handle(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle {
            major: TcHandle::CLSACT.major,
            minor,
        }
    }
}

/// Every device with a clsact or ingress qdisc.
pub(super) fn qdiscs() -> Result<Vec<Qdisc>> {
    let mut qdiscs = Vec::new();
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    talk(request, NLM_F_DUMP, |kind, payload| {
        if kind == RTM_NEWQDISC {
            let (header, attributes) = split(payload)?;
            if header.parent == TcHandle::CLSACT {
                let kind = string(attributes, TCA_KIND)?.unwrap_or_default();
                qdiscs.push(Qdisc {
                    ifindex: u32::try_from(header.index)?,
                    kind,
                });
            }
        }
        Ok(())
    })
    .context("cannot list the qdiscs")?;
    Ok(qdiscs)
}

/// Every filter on a hook of a device; none when the device is gone.
pub(super) fn filters(ifindex: u32, parent: Parent) -> Result<Vec<Filter>> {
    let mut message = TcMessage::with_index(i32::try_from(ifindex)?);
    message.header.parent = parent.handle();
    let mut filters = Vec::new();
    talk(
        RouteNetlinkMessage::GetTrafficFilter(message),
        NLM_F_DUMP,
        |kind, payload| {
            if kind == RTM_NEWTFILTER {
                filters.push(parse_filter(payload)?);
            }
            Ok(())
        },
    )
    .with_context(|| format!("cannot list the filters of interface {ifindex}"))?;
    Ok(filters)
}

/// Removes the clsact qdisc of a device, with every filter on it. It is no error when device or qdisc are gone.
pub(super) fn delete_clsact(ifindex: u32) -> Result<()> {
    let mut message = TcMessage::with_index(i32::try_from(ifindex)?);
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle {
        major: TcHandle::CLSACT.major,
        minor: 0,
    };
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    let result = talk(
        RouteNetlinkMessage::DelQueueDiscipline(message),
        NLM_F_ACK,
        |_, _| Ok(()),
    );
    let gone = [Errno::ENODEV, Errno::ENOENT].map(|errno| Some(errno as i32));
    match result {
        Err(error)
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| gone.contains(&error.raw_os_error())) =>
        {
            Ok(())
        }
        result => result.with_context(|| format!("cannot remove the clsact qdisc of interface {ifindex}")),
    }
}

fn parse_filter(payload: &[u8]) -> Result<Filter> {
    let (header, attributes) = split(payload)?;
    // The priority is in the upper half, the protocol in the lower one.
    let [high, low, ..] = header.info.to_be_bytes();
    let mut filter = Filter {
        priority: u16::from_be_bytes([high, low]),
        handle: header.handle.into(),
        name: None,
        program: None,
    };
    if string(attributes, TCA_KIND)?.as_deref() == Some("bpf")
        && let Some(options) = find(attributes, TCA_OPTIONS)?
    {
        filter.name = string(options.value(), TCA_BPF_NAME)?;
        filter.program = find(options.value(), TCA_BPF_ID)?
            .map(|id| parse_u32(id.value()))
            .transpose()?;
    }
    Ok(filter)
}

fn split(payload: &[u8]) -> Result<(TcHeader, &[u8])> {
    Ok((
        TcHeader::parse(payload)?,
        payload.get(TCMSG..).unwrap_or_default(),
    ))
}

fn find(attributes: &[u8], kind: u16) -> Result<Option<NlaBuffer<&[u8]>>> {
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        if attribute.kind() == kind {
            return Ok(Some(attribute));
        }
    }
    Ok(None)
}

fn string(attributes: &[u8], kind: u16) -> Result<Option<String>> {
    Ok(find(attributes, kind)?
        .map(|attribute| parse_string(attribute.value()))
        .transpose()?)
}

/// Sends one request and hands each answer (message type, payload) to `each`.
fn talk(
    request: RouteNetlinkMessage,
    flags: u16,
    mut each: impl FnMut(u16, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut packet = NetlinkMessage::from(request);
    packet.header.flags = NLM_F_REQUEST | flags;
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);

    let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
    socket.bind_auto().context("cannot bind the netlink socket")?;
    socket
        .connect(&SocketAddr::new(0, 0))
        .context("cannot connect the netlink socket")?;
    socket
        .send(&bytes, 0)
        .context("cannot send the netlink request")?;
    loop {
        let (datagram, _) = socket
            .recv_from_full()
            .context("cannot receive the netlink answer")?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let answer = NetlinkBuffer::new_checked(rest)?;
            match answer.message_type() {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return acknowledged(answer.payload()),
                kind => each(kind, answer.payload())?,
            }
            let next = usize::try_from(answer.length())?.next_multiple_of(4);
            rest = rest.get(next..).unwrap_or_default();
        }
    }
}

/// `struct nlmsgerr`: a negative errno, 0 for success.
fn acknowledged(payload: &[u8]) -> Result<()> {
    let Some(code) = payload.get(..4) else {
        bail!("a netlink error without a code")
    };
    match parse_i32(code)? {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code).into()),
    }
}
