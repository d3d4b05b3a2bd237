//! Attaching by filters on the clsact qdisc, for kernels without TCX.
//!
//! A filter is ours when the program that it runs is pinned in our pin directory. Names, priorities and handles prove
//! nothing: other people choose theirs as they like.

use std::mem;

use anyhow::{Context, Result, anyhow, bail};
use aya::programs::Link as _;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, TcAttachType};
use nix::errno::Errno;
use overlay_core::action::Program;

use super::pins::{PinnedProgram, Pins};
use super::place::{Place, Placement, attach_type, comes_first, device_name, open};
use super::tc_dump::{self, Filter, Parent};

/// Handle of our filters: unlike the `1` that everybody uses, it is not replaced by mistake.
pub(super) const HANDLE: TcHandle = TcHandle::new(0, 0x6f76);

/// The kernel keeps this much of a program's name.
const NAME_LENGTH: usize = 15;

pub(super) const fn parent(what: Program) -> Parent {
    match attach_type(what) {
        TcAttachType::Egress => Parent::Egress,
        TcAttachType::Ingress | TcAttachType::Custom(_) => Parent::Ingress,
    }
}

/// Priorities to try, the preferred one first; the kernel runs low ones first. 49152 is where the kernel starts with
/// those that it chooses itself, downwards.
fn priorities(what: Program) -> Box<dyn Iterator<Item = u16>> {
    if comes_first(what) {
        Box::new(1..=u16::MAX)
    } else {
        Box::new((1..=50_000).rev())
    }
}

/// The first of [`priorities`].
pub(super) fn preferred(what: Program) -> Option<u16> {
    priorities(what).next()
}

/// What the kernel keeps of the program's name, which aya gives the filter, too.
pub(super) fn own_name(what: Program) -> &'static str {
    let name = what.name();
    name.get(..NAME_LENGTH).unwrap_or(name)
}

/// The filters that run one of `programs`, builds of `what`.
pub(super) fn find(programs: &[PinnedProgram], what: Program) -> Result<Vec<Placement>> {
    let mut placements = Vec::new();
    if programs.is_empty() {
        return Ok(placements);
    }
    for qdisc in tc_dump::qdiscs()? {
        placements.extend(find_on(programs, what, qdisc.ifindex)?);
    }
    Ok(placements)
}

/// The filters of one device that run one of `programs`, builds of `what`; none when the device is gone.
pub(super) fn find_on(programs: &[PinnedProgram], what: Program, ifindex: u32) -> Result<Vec<Placement>> {
    Ok(ours(&tc_dump::filters(ifindex, parent(what))?, programs, ifindex))
}

/// Those of a device's filters that run one of `programs`.
pub(super) fn ours(filters: &[Filter], programs: &[PinnedProgram], ifindex: u32) -> Vec<Placement> {
    let ours = |id: &u32| programs.iter().any(|program| program.id == *id);
    filters
        .iter()
        .filter_map(|filter| {
            Some(Placement {
                ifindex,
                program: filter.program.filter(ours)?,
                place: Place::Clsact {
                    priority: filter.priority,
                    handle: filter.handle,
                },
            })
        })
        .collect()
}

/// Adds a filter at a priority that nobody uses, and the qdisc if there is none.
pub(super) fn attach(
    pins: &Pins,
    program: &PinnedProgram,
    what: Program,
    device: &str,
    ifindex: u32,
) -> Result<()> {
    ensure_qdisc(pins, device, ifindex, what)?;
    let filters = tc_dump::filters(ifindex, parent(what))?;
    let own_name = own_name(what);
    for filter in &filters {
        if filter.name.as_deref() == Some(own_name) {
            log::warn!(
                "{device} has a filter {own_name} that runs program {}, which is not pinned in {pins}: perhaps of an \
                 agent whose pins are gone. It stays; to remove it: tc filter del dev {device} {} pref {} handle {:#x} bpf",
                filter.program.unwrap_or_default(),
                match parent(what) {
                    Parent::Ingress => "ingress",
                    Parent::Egress => "egress",
                },
                filter.priority,
                filter.handle,
            );
        }
    }
    let priority = priorities(what)
        .find(|priority| filters.iter().all(|filter| filter.priority != *priority))
        .ok_or_else(|| anyhow!("every filter priority of {device} is taken"))?;
    add_filter(program, what, device, priority)
}

