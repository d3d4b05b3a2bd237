//! The eBPF side of devices that lead to pods.
//!
//! With [`AttachChoice::Auto`] these get TCX links where the kernel has them, although each takes 8 to 16 ms there (an RCU
//! grace period with the RTNL lock held, measured on Linux 6.18): a clsact qdisc would take the place of the `ingress` qdisc
//! that the CNI bandwidth plugin is about to add, and the pod would not start.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, bail};
use aya::maps::MapInfo;
use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use overlay_common::addr::V4_MAPPED_BITS;
use overlay_common::config::{ABI_VERSION, Config, FLAG_FASTPATH};
use overlay_common::maps::CONFIG;
use overlay_core::action::Program;
use overlay_core::pods::{EndpointMode, Limiter, POD_PROGRAMS, PodAction, PodSettings, Side};

use super::maps::endpoints;
use super::pins::{self, PinnedProgram, Pins};
use super::place::{Mechanism, Place, device_name};
use super::tc_dump::Parent;
use super::{AttachChoice, burst, clsact, maps, tc_dump, tcx};
use crate::rtnl::Batch;

/// What the pinned configuration says about the fast path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FastPath {
    /// Nothing is pinned, or by an agent of another version: there is nothing to do or to know.
    Absent,
    /// No flow may take it.
    Off,
    /// Pods that may take it are to be found.
    On(PodSettings),
}

/// What is on some devices.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Where our programs are, and whether nothing is left to do there.
    pub attached: BTreeMap<(u32, Program), bool>,
    /// What others have put there that the fast path must not go round.
    pub limiters: BTreeMap<u32, Limiter>,
}

/// Access to what is pinned and attached for devices that lead to pods.
#[derive(Debug, Clone)]
pub struct PodDevices {
    pins: Pins,
    mechanism: Mechanism,
    /// The socket for what is done for many devices at once; opened when first needed, and anew after a failure.
    batch: Rc<RefCell<Option<Batch>>>,
}

impl PodDevices {
    /// Access to the dataplane below `pin_dir`, which need not exist. Creates nothing.
    ///
    /// # Errors
    ///
    /// When the kernel cannot attach in the way that `attach` asks for, or the process may not use BPF.
    pub fn open(pin_dir: PathBuf, attach: AttachChoice) -> Result<Self> {
        let mechanism = match attach {
            AttachChoice::Clsact => Mechanism::Clsact,
            AttachChoice::Auto | AttachChoice::Tcx if tcx::supported()? => Mechanism::Tcx,
            AttachChoice::Auto => Mechanism::Clsact,
            AttachChoice::Tcx => bail!("this kernel has no TCX links (they came with Linux 6.6)"),
        };
        Ok(Self {
            pins: Pins::new(pin_dir),
            mechanism,
            batch: Rc::default(),
        })
    }

