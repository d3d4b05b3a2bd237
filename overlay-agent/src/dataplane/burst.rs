//! Attaching to many devices at once that nothing is on yet: what happens when many pods start.
//!
//! All qdiscs in one datagram, all filters in the next; each program is opened once. What the kernel refuses for one
//! device concerns that device only, and is left to the long way in `clsact`, which looks at what is there first.

use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc::ETH_P_ALL;
use overlay_core::action::Program;
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use super::clsact::{HANDLE, own_name, parent, preferred};
use super::pins::{PinnedProgram, Pins};
use super::place::open;
use super::tc_dump::clsact_message;
use crate::rtnl::{Batch, Change};

// linux/pkt_cls.h
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// Gives each device a clsact qdisc with filters for `programs`, in their order. Answers with the devices that have all
/// of it now; on the others may be some of it, or what others have put there.
///
/// # Errors
///
/// When a program cannot be opened or a qdisc not be remembered as ours, or it is unknown what the kernel did.
pub(super) fn attach(
    pins: &Pins,
    batch: &mut Batch,
    programs: &[(Program, PinnedProgram)],
    devices: &[u32],
) -> Result<Vec<u32>> {
    let opened = programs
        .iter()
        .map(|(what, pinned)| Ok((*what, open(pinned)?)))
        .collect::<Result<Vec<_>>>()?;
    let requests = devices
        .iter()
        .map(|ifindex| qdisc(*ifindex))
        .collect::<Result<_>>()?;
    let mut fresh = Vec::new();
    for (ifindex, answer) in devices.iter().zip(batch.change(requests)?) {
        if accepted(*ifindex, answer) {
            pins.mark_qdisc(*ifindex)?;
            fresh.push(*ifindex);
        }
    }
    let mut requests = Vec::new();
    for ifindex in &fresh {
        for (what, program) in &opened {
            let program = program.fd().context("a pinned program has no file descriptor")?;
            requests.push(filter(*ifindex, *what, program.as_fd().as_raw_fd())?);
        }
    }
    let mut answers = batch.change(requests)?.into_iter();
    fresh.retain(|ifindex| {
        let answers: Vec<_> = answers.by_ref().take(opened.len()).collect();
        answers.into_iter().all(|answer| accepted(*ifindex, answer))
    });
    Ok(fresh)
}

fn accepted(ifindex: u32, answer: Result<(), Errno>) -> bool {
    if let Err(errno) = answer {
        log::debug!("interface {ifindex} is not attached to together with others: {errno}");
    }
    answer.is_ok()
}

fn qdisc(ifindex: u32) -> Result<Change> {
    Ok((
        RouteNetlinkMessage::NewQueueDiscipline(clsact_message(ifindex)?),
        ADD,
    ))
}

/// A filter at the preferred priority. On a qdisc that was made a moment ago nobody has it yet, or is refused.
fn filter(ifindex: u32, what: Program, program: i32) -> Result<Change> {
    let Some(priority) = preferred(what) else {
        bail!("no priority is preferred for {}", what.name());
    };
    let mut message = TcMessage::with_index(i32::try_from(ifindex)?);
    message.header.handle = TcHandle::from(u32::from(HANDLE));
    message.header.parent = parent(what).handle();
    // The priority in the upper half, the protocol in network byte order in the lower one.
    let protocol = u16::try_from(ETH_P_ALL)?.to_be();
    message.header.info = u32::from(priority) << 16 | u32::from(protocol);
    let name = [own_name(what).as_bytes(), &[0]].concat();
    let option = |kind, value| TcOption::Other(DefaultNla::new(kind, value));
    message.attributes = vec![
        TcAttribute::Kind("bpf".to_owned()),
        TcAttribute::Options(vec![
            option(TCA_BPF_FD, program.to_ne_bytes().to_vec()),
            option(TCA_BPF_NAME, name),
            option(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes().to_vec()),
        ]),
    ];
    Ok((RouteNetlinkMessage::NewTrafficFilter(message), ADD))
}