fn add_filter(program: &PinnedProgram, what: Program, device: &str, priority: u16) -> Result<()> {
    let mut program = open(program)?;
    let options = NlOptions {
        priority,
        handle: HANDLE,
        classid: None,
    };
    let id = program.attach_with_options(device, attach_type(what), TcAttachOptions::Netlink(options))?;
    keep(program.take_link(id)?);
    Ok(())
}

/// aya detaches a filter when its handle is dropped; ours outlives the agent.
fn keep(link: SchedClassifierLink) {
    mem::forget(link);
}

fn ensure_qdisc(pins: &Pins, device: &str, ifindex: u32, what: Program) -> Result<()> {
    match qdisc_add_clsact(device) {
        Ok(()) => return pins.mark_qdisc(ifindex),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot add a clsact qdisc to {device}"));
        }
    }
    let is_ingress = |qdisc: &tc_dump::Qdisc| qdisc.ifindex == ifindex && qdisc.kind == "ingress";
    if matches!(parent(what), Parent::Egress) && tc_dump::qdiscs()?.iter().any(is_ingress) {
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
    what: Program,
    priority: u16,
    handle: u32,
    program: &PinnedProgram,
) -> Result<()> {
    let Some(link) = link(ifindex, what, priority, handle)? else {
        return Ok(());
    };
    let mut program = open(program)?;
    let id = program
        .attach_to_link(link)
        .with_context(|| format!("cannot replace the program of the filter on interface {ifindex}"))?;
    keep(program.take_link(id)?);
    Ok(())
}

pub(super) fn remove(ifindex: u32, what: Program, priority: u16, handle: u32) -> Result<()> {
    let Some(link) = link(ifindex, what, priority, handle)? else {
        return Ok(());
    };
    match link.detach() {
        Err(ProgramError::NetlinkError(error)) if is_gone(error.raw_os_error()) => Ok(()),
        result => result.with_context(|| format!("cannot remove our filter from interface {ifindex}")),
    }
}

/// aya's handle of an attached filter; `None` when the device is gone.
fn link(ifindex: u32, what: Program, priority: u16, handle: u32) -> Result<Option<SchedClassifierLink>> {
    let Some(name) = device_name(ifindex)? else {
        return Ok(None);
    };
    match SchedClassifierLink::attached(&name, attach_type(what), priority, TcHandle::from(handle), None) {
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
        if is_clsact(&present, ifindex) {
            if is_unused(ifindex)? {
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

/// Removes the qdisc of a device, which may have ended, if we made it and nothing is on it.
pub(super) fn remove_own_qdisc_if_unused(pins: &Pins, ifindex: u32) -> Result<()> {
    if !pins.is_marked(ifindex) {
        return Ok(());
    }
    if is_clsact(&tc_dump::qdiscs()?, ifindex) {
        if !is_unused(ifindex)? {
            return Ok(());
        }
        tc_dump::delete_clsact(ifindex)?;
    }
    pins.unmark_qdisc(ifindex)
}

fn is_clsact(qdiscs: &[tc_dump::Qdisc], ifindex: u32) -> bool {
    qdiscs
        .iter()
        .any(|qdisc| qdisc.ifindex == ifindex && qdisc.kind == "clsact")
}

fn is_unused(ifindex: u32) -> Result<bool> {
    Ok(tc_dump::filters(ifindex, Parent::Ingress)?.is_empty()
        && tc_dump::filters(ifindex, Parent::Egress)?.is_empty())
}
