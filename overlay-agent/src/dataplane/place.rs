//! Where a program can be, whichever way it is attached.

use std::path::PathBuf;

use anyhow::{Context, Result};
use aya::programs::{SchedClassifier, TcAttachType};
use overlay_core::action::Hook;

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

/// The hook in aya's terms.
pub(super) const fn attach_type(hook: Hook) -> TcAttachType {
    match hook {
        Hook::VtepEgress => TcAttachType::Egress,
        Hook::UnderlayIngress => TcAttachType::Ingress,
    }
}

/// The program as aya's handle. Dropping it detaches nothing that was taken out of it.
pub(super) fn open(program: &PinnedProgram) -> Result<SchedClassifier> {
    SchedClassifier::from_pin(&program.path)
        .with_context(|| format!("cannot open the program pinned at {}", program.path.display()))
}
