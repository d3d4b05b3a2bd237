//! Attaching by filters on the clsact qdisc, for kernels without TCX.
//!
//! A filter is ours when the program that it runs is pinned in our pin directory. Names, priorities and handles prove
//! nothing: other people choose theirs as they like.

use std::mem;

use anyhow::{Context, Result, anyhow, bail};
use aya::programs::Link as _;
use aya::programs::ProgramError;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use nix::errno::Errno;
use nix::net::if_::if_indextoname;
use overlay_core::action::Hook;

use super::pins::{PinnedProgram, Pins};
use super::place::{Place, Placement, attach_type, open};
use super::tc_dump::{self, Parent};

/// Handle of our filters: unlike the `1` that everybody uses, it is not replaced by mistake.
const HANDLE: TcHandle = TcHandle::new(0, 0x6f76);

/// The kernel keeps this much of a program's name.
const NAME_LENGTH: usize = 15;

const fn parent(hook: Hook) -> Parent {
    match hook {
        Hook::VtepEgress => Parent::Egress,
        Hook::UnderlayIngress => Parent::Ingress,
    }
}

/// Priorities to try, the preferred one first; the kernel runs low ones first. Encapsulation takes packets away, so
/// others see them before (49152 is where the kernel starts with those that it chooses itself, downwards); the peer
/// check comes before anybody looks inside.
fn priorities(hook: Hook) -> Box<dyn Iterator<Item = u16>> {
    match hook {
        Hook::VtepEgress => Box::new((1..=50_000).rev()),
        Hook::UnderlayIngress => Box::new(1..=u16::MAX),
    }
}

/// The filters that run one of `programs`.
pub(super) fn find(programs: &[PinnedProgram], hook: Hook) -> Result<Vec<Placement>> {
    let mut placements = Vec::new();
    if programs.is_empty() {
        return Ok(placements);
    }
    for qdisc in tc_dump::qdiscs()? {
        for filter in tc_dump::filters(qdisc.ifindex, parent(hook))? {
            if let Some(program) = filter
                .program
                .filter(|id| programs.iter().any(|program| program.id == *id))
            {
                let place = Place::Clsact {
                    priority: filter.priority,
                    handle: filter.handle,
                };
                placements.push(Placement {
                    ifindex: qdisc.ifindex,
                    program,
                    place,
                });
            }
        }
    }
    Ok(placements)
}

/// Adds a filter at a priority that nobody uses, and the qdisc if there is none.
pub(super) fn attach(
    pins: &Pins,
    program: &PinnedProgram,
    hook: Hook,
    device: &str,
    ifindex: u32,
) -> Result<()> {
    ensure_qdisc(pins, device, ifindex, hook)?;
    let filters = tc_dump::filters(ifindex, parent(hook))?;
    let own_name = hook.program().get(..NAME_LENGTH).unwrap_or(hook.program());
    for filter in &filters {
        if filter.name.as_deref() == Some(own_name) {
            log::warn!(
                "{device} has a filter {own_name} that runs program {}, which is not pinned in {pins}: perhaps of an \
                 agent whose pins are gone. It stays; to remove it: tc filter del dev {device} {} pref {} handle {:#x} bpf",
                filter.program.unwrap_or_default(),
                match parent(hook) {
                    Parent::Ingress => "ingress",
                    Parent::Egress => "egress",
                },
                filter.priority,
                filter.handle,
            );
        }
    }
    let priority = priorities(hook)
        .find(|priority| filters.iter().all(|filter| filter.priority != *priority))
        .ok_or_else(|| anyhow!("every filter priority of {device} is taken"))?;
    let mut program = open(program)?;
    let options = NlOptions {
        priority,
        handle: HANDLE,
        classid: None,
    };
    let id = program.attach_with_options(device, attach_type(hook), TcAttachOptions::Netlink(options))?;
    keep(program.take_link(id)?);
    Ok(())
}

/// aya detaches a filter when its handle is dropped; ours outlives the agent.
fn keep(link: SchedClassifierLink) {
    mem::forget(link);
}

fn ensure_qdisc(pins: &Pins, device: &str, ifindex: u32, hook: Hook) -> Result<()> {
    match qdisc_add_clsact(device) {
        Ok(()) => return pins.mark_qdisc(ifindex),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot add a clsact qdisc to {device}"));
        }
    }
    let is_ingress = |qdisc: &tc_dump::Qdisc| qdisc.ifindex == ifindex && qdisc.kind == "ingress";
    if matches!(hook, Hook::VtepEgress) && tc_dump::qdiscs()?.iter().any(is_ingress) {
        bail!(
            "{device} has an ingress qdisc of somebody else, which has no egress hook and leaves no room for clsact; \
             the kernel device carries the traffic until it is gone (tc qdisc del dev {device} ingress)"
        );
    }
    Ok(())
}

/// Lets a filter run another program, atomically.
pub(super) fn replace(
    ifindex: u32,
    hook: Hook,
    priority: u16,
    handle: u32,
    program: &PinnedProgram,
) -> Result<()> {
    let Some(link) = link(ifindex, hook, priority, handle)? else {
        return Ok(());
    };
    let mut program = open(program)?;
    let id = program
        .attach_to_link(link)
        .with_context(|| format!("cannot replace the program of the filter on interface {ifindex}"))?;
    keep(program.take_link(id)?);
    Ok(())
}

pub(super) fn remove(ifindex: u32, hook: Hook, priority: u16, handle: u32) -> Result<()> {
    let Some(link) = link(ifindex, hook, priority, handle)? else {
        return Ok(());
    };
    match link.detach() {
        Err(ProgramError::NetlinkError(error)) if is_gone(error.raw_os_error()) => Ok(()),
        result => result.with_context(|| format!("cannot remove our filter from interface {ifindex}")),
    }
}

/// aya's handle of an attached filter; `None` when the device is gone.
fn link(ifindex: u32, hook: Hook, priority: u16, handle: u32) -> Result<Option<SchedClassifierLink>> {
    let name = match if_indextoname(ifindex) {
        Ok(name) => name
            .into_string()
            .with_context(|| format!("the name of interface {ifindex}"))?,
        Err(error) if is_gone(Some(error as i32)) => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read the name of interface {ifindex}"));
        }
    };
    match SchedClassifierLink::attached(&name, attach_type(hook), priority, TcHandle::from(handle), None) {
        Ok(link) => Ok(Some(link)),
        Err(error) if is_gone(error.raw_os_error()) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot find {name}")),
    }
}

fn is_gone(errno: Option<i32>) -> bool {
    [Errno::ENODEV, Errno::ENXIO, Errno::ENOENT]
        .iter()
        .any(|gone| errno == Some(*gone as i32))
}

/// Removes the qdiscs that we made, except where somebody has put a filter on one meanwhile.
pub(super) fn remove_own_qdiscs(pins: &Pins) -> Result<()> {
    let present = tc_dump::qdiscs()?;
    for ifindex in pins.marked_qdiscs()? {
        if present
            .iter()
            .any(|qdisc| qdisc.ifindex == ifindex && qdisc.kind == "clsact")
        {
            let unused = tc_dump::filters(ifindex, Parent::Ingress)?.is_empty()
                && tc_dump::filters(ifindex, Parent::Egress)?.is_empty();
            if unused {
                tc_dump::delete_clsact(ifindex)?;
            } else {
                log::warn!(
                    "leaving the clsact qdisc of interface {ifindex}: there are filters of others on it"
                );
            }
        }
        pins.unmark_qdisc(ifindex)?;
    }
    Ok(())
}
