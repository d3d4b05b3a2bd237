//! Where our programs are attached, and how to change it without a gap.

use anyhow::{Context, Result, anyhow};
use nix::net::if_::if_nametoindex;
use overlay_core::action::Hook;
use overlay_core::observed::Attachment;

use super::pins::{PinnedProgram, Pins};
use super::place::{Mechanism, Place, Placement};
use super::{clsact, tcx};

/// Every place where a program of ours for `hook` is attached.
fn find(pins: &Pins, hook: Hook) -> Result<Vec<Placement>> {
    let mut placements = tcx::find(pins, hook)?;
    placements.extend(clsact::find(&pins.programs(hook)?, hook.program())?);
    Ok(placements)
}

/// Where the program for `hook` is attached. It is current when nothing is left to do for [`attach`]: one place, by the
/// given mechanism, running the embedded object's program, and no program of another build pinned.
pub(super) fn observe(pins: &Pins, hook: Hook, mechanism: Mechanism) -> Result<Option<Attachment>> {
    let placements = find(pins, hook)?;
    let Some(first) = placements.first() else {
        return Ok(None);
    };
    let settled = match &first.place {
        Place::Tcx { pin } => mechanism == Mechanism::Tcx && *pin == pins.link(hook),
        Place::Clsact { .. } => mechanism == Mechanism::Clsact,
    };
    let running = pins
        .current_program(hook)?
        .is_some_and(|program| program.id == first.program);
    let alone = placements.len() == 1 && pins.programs(hook)?.len() == 1;
    Ok(Some(Attachment {
        ifindex: first.ifindex,
        current: settled && running && alone,
    }))
}

/// Attaches the pinned program for `hook` to `device`, detaches it from everywhere else, and removes the programs of
/// other builds.
pub(super) fn attach(pins: &Pins, hook: Hook, device: &str, mechanism: Mechanism) -> Result<()> {
    let ifindex = if_nametoindex(device).with_context(|| format!("no interface is called {device}"))?;
    let wanted =
        |placement: &Placement| placement.ifindex == ifindex && placement.place.mechanism() == mechanism;
    let current = current(pins, hook)?;
    match (find(pins, hook)?.into_iter().find(wanted), mechanism) {
        (Some(placement), _) => {
            replace(&placement, &current, hook)?;
            if let Place::Tcx { pin } = placement.place {
                tcx::settle(pins, hook, &pin)?;
            }
        }
        (None, Mechanism::Tcx) => tcx::attach(pins, &current, hook, device)?,
        (None, Mechanism::Clsact) => clsact::attach(pins, &current, hook.program(), device, ifindex)?,
    }
    let mut kept = false;
    for placement in find(pins, hook)? {
        if !kept && wanted(&placement) {
            kept = true;
        } else {
            remove(&placement, hook)?;
        }
    }
    pins.unpin_old_programs(hook)
}

/// Lets every attachment run the current program.
pub(super) fn switch(pins: &Pins, hook: Hook) -> Result<()> {
    let current = current(pins, hook)?;
    find(pins, hook)?
        .iter()
        .try_for_each(|placement| replace(placement, &current, hook))
}

/// Detaches every program of ours for `hook`.
pub(super) fn detach(pins: &Pins, hook: Hook) -> Result<()> {
    find(pins, hook)?
        .iter()
        .try_for_each(|placement| remove(placement, hook))?;
    // Pins that no link could be read from.
    tcx::unpin_all(pins, hook)
}

fn current(pins: &Pins, hook: Hook) -> Result<PinnedProgram> {
    pins.current_program(hook)?.ok_or_else(|| {
        anyhow!(
            "{} is not loaded: {} is missing",
            hook.program().name(),
            pins.program(hook).display()
        )
    })
}

fn replace(placement: &Placement, program: &PinnedProgram, hook: Hook) -> Result<()> {
    if placement.program == program.id || placement.ifindex == 0 {
        return Ok(());
    }
    match &placement.place {
        Place::Tcx { pin } => tcx::replace(pin, program).map(drop),
        Place::Clsact { priority, handle } => {
            clsact::replace(placement.ifindex, hook.program(), *priority, *handle, program)
        }
    }
}

fn remove(placement: &Placement, hook: Hook) -> Result<()> {
    match &placement.place {
        Place::Tcx { pin } => super::pins::unpin(pin),
        Place::Clsact { priority, handle } => {
            clsact::remove(placement.ifindex, hook.program(), *priority, *handle)
        }
    }
}