    /// What the configuration says at present.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn fast_path(&self) -> Result<FastPath> {
        let path = self.pins.map(CONFIG);
        if !path.exists() {
            return Ok(FastPath::Absent);
        }
        let found = MapInfo::from_pin(&path)
            .with_context(|| format!("cannot examine the map pinned at {}", path.display()))?;
        if found.value_size() != u32::try_from(size_of::<Config>())? {
            return Ok(FastPath::Absent);
        }
        let Some(config) = maps::config(&self.pins)? else {
            return Ok(FastPath::Off);
        };
        if config.abi != ABI_VERSION {
            return Ok(FastPath::Absent);
        }
        Ok(pod_settings(&config).map_or(FastPath::Off, FastPath::On))
    }

    /// `ENDPOINTS`; `None` for a mode that this version does not know.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn endpoints(&self) -> Result<BTreeMap<u32, Option<EndpointMode>>> {
        endpoints::endpoints(&self.pins)
    }

    /// `SHORTCUTS`.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn shortcuts(&self) -> Result<u32> {
        endpoints::shortcuts(&self.pins)
    }

    /// What is on the devices `names` (index → name). Filters are listed only where there is a qdisc for them.
    ///
    /// # Errors
    ///
    /// When pins, qdiscs or filters cannot be read.
    pub fn look(&self, names: &BTreeMap<u32, String>) -> Result<Found> {
        let mut look = Found::default();
        if names.is_empty() {
            return Ok(look);
        }
        let mut with_qdisc = BTreeSet::new();
        for qdisc in tc_dump::qdiscs()? {
            if qdisc.kind == "ingress" {
                look.limiters.insert(qdisc.ifindex, Limiter::IngressQdisc);
            }
            with_qdisc.insert(qdisc.ifindex);
        }
        look.limiters.retain(|ifindex, _| names.contains_key(ifindex));
        for program in POD_PROGRAMS {
            let programs = self.pins.programs(program)?;
            let current = self.pins.current_program(program)?.map(|pinned| pinned.id);
            let pinned = self.pins.pod_links(program)?;
            for (ifindex, name) in names {
                let mut places = Vec::new();
                if pinned.contains_key(ifindex) {
                    let running = tcx::programs_on(name, program)?;
                    let id = running.into_iter().find(|id| Some(*id) == current);
                    places.push((Mechanism::Tcx, id));
                }
                if with_qdisc.contains(ifindex) {
                    // The two programs are on different hooks, so this lists each hook once.
                    let filters = tc_dump::filters(*ifindex, clsact::parent(program))?;
                    if let Some(limiter) = limiter(&filters, program) {
                        look.limiters.entry(*ifindex).or_insert(limiter);
                    }
                    let found = clsact::ours(&filters, &programs, *ifindex);
                    places.extend(found.iter().map(|found| (Mechanism::Clsact, Some(found.program))));
                }
                if !places.is_empty() {
                    let settled = current.is_some() && places == [(self.mechanism, current)];
                    look.attached.insert((*ifindex, program), settled);
                }
            }
        }
        Ok(look)
    }

    /// What is left of devices other than `present`, of which some may have ended and some may only not be known:
    /// programs as in [`Found::attached`], never settled.
    ///
    /// # Errors
    ///
    /// When the pin directory cannot be read.
    pub fn leftovers(&self, present: impl Fn(u32) -> bool) -> Result<BTreeMap<(u32, Program), bool>> {
        let mut left = BTreeMap::new();
        for program in POD_PROGRAMS {
            let gone = self.pins.pod_links(program)?.into_keys();
            left.extend(
                gone.filter(|ifindex| !present(*ifindex))
                    .map(|i| ((i, program), false)),
            );
        }
        for ifindex in self.pins.marked_qdiscs()? {
            if !present(ifindex) && device_name(ifindex)?.is_none() {
                self.pins.unmark_qdisc(ifindex)?;
            }
        }
        Ok(left)
    }

    /// The port from which many devices are changed at once: notifications that name it tell nothing new.
    #[must_use]
    pub fn port(&self) -> Option<u32> {
        self.batch.borrow().as_ref().map(Batch::port)
    }

    /// Carries out actions, in order but for this: programs come first onto those devices whose first action is to attach.
    /// One result for each; `None` where an earlier action on the same device has failed. Actions can be repeated.
    ///
    /// Nothing of ours can be loaded or removed meanwhile, so there should not be too many of them.
    #[must_use]
    pub fn execute(&self, actions: &[&PodAction]) -> Vec<Option<Result<()>>> {
        // Not while programs are being replaced or removed.
        let _alone = pins::exclusive();
        let attached = self.attach_together(actions);
        let mut writer = endpoints::Writer::new(&self.pins);
        let mut failed = BTreeSet::new();
        actions
            .iter()
            .map(|action| {
                let device = action.ifindex();
                if device.is_some_and(|ifindex| failed.contains(&ifindex)) {
                    return None;
                }
                let result = self.execute_one(action, &attached, &mut writer);
                if result.is_err() {
                    failed.extend(device);
                }
                Some(result)
            })
            .collect()
    }

    fn execute_one(
        &self,
        action: &PodAction,
        attached: &BTreeSet<u32>,
        writer: &mut endpoints::Writer<'_>,
    ) -> Result<()> {
        match action {
            PodAction::Attach { ifindex, .. } if attached.contains(ifindex) => Ok(()),
            PodAction::Attach {
                program,
                ifindex,
                name,
            } => self.attach(*program, *ifindex, name),
            PodAction::Detach { program, ifindex } => detach(&self.pins, *program, *ifindex),
            PodAction::SetEndpoint { ifindex, mode } => writer.set_endpoint(*ifindex, *mode),
            PodAction::RemoveEndpoint { ifindex } => writer.remove_endpoint(*ifindex),
            PodAction::ForgetDevice { ifindex } => writer.forget_device(*ifindex),
            PodAction::SetShortcuts(count) => endpoints::set_shortcuts(&self.pins, *count),
        }
    }

    /// Attaches to those devices that get every program and had nothing on them; answers with those that have it all.
    fn attach_together(&self, actions: &[&PodAction]) -> BTreeSet<u32> {
        let devices = match self.mechanism {
            Mechanism::Clsact => new_devices(actions),
            Mechanism::Tcx => Vec::new(),
        };
        if devices.is_empty() {
            return BTreeSet::new();
        }
        let attempt = || -> Result<BTreeSet<u32>> {
            let mut programs = Vec::new();
            for program in POD_PROGRAMS {
                match self.pins.current_program(program)? {
                    Some(pinned) => programs.push((program, pinned)),
                    None => return Ok(BTreeSet::new()),
                }
            }
            let mut batch = self.batch.borrow_mut();
            let socket = match &mut *batch {
                Some(socket) => socket,
                none => none.insert(Batch::open()?),
            };
            let attached = burst::attach(&self.pins, socket, &programs, &devices);
            if attached.is_err() {
                *batch = None;
            }
            let attached = attached?;
            for ifindex in &attached {
                for program in POD_PROGRAMS {
                    pins::unpin(&self.pins.pod_link(program, *ifindex))?;
                }
            }
            Ok(attached.into_iter().collect())
        };
        attempt().unwrap_or_else(|error| {
            log::debug!(
                "{} pod devices are attached to one by one: {error:#}",
                devices.len()
            );
            BTreeSet::new()
        })
    }

    fn attach(&self, what: Program, ifindex: u32, name: &str) -> Result<()> {
        match if_nametoindex(name) {
            Ok(found) if found == ifindex => {}
            Ok(_) | Err(Errno::ENODEV) => bail!("{name} is no longer the interface {ifindex}"),
            Err(error) => return Err(error).with_context(|| format!("cannot find {name}")),
        }
        let current = self
            .pins
            .current_program(what)?
            .ok_or_else(|| anyhow!("{} is not loaded", what.name()))?;
        match self.mechanism {
            Mechanism::Tcx => {
                attach_tcx(&self.pins, &current, what, ifindex, name)?;
                remove_filters(&self.pins, what, ifindex, None)
            }
            Mechanism::Clsact => {
                attach_filter(&self.pins, &current, what, ifindex, name)?;
                pins::unpin(&self.pins.pod_link(what, ifindex))
            }
        }
    }
}

