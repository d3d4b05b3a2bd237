//! Reading traffic control over netlink: which devices have a clsact qdisc, and which filters are on it.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc::{RTM_NEWQDISC, RTM_NEWTFILTER};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage};

use crate::rtnl::{find, number, refused_with, string, talk};

// linux/rtnetlink.h, linux/pkt_cls.h
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

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
    /// `bpf`, `u32`, `matchall`, ….
    pub(super) kind: String,
    pub(super) priority: u16,
    /// 0 for the entry that stands for a whole priority.
    pub(super) handle: u32,
    /// Whether it is a BPF filter whose program decides alone, without actions such as police and mirred.
    pub(super) direct_action: bool,
    /// Name of a BPF filter: the first 15 bytes of its program's name, when aya attached it.
    pub(super) name: Option<String>,
    /// The kernel's id of the program of a BPF filter.
    pub(super) program: Option<u32>,
}

impl Filter {
    /// Whether it may do something by traffic-control actions: these must see every packet.
    pub(super) fn has_actions(&self) -> bool {
        let whole_priority_of_programs = self.kind == "bpf" && self.handle == 0;
        !self.direct_action && !whole_priority_of_programs
    }
}

/// The hooks of a clsact qdisc.
#[derive(Debug, Clone, Copy)]
pub(super) enum Parent {
    Ingress,
    Egress,
}

impl Parent {
    pub(super) const fn handle(self) -> TcHandle {
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
    let result = talk(
        RouteNetlinkMessage::DelQueueDiscipline(clsact_message(ifindex)?),
        NLM_F_ACK,
        |_, _| Ok(()),
    );
    match result {
        Err(error) if refused_with(&error, &[Errno::ENODEV, Errno::ENOENT]) => Ok(()),
        result => result
            .map(drop)
            .with_context(|| format!("cannot remove the clsact qdisc of interface {ifindex}")),
    }
}

/// A message about the clsact qdisc of a device.
pub(super) fn clsact_message(ifindex: u32) -> Result<TcMessage> {
    let mut message = TcMessage::with_index(i32::try_from(ifindex)?);
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle {
        major: TcHandle::CLSACT.major,
        minor: 0,
    };
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    Ok(message)
}

fn parse_filter(payload: &[u8]) -> Result<Filter> {
    let (header, attributes) = split(payload)?;
    // The priority is in the upper half, the protocol in the lower one.
    let [high, low, ..] = header.info.to_be_bytes();
    let mut filter = Filter {
        kind: string(attributes, TCA_KIND)?.unwrap_or_default(),
        priority: u16::from_be_bytes([high, low]),
        handle: header.handle.into(),
        direct_action: false,
        name: None,
        program: None,
    };
    if filter.kind == "bpf"
        && let Some(options) = find(attributes, TCA_OPTIONS)?
    {
        filter.name = string(options.value(), TCA_BPF_NAME)?;
        filter.program = number(options.value(), TCA_BPF_ID)?;
        let flags = number(options.value(), TCA_BPF_FLAGS)?.unwrap_or_default();
        filter.direct_action = flags & TCA_BPF_FLAG_ACT_DIRECT != 0;
    }
    Ok(filter)
}

fn split(payload: &[u8]) -> Result<(TcHeader, &[u8])> {
    Ok((
        TcHeader::parse(payload)?,
        payload.get(TCMSG..).unwrap_or_default(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// As the kernel lists it; without options for the entry that stands for a whole priority.
    fn filter(kind: &str, options: Option<&[Vec<u8>]>) -> Filter {
        let mut payload = vec![0; TCMSG];
        payload[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        payload[8..12].copy_from_slice(&u32::from(options.is_some()).to_ne_bytes());
        payload[16..20].copy_from_slice(&(50_000_u32 << 16 | 3).to_ne_bytes());
        payload.extend(attribute(TCA_KIND, &[kind.as_bytes(), &[0]].concat()));
        if let Some(options) = options {
            payload.extend(attribute(TCA_OPTIONS, &options.concat()));
        }
        parse_filter(&payload).unwrap()
    }

    #[test]
    fn a_filter_has_actions_unless_it_is_a_program_that_decides_alone() {
        let program = attribute(TCA_BPF_ID, &9_u32.to_ne_bytes());
        let flags = |flags: u32| attribute(TCA_BPF_FLAGS, &flags.to_ne_bytes());
        let ours = filter("bpf", Some(&[program.clone(), flags(TCA_BPF_FLAG_ACT_DIRECT)]));
        assert_eq!((ours.priority, ours.handle, ours.program), (50_000, 1, Some(9)));
        assert!(!ours.has_actions());
        assert!(!filter("bpf", None).has_actions());
        for other in [
            filter("bpf", Some(&[program.clone(), flags(0)])),
            filter("bpf", Some(&[program])),
            filter("u32", Some(&[])),
            filter("matchall", None),
        ] {
            assert!(other.has_actions(), "{other:?}");
        }
    }
}
