//! Where a program can be, whichever way it is attached.

use std::path::PathBuf;

use anyhow::{Context, Result};
use aya::programs::{SchedClassifier, TcAttachType};
use nix::errno::Errno;
use nix::net::if_::if_indextoname;
use overlay_core::action::Program;

use super::pins::PinnedProgram;

/// How a program is attached to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mechanism {
    /// A pinned TCX link (Linux 6.6).
    Tcx,
    /// A filter on the device's clsact qdisc.
    Clsact,
}

/// One of our programs on a device.
#[derive(Debug)]
pub(super) struct Placement {
    /// 0 when the device is gone.
    pub(super) ifindex: u32,
    /// The kernel's id of the program.
    pub(super) program: u32,
    /// What holds it there.
    pub(super) place: Place,
}

/// What holds a program on its hook.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tcx { pin: PathBuf },
    Clsact { priority: u16, handle: u32 },
}

impl Place {
    pub(super) const fn mechanism(&self) -> Mechanism {
        match self {
            Self::Tcx { .. } => Mechanism::Tcx,
            Self::Clsact { .. } => Mechanism::Clsact,
        }
    }
}

/// Where a program belongs, in aya's terms.
pub(super) const fn attach_type(program: Program) -> TcAttachType {
    match program {
        Program::VtepEgress | Program::PodEgress => TcAttachType::Egress,
        Program::VtepIngress | Program::UnderlayIngress | Program::PodIngress => TcAttachType::Ingress,
    }
}

/// Whether a program comes before those of others. The peer check comes before anybody looks inside; everywhere else
/// packets are taken away or looked at as they leave, so others see them before.
pub(super) const fn comes_first(program: Program) -> bool {
    match program {
        Program::UnderlayIngress => true,
        Program::VtepEgress | Program::VtepIngress | Program::PodIngress | Program::PodEgress => false,
    }
}

/// The name of a device; `None` when there is none with this index.
pub(super) fn device_name(ifindex: u32) -> Result<Option<String>> {
    let name = match if_indextoname(ifindex) {
        // nix 0.31 takes the null pointer, which says that there is no such device, for success.
        Ok(name) if name.is_empty() => return Ok(None),
        Ok(name) => name,
        Err(Errno::ENXIO | Errno::ENODEV) => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read the name of interface {ifindex}"));
        }
    };
    let name = name
        .into_string()
        .with_context(|| format!("the name of interface {ifindex}"))?;
    Ok(Some(name))
}

/// The program as aya's handle. Dropping it detaches nothing that was taken out of it.
pub(super) fn open(program: &PinnedProgram) -> Result<SchedClassifier> {
    SchedClassifier::from_pin(&program.path)
        .with_context(|| format!("cannot open the program pinned at {}", program.path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_has_no_name() {
        assert_eq!(device_name(1).unwrap().as_deref(), Some("lo"));
        assert_eq!(device_name(0x7fff_fff0).unwrap(), None);
    }
}
