//! Attaching by TCX links (Linux 6.6): pinned, so they outlive the agent; ordered beside other people's programs.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcError};
use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use nix::errno::Errno;
use overlay_core::action::{Hook, Program};

use super::pins::{PinnedProgram, Pins, unpin};
use super::place::{Place, Placement, attach_type, comes_first, open};

/// Whether this kernel has TCX: asks it which programs are on the loopback device.
pub(super) fn supported() -> Result<bool> {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Ok(true),
        Err(ProgramError::SyscallError(SyscallError {
            call: "bpf_prog_query",
            io_error,
        })) => {
            let errno = Errno::from_raw(io_error.raw_os_error().unwrap_or_default());
            if matches!(errno, Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS) {
                return Ok(false);
            }
            Err(io_error).context(
                "cannot ask the kernel for TCX programs: the agent needs CAP_BPF and CAP_NET_ADMIN \
                 (and CAP_SYS_ADMIN before Linux 5.8)",
            )
        }
        // The query was answered; looking at a program that it named failed.
        Err(_) => Ok(true),
    }
}

/// The links that are pinned.
pub(super) fn find(pins: &Pins, hook: Hook) -> Result<Vec<Placement>> {
    let mut placements = Vec::new();
    for pin in [pins.link(hook), pins.new_link(hook)] {
        let link = match PinnedLink::from_pin(&pin) {
            Ok(link) => FdLink::from(link),
            Err(LinkError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot open the link pinned at {}", pin.display()));
            }
        };
        let info = link
            .info()
            .with_context(|| format!("{} is not a link", pin.display()))?;
        let ifindex = device_of(info.id())
            .with_context(|| format!("cannot find the device of the link pinned at {}", pin.display()))?;
        placements.push(Placement {
            ifindex,
            program: info.program_id(),
            place: Place::Tcx { pin },
        });
    }
    Ok(placements)
}

/// The device of a link that this process has open; 0 when the device is gone.
///
/// aya does not read it from `bpf_link_info`, but the kernel also tells it in `/proc/self/fdinfo`.
fn device_of(link: u32) -> Result<u32> {
    const DIRECTORY: &str = "/proc/self/fdinfo";
    for entry in fs::read_dir(DIRECTORY).context("cannot list /proc/self/fdinfo")? {
        // Other threads close their files meanwhile.
        let Ok(text) = entry.and_then(|entry| fs::read_to_string(entry.path())) else {
            continue;
        };
        let field = |name: &str| -> Option<u32> {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
        };
        if field("link_id") == Some(link) {
            return field("ifindex")
                .ok_or_else(|| anyhow!("link {link} has no interface: it is no TCX link"));
        }
    }
    Err(anyhow!("no file of this process is link {link}"))
}

/// Gives a link that a killed process left under the name for new ones its final name, in the place of an older one.
pub(super) fn settle(pins: &Pins, hook: Hook, pin: &Path) -> Result<()> {
    let settled = pins.link(hook);
    if pin == settled {
        return Ok(());
    }
    fs::rename(pin, &settled).with_context(|| format!("cannot pin the link at {}", settled.display()))
}

/// Attaches and pins. A link that is pinned for `hook` already, to another device, is detached by the same step that
/// pins the new one.
pub(super) fn attach(pins: &Pins, program: &PinnedProgram, hook: Hook, device: &str) -> Result<()> {
    let new = pins.new_link(hook);
    // Left by a process that was killed below; on another device, or it would have been settled.
    unpin(&new)?;
    create(&new, program, hook.program(), device)?;
    settle(pins, hook, &new)
}

/// Attaches `program` and pins the link at `pin`, where nothing is yet.
pub(super) fn create(pin: &Path, program: &PinnedProgram, what: Program, device: &str) -> Result<()> {
    let order = if comes_first(what) {
        LinkOrder::first()
    } else {
        LinkOrder::last()
    };
    let mut program = open(program)?;
    let id = program.attach_with_options(device, attach_type(what), TcAttachOptions::TcxOrder(order))?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    link.pin(pin)
        .with_context(|| format!("cannot pin the link at {}", pin.display()))?;
    Ok(())
}

/// The kernel's ids of the programs on a hook of a device; none when it is gone.
pub(super) fn programs_on(device: &str, what: Program) -> Result<Vec<u32>> {
    match SchedClassifier::query_tcx(device, attach_type(what)) {
        Ok((_, programs)) => Ok(programs.iter().map(ProgramInfo::id).collect()),
        Err(ProgramError::TcError(TcError::IoError(error))) if is_gone(&error) => Ok(Vec::new()),
        Err(ProgramError::SyscallError(error)) if is_gone(&error.io_error) => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot list the TCX programs of {device}")),
    }
}

fn is_gone(error: &io::Error) -> bool {
    [Errno::ENODEV, Errno::ENOENT]
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// Lets a pinned link run another program, atomically. False when its device is gone.
pub(super) fn replace(pin: &Path, program: &PinnedProgram) -> Result<bool> {
    let context = || {
        format!(
            "cannot replace the program of the link pinned at {}",
            pin.display()
        )
    };
    let link = PinnedLink::from_pin(pin).with_context(context)?;
    let link = SchedClassifierLink::try_from(FdLink::from(link)).with_context(context)?;
    let mut program = open(program)?;
    match program.attach_to_link(link) {
        Ok(_) => Ok(true),
        // Nothing runs there.
        Err(ProgramError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(Errno::ENOLINK as i32) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).with_context(context),
    }
}

pub(super) fn unpin_all(pins: &Pins, hook: Hook) -> Result<()> {
    unpin(&pins.link(hook))?;
    unpin(&pins.new_link(hook))
}
