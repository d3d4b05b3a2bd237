//! The eBPF side: programs, hooks, configuration and map entries.

use std::borrow::Cow;

use overlay_common::config::{ABI_VERSION, Config, FLAG_ENFORCE_PEERS, FLAG_FASTPATH};

use super::device::Fate;
use crate::action::{DataplaneAction, Hook};
use crate::desired::DesiredDataplane;
use crate::observed::{Attachment, ObservedDataplane};
use crate::order::{Ordered, Phase};

pub(super) fn plan(
    desired: Option<&DesiredDataplane>,
    observed: Option<&ObservedDataplane>,
    fate: &Fate<'_>,
    conntrack_is_set: bool,
    steps: &mut Ordered,
) {
    let fresh = ObservedDataplane {
        compatible: true,
        ..ObservedDataplane::default()
    };
    let Some(desired) = desired else {
        if observed.is_some() {
            let why = "the kernel dataplane is asked for";
            steps.push(Phase::RemoveDataplane, DataplaneAction::Remove, why);
        }
        return;
    };
    let found = match observed {
        None => {
            steps.push(Phase::LoadDataplane, DataplaneAction::Load, "nothing is pinned");
            &fresh
        }
        // Entries that cannot be read cannot be kept in step with the kernel's, so the old programs must not run on
        // while it changes. Without programs the kernel device does everything.
        Some(found) if !found.compatible => {
            let why = "the pinned maps have another layout than this agent's";
            steps.push(Phase::RemoveDataplane, DataplaneAction::Remove, why);
            steps.push(Phase::LoadDataplane, DataplaneAction::Load, why);
            &fresh
        }
        Some(found) => {
            if found.attached.values().any(|attachment| !attachment.current) {
                let why = "an attached program is of another build";
                steps.push(Phase::LoadDataplane, DataplaneAction::Load, why);
                steps.push(Phase::LoadDataplane, DataplaneAction::ForgetFlows, why);
            } else if !found.missing.is_empty() {
                // Also of a program for pods, which is attached by another loop as soon as it is there.
                let names: Vec<_> = found.missing.iter().map(|program| program.name()).collect();
                let why = format!("not pinned: {}", names.join(", "));
                steps.push(Phase::LoadDataplane, DataplaneAction::Load, why);
            }
            found
        }
    };
    hooks(desired, found, fate, steps);
    let flush = flush_reason(desired, found, fate);
    entries(desired, found, flush, steps);
    config(&desired.config, found.config.as_ref(), conntrack_is_set, steps);
}

fn hooks(desired: &DesiredDataplane, found: &ObservedDataplane, fate: &Fate<'_>, steps: &mut Ordered) {
    for (hook, target) in &desired.hooks {
        let wanted = match hook {
            Hook::VtepEgress | Hook::VtepIngress => fate.kept().map(|device| device.ifindex),
            Hook::UnderlayIngress => target.ifindex,
        };
        let why = match (found.attached.get(hook), wanted) {
            (None, _) => "not attached".to_owned(),
            (Some(_), None) => "the device is new".to_owned(),
            (Some(Attachment { ifindex, .. }), Some(wanted)) if *ifindex != wanted => {
                format!("attached to index {ifindex}, wanted {wanted}")
            }
            (Some(Attachment { current: false, .. }), _) => "the program is of another build".to_owned(),
            (Some(Attachment { current: true, .. }), _) => continue,
        };
        let attach = DataplaneAction::Attach {
            hook: *hook,
            device: target.device.clone(),
        };
        steps.push(Phase::Attach, attach, why);
    }
}

/// Why every `SUBNETS` entry must go before the rest of the plan and come back after it.
///
/// While there are none the kernel carries everything, so neither a device without peers nor a configuration that does
/// not fit the device can send a packet to where the kernel would not.
fn flush_reason(
    desired: &DesiredDataplane,
    found: &ObservedDataplane,
    fate: &Fate<'_>,
) -> Option<&'static str> {
    if matches!(fate, Fate::Recreate { .. }) {
        return Some("the device is recreated");
    }
    let working = found.config.as_ref().filter(|config| config.abi == ABI_VERSION)?;
    (outer_headers(working) != outer_headers(&desired.config)).then_some("the outer headers change")
}

