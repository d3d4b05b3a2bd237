//! Whether established flows may take the fast path, and with which configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use overlay_common::config::{Config, FLAG_FASTPATH};
use overlay_common::flow::PENDING_SLOTS;

use crate::model::{ConntrackParameter, Dataplane, FlowSettings, MarkMask, NodeFacts, Settings};

/// Whether established flows take the fast path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fastpath {
    /// They do.
    On {
        /// How, as the operator said.
        flows: FlowSettings,
        /// How many `PENDING` slots each CPU has.
        slots_per_cpu: u32,
    },
    /// Every packet goes through the host's stack.
    Off(FastpathOff),
}

/// Why there is no fast path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FastpathOff {
    /// The operator does not want it.
    NotWanted,
    /// The kernel's device carries everything.
    KernelDataplane,
    /// The eBPF programs cannot work on the underlay device, which is a problem of its own.
    NoPrograms,
    /// The net-conf asks for Group Based Policy, which uses all of the packets' mark.
    Gbp,
    /// A real-time kernel, where programs may be preempted by others on their CPU.
    Realtime,
    /// This kernel does not have what connection tracking must be told.
    NoConntrack(Vec<ConntrackParameter>),
    /// The mark mask has too few bits for this many CPUs.
    TooManyCpus {
        /// Possible CPUs.
        cpus: u32,
        /// Numbers that fit the mask.
        slots: u32,
    },
}

impl FastpathOff {
    /// Whether it is something that the operator should look at: the others were asked for, or are told elsewhere.
    #[must_use]
    pub const fn is_a_problem(&self) -> bool {
        match self {
            Self::NotWanted | Self::KernelDataplane | Self::NoPrograms => false,
            Self::Gbp | Self::Realtime | Self::NoConntrack(_) | Self::TooManyCpus { .. } => true,
        }
    }
}

pub(super) fn decide(has_programs: bool, facts: &NodeFacts, settings: &Settings) -> Fastpath {
    if !settings.fastpath {
        return Fastpath::Off(FastpathOff::NotWanted);
    }
    if settings.dataplane == Dataplane::Kernel {
        return Fastpath::Off(FastpathOff::KernelDataplane);
    }
    if !has_programs {
        return Fastpath::Off(FastpathOff::NoPrograms);
    }
    if settings.net_conf.backend.gbp {
        return Fastpath::Off(FastpathOff::Gbp);
    }
    if facts.realtime {
        return Fastpath::Off(FastpathOff::Realtime);
    }
    let missing: Vec<_> = ConntrackParameter::ALL
        .into_iter()
        .filter(|parameter| !facts.conntrack.contains_key(parameter))
        .collect();
    if !missing.is_empty() {
        return Fastpath::Off(FastpathOff::NoConntrack(missing));
    }
    let slots = settings.flows.mark_mask.numbers().min(PENDING_SLOTS);
    match slots.checked_div(facts.possible_cpus).filter(|share| *share > 0) {
        Some(slots_per_cpu) => Fastpath::On {
            flows: settings.flows,
            slots_per_cpu,
        },
        None => Fastpath::Off(FastpathOff::TooManyCpus {
            cpus: facts.possible_cpus,
            slots,
        }),
    }
}

/// Adds the fast path to a configuration.
pub(super) fn configure(config: &mut Config, slots_per_cpu: u32, flows: &FlowSettings) {
    config.flags |= FLAG_FASTPATH;
    config.mark_mask = flows.mark_mask.bits();
    config.mark_shift = flows.mark_mask.shift();
    config.slots_per_cpu = slots_per_cpu;
    config.revalidate = nanoseconds(flows.revalidate);
}

/// What connection tracking is set to, where the fast path needs another value.
pub(super) fn conntrack(fastpath: &Fastpath, facts: &NodeFacts) -> BTreeMap<ConntrackParameter, u32> {
    match fastpath {
        Fastpath::On { .. } => facts
            .conntrack
            .iter()
            .filter(|(_, value)| **value != ConntrackParameter::WANTED)
            .map(|(parameter, value)| (*parameter, *value))
            .collect(),
        Fastpath::Off(_) => BTreeMap::new(),
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Display for Fastpath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On { flows, .. } => {
                let FlowSettings {
                    mark_mask,
                    revalidate,
                    max,
                } = flows;
                write!(
                    f,
                    "on (mark mask {mark_mask}, revalidated every {revalidate:?}, up to {max} flows)"
                )
            }
            Self::Off(why) => write!(f, "off: {why}"),
        }
    }
}

impl fmt::Display for FastpathOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWanted => f.write_str("--fastpath off"),
            Self::KernelDataplane => f.write_str("--dataplane kernel"),
            Self::NoPrograms => f.write_str("the eBPF programs cannot work on the underlay device"),
            Self::Gbp => f.write_str(
                "the net-conf says GBP true, and Group Based Policy and the fast path cannot both use the packets' mark",
            ),
            Self::Realtime => f.write_str(
                "this is a real-time kernel (PREEMPT_RT), where packets preempt each other on one CPU: it has not been tried there",
            ),
            Self::NoConntrack(missing) => {
                f.write_str("this kernel has no ")?;
                for (index, parameter) in missing.iter().enumerate() {
                    f.write_str(if index > 0 { " and no " } else { "" })?;
                    write!(f, "{parameter}")?;
                }
                f.write_str(
                    ": connection tracking would call packets invalid after it has missed others (is the module \
                     nf_conntrack loaded? nf_conntrack_tcp_ignore_invalid_rst came with Linux 5.14)",
                )
            }
            Self::TooManyCpus { cpus, slots } => write!(
                f,
                "this machine may have {cpus} CPUs and --flow-mark-mask has room for {slots} numbers: give it more bits, \
                 as in {}",
                MarkMask::DEFAULT
            ),
        }
    }
}
