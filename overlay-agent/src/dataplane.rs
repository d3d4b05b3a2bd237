//! The eBPF side: loading, pinning, attaching, map entries. The only place of the agent that touches BPF.
//!
//! Everything outlives the agent: maps, programs and TCX links are pinned below one directory of a BPF file system,
//! clsact filters stay with their device. Nothing is kept in memory between calls but handles of pinned maps, which hold
//! as long as the pins are the same ones ([`maps`]); so a process that starts (or that is killed between any two steps)
//! sees what every other one would see.
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
mod burst;
mod clsact;
mod kernel;
mod loader;
mod logs;
mod maps;
mod object;
mod pins;
mod place;
mod pod_devices;
mod tc_dump;
mod tcx;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use overlay_common::config::Config;
use overlay_common::flow::DEFAULT_MAX_FLOWS;
use overlay_common::maps::{Counter, DEFAULT_MAX_PEERS, PeerStats};
use overlay_common::reason::Reason;
use overlay_core::action::{DataplaneAction, Hook, Program};
use overlay_core::observed::{Attachment, ObservedDataplane};

pub use self::kernel::kernel_fib_flags;
pub use self::maps::FlowCounts;
use self::maps::{Entries, Seen, State};
use self::object::Prepared;
pub use self::object::{OBJECT, OBJECT_HASH};
use self::pins::Pins;
pub use self::place::Mechanism;
pub use self::pod_devices::{FastPath, Found, PodDevices};

/// How long a probe is in the stack at most: the programs ignore one that took longer (`PENDING_MAX_AGE`), with room.
const PROBES_ARE_OUT: Duration = Duration::from_millis(20);

/// How much the maps hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// Peers: `SUBNETS`, `PEERS` and `PEER_STATS`.
    pub peers: u32,
    /// Flows of the fast path: `EGRESS_FLOWS` and `INGRESS_FLOWS`, each.
    pub flows: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            peers: DEFAULT_MAX_PEERS,
            flows: DEFAULT_MAX_FLOWS,
        }
    }
}

/// How the operator wants programs to be attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AttachChoice {
    /// TCX where the kernel has it, clsact otherwise; filters on clsact for the devices of pods ([`PodDevices`]).
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
#[derive(Debug)]
pub struct Dataplane {
    pins: Pins,
    mechanism: Mechanism,
    capacity: Capacity,
    /// Open maps, for the actions that come with every peer.
    entries: Entries,
    /// What a look finds for who writes entries: this one, or the one that it looks for.
    seen: Seen,
    /// Being loaded, for the first [`DataplaneAction::Load`].
    prepared: Option<JoinHandle<Result<Prepared>>>,
}