/// The first of the filters on the hook of `what` that must see every packet. Ours are programs in direct-action mode.
fn limiter(filters: &[tc_dump::Filter], what: Program) -> Option<Limiter> {
    let found = filters.iter().find(|filter| filter.has_actions())?;
    Some(Limiter::Filter {
        kind: found.kind.clone(),
        side: match clsact::parent(what) {
            Parent::Ingress => Side::Ingress,
            Parent::Egress => Side::Egress,
        },
    })
}

/// Devices whose first action is to attach, and that get every program.
fn new_devices(actions: &[&PodAction]) -> Vec<u32> {
    let mut devices: Vec<(u32, usize)> = Vec::new();
    for action in actions {
        let Some(ifindex) = action.ifindex() else { continue };
        let attaches = matches!(action, PodAction::Attach { .. });
        match devices.iter_mut().find(|(known, _)| *known == ifindex) {
            Some((_, programs)) if *programs > 0 => *programs += usize::from(attaches),
            Some(_) => {}
            None => devices.push((ifindex, usize::from(attaches))),
        }
    }
    let complete = |(ifindex, programs)| (programs == POD_PROGRAMS.len()).then_some(ifindex);
    devices.into_iter().filter_map(complete).collect()
}

/// For a device that something may be on: makes a filter of ours current, or adds one, and removes what is there besides.
fn attach_filter(
    pins: &Pins,
    current: &PinnedProgram,
    what: Program,
    ifindex: u32,
    name: &str,
) -> Result<()> {
    let found = clsact::find_on(&pins.programs(what)?, what, ifindex)?;
    let kept = match found.first().map(|first| (first.program, &first.place)) {
        Some((id, &Place::Clsact { priority, handle })) => {
            if id != current.id {
                clsact::replace(ifindex, what, priority, handle, current)?;
            }
            Some((priority, handle))
        }
        Some((_, Place::Tcx { .. })) | None => {
            clsact::attach(pins, current, what, name, ifindex)?;
            None
        }
    };
    if found.len() > 1 {
        remove_filters(pins, what, ifindex, kept)?;
    }
    Ok(())
}

