//! The eBPF side: loading, pinning, attaching, map entries. The only place of the agent that touches BPF.
//!
//! Everything outlives the agent: maps, programs and TCX links are pinned below one directory of a BPF file system,
//! clsact filters stay with their device. Nothing is kept in memory between calls, so a process that starts (or that
//! is killed between any two steps) sees what every other one would see.
//!
//! What keeps a killed process harmless:
//!
//! * Maps are pinned before the programs that use them, and a set of map pins that is not complete is replaced as a
//!   whole, together with every program and attachment. So a pinned program always uses the pinned maps.
//! * A program is pinned before it is attached and unpinned after it is detached. So the program of a filter of ours is
//!   always pinned, which is how the filter is known to be ours.
//! * A new attachment is made before an old one is dropped, or replaces it atomically; what is left behind in between
//!   is seen by [`Dataplane::observe`] as not current, and the next [`DataplaneAction::Attach`] tidies it up.

mod attach;
mod clsact;
mod kernel;
mod logs;
mod maps;
mod object;
mod pins;
mod place;
mod tc_dump;
mod tcx;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use overlay_common::maps::{Counter, PeerStats};
use overlay_common::reason::Reason;
use overlay_core::action::{DataplaneAction, Hook};
use overlay_core::observed::{Attachment, ObservedDataplane};

pub use self::kernel::kernel_fib_flags;
use self::maps::State;
pub use self::object::{OBJECT, OBJECT_HASH};
use self::pins::Pins;
pub use self::place::Mechanism;

/// Both hooks, in the order in which they are detached: encapsulation first, so that traffic falls back to the kernel
/// before the check of received packets goes.
const HOOKS: [Hook; 2] = [Hook::VtepEgress, Hook::UnderlayIngress];

/// How the operator wants programs to be attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AttachChoice {
    /// TCX where the kernel has it, clsact otherwise.
    #[default]
    Auto,
    /// TCX links (Linux 6.6).
    Tcx,
    /// Filters on a clsact qdisc.
    Clsact,
}

/// Whether the agent may use `pin_dir`, which need not exist: the root of a BPF file system is everybody's.
///
/// # Errors
///
/// When it is such a root, or cannot be examined.
pub fn check_pin_directory(pin_dir: &Path) -> Result<()> {
    Pins::new(pin_dir.to_owned()).require_own_directory()
}

/// Access to the dataplane that is pinned below one directory.
#[derive(Debug, Clone)]
pub struct Dataplane {
    pins: Pins,
    mechanism: Mechanism,
    max_peers: u32,
}

impl Dataplane {
    /// Access to the dataplane below `pin_dir`, which need not exist. Creates nothing.
    ///
    /// `max_peers` is the capacity of the `SUBNETS` and `PEERS` maps; a pinned dataplane of another capacity is not
    /// compatible.
    ///
    /// # Errors
    ///
    /// When the kernel cannot attach in the way that `attach` asks for, or the process may not use BPF.
    pub fn open(pin_dir: PathBuf, attach: AttachChoice, max_peers: u32) -> Result<Self> {
        let mechanism = match attach {
            AttachChoice::Clsact => Mechanism::Clsact,
            AttachChoice::Auto if tcx::supported()? => Mechanism::Tcx,
            AttachChoice::Auto => Mechanism::Clsact,
            AttachChoice::Tcx if tcx::supported()? => Mechanism::Tcx,
            AttachChoice::Tcx => {
                bail!("this kernel has no TCX links (they came with Linux 6.6): use --attach auto or clsact")
            }
        };
        Ok(Self {
            pins: Pins::new(pin_dir),
            mechanism,
            max_peers,
        })
    }

    /// How programs are attached.
    #[must_use]
    pub const fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Whether the pin directory is on a BPF file system, and not its root. [`DataplaneAction::Load`] checks it, too.
    ///
    /// # Errors
    ///
    /// When it is not; the message says how to mount one, or which directory to take.
    pub fn check_file_system(&self) -> Result<()> {
        self.pins.require_bpffs()
    }