impl Dataplane {
    /// Access to the dataplane below `pin_dir`, which need not exist. Creates nothing.
    ///
    /// A pinned dataplane of another `capacity` is not compatible.
    ///
    /// # Errors
    ///
    /// When the kernel cannot attach in the way that `attach` asks for, or the process may not use BPF.
    pub fn open(pin_dir: PathBuf, attach: AttachChoice, capacity: Capacity) -> Result<Self> {
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
            capacity,
            entries: Entries::default(),
            seen: Seen::default(),
            prepared: None,
        })
    }

    /// Another access to the same, for a look on another thread: [`Dataplane::observe`] of it saves this one reading
    /// `PEERS` again before the first new peer.
    #[must_use]
    pub fn observer(&self) -> Self {
        Self {
            pins: self.pins.clone(),
            mechanism: self.mechanism,
            capacity: self.capacity,
            entries: Entries::default(),
            seen: self.entries.seen().clone(),
            prepared: None,
        }
    }

    /// Starts to load the programs, on a thread of its own, if nothing that fits is pinned: the kernel takes a quarter of a
    /// second to verify them, and the first [`DataplaneAction::Load`] takes what is ready. Pins and changes nothing, and
    /// what fails here is said by that action.
    pub fn prepare(&mut self) {
        if self.prepared.is_some() || !matches!(self.state(), Ok(State::Absent | State::Incompatible(_))) {
            return;
        }
        kernel::raise_memlock_limit();
        let capacity = self.capacity;
        let thread = thread::Builder::new().name("prepare".to_owned());
        match thread.spawn(move || Prepared::new(capacity)) {
            Ok(thread) => self.prepared = Some(thread),
            Err(error) => log::debug!("programs are loaded later: no thread: {error}"),
        }
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
                // The epoch is no part of what is asked for: it counts.
                config: maps::config(&self.pins)?.map(|config| Config { epoch: 0, ..config }),
                subnets: maps::subnets(&self.pins)?,
                peers: maps::peers(&self.pins, &self.seen)?,
                attached: self.attachments()?,
                missing: self.missing_programs(),
            })),
        }
    }

    /// Carries out one action.
    ///
    /// # Errors
    ///
    /// When the kernel refuses. What was done before the error stays; the action can be repeated.
    pub fn execute(&mut self, action: &DataplaneAction) -> Result<()> {
        // Entries wait for nobody. Everything else not while a pod's device is being attached to or detached from.
        match action {
            DataplaneAction::Load => {
                let _alone = pins::exclusive();
                self.load()
            }
            DataplaneAction::Remove => {
                let _alone = pins::exclusive();
                self.remove()
            }
            DataplaneAction::Attach { hook, device } => {
                let _alone = pins::exclusive();
                self.attach(*hook, device)
            }
            DataplaneAction::ForgetFlows => self.entries.forget_flows(&self.pins),
            DataplaneAction::SetConfig(config) => maps::set_config(&self.pins, config),
            DataplaneAction::SetPeer { vtep, subnet } => self.entries.set_peer(&self.pins, *vtep, *subnet),
            DataplaneAction::RemovePeer(address) => self.entries.remove_peer(&self.pins, *address),
            DataplaneAction::SetSubnet { subnet, entry } => {
                self.entries.set_subnet(&self.pins, *subnet, *entry)
            }
            DataplaneAction::RemoveSubnet(subnet) => self.entries.remove_subnet(&self.pins, *subnet),
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

    /// How many flows the fast path knows.
    ///
    /// # Errors
    ///
    /// When no dataplane of this version is pinned, or a map cannot be read.
    pub fn flow_counts(&self) -> Result<FlowCounts> {
        maps::flow_counts(&self.pins)
    }

    /// Hands what the programs log to the `log` crate, forever. Spawn it once: it finds the programs by their pins,
    /// whoever loaded them, waits while there are none, and follows when they are replaced.
    pub fn logs(&self) -> impl Future<Output = Infallible> + Send + use<> {
        logs::follow(self.pins.clone())
    }

    fn state(&self) -> Result<State> {
        maps::state(&self.pins, self.capacity)
    }

    fn attachments(&self) -> Result<BTreeMap<Hook, Attachment>> {
        let mut attachments = BTreeMap::new();
        for hook in Hook::ALL {
            if let Some(attachment) = attach::observe(&self.pins, hook, self.mechanism)? {
                attachments.insert(hook, attachment);
            }
        }
        Ok(attachments)
    }

    fn missing_programs(&self) -> BTreeSet<Program> {
        Program::ALL
            .into_iter()
            .filter(|program| !self.pins.program(*program).exists())
            .collect()
    }

    fn load(&mut self) -> Result<()> {
        self.pins.require_bpffs()?;
        kernel::raise_memlock_limit();
        let state = self.state()?;
        let new_maps = !matches!(state, State::Compatible);
        if let State::Incompatible(why) = state {
            log::warn!(
                "replacing the dataplane pinned in {}: {why}; the kernel device carries all traffic meanwhile",
                self.pins
            );
            self.detach_and_unpin()?;
        }
        self.pins.create_directories()?;
        match self.take_prepared().filter(|_| new_maps) {
            Some(mut prepared) => prepared.pin(&self.pins)?,
            None => object::load_and_pin(&self.pins, self.capacity)?,
        }
        if new_maps {
            self.entries = Entries::of_new_maps(&self.pins)?;
        }
        for hook in Hook::ALL {
            attach::switch(&self.pins, hook)?;
            self.pins.unpin_old_programs(hook)?;
        }
        pod_devices::switch(&self.pins)
    }

    /// What was loaded ahead, once; waits for it.
    fn take_prepared(&mut self) -> Option<Prepared> {
        match self.prepared.take()?.join() {
            Ok(Ok(prepared)) => Some(prepared).filter(|prepared| prepared.fits(self.capacity)),
            Ok(Err(error)) => {
                log::debug!("loading ahead failed: {error:#}");
                None
            }
            Err(_) => None,
        }
    }

    fn attach(&mut self, hook: Hook, device: &str) -> Result<()> {
        // A plan loads before it attaches, but a program pin may have gone since.
        if self.pins.current_program(hook)?.is_none() {
            self.load()?;
        }
        attach::attach(&self.pins, hook, device, self.mechanism)
            .with_context(|| format!("cannot attach {} to {device}", hook.program().name()))
    }

    fn remove(&mut self) -> Result<()> {
        self.entries = Entries::default();
        if !self.pins.exist() {
            return Ok(());
        }
        self.detach_and_unpin()?;
        clsact::remove_own_qdiscs(&self.pins)?;
        self.pins.remove_directories()
    }

    /// In the order that the module documentation promises; and what sends probes into the stack before what absorbs them,
    /// or somebody would receive them.
    fn detach_and_unpin(&self) -> Result<()> {
        pod_devices::detach_all(&self.pins, Program::PodIngress)?;
        attach::detach(&self.pins, Hook::UnderlayIngress)?;
        thread::sleep(PROBES_ARE_OUT);
        pod_devices::detach_all(&self.pins, Program::PodEgress)?;
        attach::detach(&self.pins, Hook::VtepEgress)?;
        attach::detach(&self.pins, Hook::VtepIngress)?;
        self.pins.unpin_programs()?;
        self.pins.unpin_maps()
    }
}