/// `None` when it does not allow a fast path, or the node has no IPv4 pods.
fn pod_settings(config: &Config) -> Option<PodSettings> {
    let prefix = config.subnet_v4;
    let bits = u8::try_from(prefix.bits().checked_sub(V4_MAPPED_BITS)?).ok()?;
    let subnet = Ipv4Net::new(prefix.address().low_v4().into(), bits).ok()?;
    config.has(FLAG_FASTPATH).then_some(PodSettings {
        subnet,
        underlay_ifindex: config.underlay_ifindex,
    })
}

fn attach_tcx(pins: &Pins, current: &PinnedProgram, what: Program, ifindex: u32, name: &str) -> Result<()> {
    let pin = pins.pod_link(what, ifindex);
    if pin.exists() {
        if tcx::replace(&pin, current)? {
            return Ok(());
        }
        // Of an earlier device with this index.
        pins::unpin(&pin)?;
    }
    tcx::create(&pin, current, what, name)
}

/// Removes our filters for `what` from a device, but not the one at `kept` (priority and handle).
fn remove_filters(pins: &Pins, what: Program, ifindex: u32, kept: Option<(u16, u32)>) -> Result<()> {
    for found in clsact::find_on(&pins.programs(what)?, what, ifindex)? {
        if let Place::Clsact { priority, handle } = found.place
            && kept != Some((priority, handle))
        {
            clsact::remove(ifindex, what, priority, handle)?;
        }
    }
    Ok(())
}

/// Takes a program off a device, which may have ended, and with the last one the qdisc that we made.
fn detach(pins: &Pins, what: Program, ifindex: u32) -> Result<()> {
    pins::unpin(&pins.pod_link(what, ifindex))?;
    if device_name(ifindex)?.is_none() {
        return pins.unmark_qdisc(ifindex);
    }
    remove_filters(pins, what, ifindex, None)?;
    clsact::remove_own_qdisc_if_unused(pins, ifindex)
}

/// Lets every pod's device run the current programs, and removes the pins of older ones.
pub(super) fn switch(pins: &Pins) -> Result<()> {
    for program in POD_PROGRAMS {
        let Some(current) = pins.current_program(program)? else {
            continue;
        };
        let old = pins.programs(program)?;
        if old.iter().all(|pinned| pinned.id == current.id) {
            continue;
        }
        for pin in pins.pod_links(program)?.values() {
            tcx::replace(pin, &current)?;
        }
        for found in clsact::find(&old, program)? {
            if let Place::Clsact { priority, handle } = found.place
                && found.program != current.id
            {
                clsact::replace(found.ifindex, program, priority, handle, &current)?;
            }
        }
        pins.unpin_old_programs(program)?;
    }
    Ok(())
}

/// Detaches one of the programs from every pod's device.
pub(super) fn detach_all(pins: &Pins, program: Program) -> Result<()> {
    pins.pod_links(program)?
        .values()
        .try_for_each(|pin| pins::unpin(pin))?;
    for found in clsact::find(&pins.programs(program)?, program)? {
        if let Place::Clsact { priority, handle } = found.place {
            clsact::remove(found.ifindex, program, priority, handle)?;
        }
    }
    Ok(())
}