    /// What is pinned and attached; `None` when nothing of ours is pinned.
    ///
    /// # Errors
    ///
    /// When pins, maps or traffic-control filters cannot be read.
    pub fn observe(&self) -> Result<Option<ObservedDataplane>> {
        match self.state()? {
            State::Absent => Ok(None),
            State::Incompatible(why) => {
                log::debug!("the dataplane pinned in {} must be replaced: {why}", self.pins);
                Ok(Some(ObservedDataplane::default()))
            }
            State::Compatible => Ok(Some(ObservedDataplane {
                compatible: true,
                config: maps::config(&self.pins)?,
                subnets: maps::subnets(&self.pins)?,
                peers: maps::peers(&self.pins)?,
                attached: self.attachments()?,
            })),
        }
    }

    /// Carries out one action.
    ///
    /// # Errors
    ///
    /// When the kernel refuses. What was done before the error stays; the action can be repeated.
    pub fn execute(&mut self, action: &DataplaneAction) -> Result<()> {
        match action {
            DataplaneAction::Load => self.load(),
            DataplaneAction::Remove => self.remove(),
            DataplaneAction::Attach { hook, device } => self.attach(*hook, device),
            DataplaneAction::SetConfig(config) => maps::set_config(&self.pins, config),
            DataplaneAction::SetPeer { vtep, subnet } => maps::set_peer(&self.pins, *vtep, *subnet),
            DataplaneAction::RemovePeer(address) => maps::remove_peer(&self.pins, *address),
            DataplaneAction::SetSubnet { subnet, entry } => maps::set_subnet(&self.pins, *subnet, *entry),
            DataplaneAction::RemoveSubnet(subnet) => maps::remove_subnet(&self.pins, *subnet),
        }
    }

    /// Every counter, summed over the CPUs, in the order of [`Reason::ALL`].
    ///
    /// # Errors
    ///
    /// When no dataplane of this version is pinned, or its map cannot be read.
    pub fn counters(&self) -> Result<Vec<(Reason, Counter)>> {
        maps::counters(&self.pins)
    }

    /// Traffic with each known peer, summed over the CPUs.
    ///
    /// # Errors
    ///
    /// When no dataplane of this version is pinned, or its map cannot be read.
    pub fn peer_stats(&self) -> Result<BTreeMap<IpAddr, PeerStats>> {
        maps::peer_stats(&self.pins)
    }

    /// Hands what the programs log to the `log` crate, forever. Spawn it once: it finds the programs by their pins,
    /// whoever loaded them, waits while there are none, and follows when they are replaced.
    pub fn logs(&self) -> impl Future<Output = Infallible> + Send + use<> {
        logs::follow(self.pins.clone())
    }

    fn state(&self) -> Result<State> {
        maps::state(&self.pins, self.max_peers)
    }

    fn attachments(&self) -> Result<BTreeMap<Hook, Attachment>> {
        let mut attachments = BTreeMap::new();
        for hook in HOOKS {
            if let Some(attachment) = attach::observe(&self.pins, hook, self.mechanism)? {
                attachments.insert(hook, attachment);
            }
        }
        Ok(attachments)
    }

    fn load(&self) -> Result<()> {
        self.pins.require_bpffs()?;
        kernel::raise_memlock_limit();
        if let State::Incompatible(why) = self.state()? {
            log::warn!(
                "replacing the dataplane pinned in {}: {why}; the kernel device carries all traffic meanwhile",
                self.pins
            );
            self.detach_and_unpin()?;
        }
        self.pins.create_directories()?;
        object::load_and_pin(&self.pins, self.max_peers)?;
        for hook in HOOKS {
            attach::switch(&self.pins, hook)?;
            self.pins.unpin_old_programs(hook)?;
        }
        Ok(())
    }

    fn attach(&self, hook: Hook, device: &str) -> Result<()> {
        // A plan loads before it attaches, but a program pin may have gone since.
        if self.pins.current_program(hook)?.is_none() {
            self.load()?;
        }
        attach::attach(&self.pins, hook, device, self.mechanism)
            .with_context(|| format!("cannot attach {} to {device}", hook.program()))
    }

    fn remove(&self) -> Result<()> {
        if !self.pins.exist() {
            return Ok(());
        }
        self.detach_and_unpin()?;
        clsact::remove_own_qdiscs(&self.pins)?;
        self.pins.remove_directories()
    }

    /// In the order that the module documentation promises.
    fn detach_and_unpin(&self) -> Result<()> {
        for hook in HOOKS {
            attach::detach(&self.pins, hook)?;
        }
        self.pins.unpin_programs()?;
        self.pins.unpin_maps()
    }
}