/// What every encapsulated packet carries of the configuration.
fn outer_headers(config: &Config) -> impl PartialEq + use<> {
    let Config {
        vni,
        port,
        vtep,
        vtep_mac,
        underlay_ifindex,
        ..
    } = *config;
    (vni, port, vtep, vtep_mac, underlay_ifindex)
}

fn entries(
    desired: &DesiredDataplane,
    found: &ObservedDataplane,
    flush: Option<&'static str>,
    steps: &mut Ordered,
) {
    let mut removed = false;
    for (subnet, entry) in &found.subnets {
        let why = match (desired.subnets.get(subnet), flush) {
            (None, _) => "no lease names it",
            (Some(_), Some(why)) => why,
            (Some(wanted), None) if wanted != entry => "the peer has moved",
            (Some(_), None) => continue,
        };
        removed = true;
        steps.push(Phase::RemoveSubnet, DataplaneAction::RemoveSubnet(*subnet), why);
    }
    for (subnet, entry) in &desired.subnets {
        let why = match (found.subnets.get(subnet), flush) {
            (None, _) => "missing",
            (Some(_), Some(why)) => why,
            (Some(found), None) if found != entry => "the peer has moved",
            (Some(_), None) => continue,
        };
        steps.push(
            Phase::SetSubnet,
            DataplaneAction::SetSubnet {
                subnet: *subnet,
                entry: *entry,
            },
            why,
        );
    }
    // A VTEP that stays known keeps its statistics, also when the device is recreated: receiving from it needs no entry
    // of the kernel's.
    for vtep in found
        .peers
        .keys()
        .filter(|vtep| !desired.peers.contains_key(vtep))
    {
        removed = true;
        steps.push(
            Phase::RemovePeer,
            DataplaneAction::RemovePeer(*vtep),
            "no lease names it",
        );
    }
    if removed {
        let why = "entries that they may rely on are gone";
        steps.push(Phase::ForgetFlows, DataplaneAction::ForgetFlows, why);
    }
    let mut changed = false;
    for (vtep, subnet) in &desired.peers {
        let why: Cow<'static, str> = match found.peers.get(vtep) {
            None => "missing".into(),
            Some(found) if found != subnet => {
                changed = true;
                format!("its subnet was {found}").into()
            }
            Some(_) => continue,
        };
        let set = DataplaneAction::SetPeer {
            vtep: *vtep,
            subnet: *subnet,
        };
        steps.push(Phase::SetPeer, set, why);
    }
    if changed {
        let why = "a peer's subnet has changed";
        steps.push(Phase::ForgetChanged, DataplaneAction::ForgetFlows, why);
    }
}

fn config(wanted: &Config, found: Option<&Config>, conntrack_is_set: bool, steps: &mut Ordered) {
    let set = |config: Config| DataplaneAction::SetConfig(Box::new(config));
    let working = found.filter(|config| config.abi == ABI_VERSION);
    match working {
        // Somebody has changed connection tracking meanwhile. Where it cannot be set again, the executor writes a
        // configuration without the fast path.
        Some(found) if found == wanted && wanted.has(FLAG_FASTPATH) && !conntrack_is_set => {
            steps.push(
                Phase::Reconfigure,
                set(*wanted),
                "connection tracking was changed",
            );
        }
        Some(found) if found == wanted => {}
        Some(found) if found.has(FLAG_ENFORCE_PEERS) => {
            steps.push(Phase::Reconfigure, set(*wanted), "the settings have changed");
        }
        // Working, but the check is open: close it last.
        Some(found) => {
            let open = Config {
                flags: wanted.flags & !FLAG_ENFORCE_PEERS,
                ..*wanted
            };
            if *found != open {
                steps.push(Phase::Reconfigure, set(open), "the settings have changed");
            }
            steps.push(Phase::Configure, set(*wanted), "every peer is known");
        }
        None => steps.push(Phase::Configure, set(*wanted), "not configured"),
    }
}
