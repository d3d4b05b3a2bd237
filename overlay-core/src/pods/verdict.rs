//! Which links lead to pods, and which of them get the fast path.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use super::{EndpointMode, Limiter, LinkKind, Observed, PodLink, PodSettings};

/// What an alias of the host side of a pod's veth begins with when it is about the fast path; `off`, `shortcut` or `on`
/// follows.
pub const ALIAS_PREFIX: &str = "overlay-fastpath=";

/// What becomes of a device that leads to a pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Flows of its pod are learned and take the fast path.
    Endpoint(EndpointMode),
    /// Its packets take the host stack, always.
    Excluded(Exclusion),
}

/// Why a pod gets no fast path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Exclusion {
    /// The operator says so.
    OptOut,
    /// The alias is about the fast path and says something that nobody understands.
    Unknown {
        /// What stands behind [`ALIAS_PREFIX`].
        value: String,
    },
    /// A qdisc on the device, which the fast path would go round.
    Qdisc {
        /// Its kind.
        kind: String,
    },
    /// Something of others on the device's hooks that the fast path would go round.
    Limiter(Limiter),
    /// Packets cannot be handed to a pod across it.
    NotVeth,
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OptOut => write!(f, "its alias says {ALIAS_PREFIX}off"),
            Self::Unknown { value } => write!(
                f,
                "its alias says {ALIAS_PREFIX}{value}, which is none of off, shortcut and on, and is taken for off: \
                 ip link set DEVICE alias {ALIAS_PREFIX}shortcut"
            ),
            Self::Qdisc { kind } => write!(
                f,
                "its root qdisc is {kind}, which the fast path would go round (noqueue is the kernel's own)"
            ),
            Self::Limiter(Limiter::IngressQdisc) => f.write_str(
                "it has an ingress qdisc, which the fast path would go round (the CNI bandwidth plugin limits by one \
                 what a pod sends)",
            ),
            Self::Limiter(Limiter::Filter { kind, side }) => write!(
                f,
                "it has a {kind} filter on {side}, which the fast path would go round (tc filter show dev DEVICE {side})"
            ),
            Self::NotVeth => f.write_str("it is no veth with the other end in a pod"),
        }
    }
}

/// The devices that lead to pods, by index.
#[must_use]
pub fn verdicts(observed: &Observed) -> BTreeMap<u32, Verdict> {
    let Some(settings) = &observed.settings else {
        return BTreeMap::new();
    };
    observed
        .links
        .iter()
        .filter(|(ifindex, link)| leads_to_a_pod(**ifindex, link, observed, settings))
        .map(|(ifindex, link)| (*ifindex, verdict(link, observed.limiters.get(ifindex))))
        .collect()
}

/// The devices whose routes decide whether they lead to pods.
#[must_use]
pub fn host_route_candidates(observed: &Observed) -> Vec<u32> {
    let underlay = observed.settings.map(|settings| settings.underlay_ifindex);
    let candidate = |(ifindex, link): (&u32, &PodLink)| {
        let veth = link.kind == LinkKind::Veth && link.master.is_none();
        (veth && Some(*ifindex) != underlay).then_some(*ifindex)
    };
    observed.links.iter().filter_map(candidate).collect()
}

fn leads_to_a_pod(ifindex: u32, link: &PodLink, observed: &Observed, settings: &PodSettings) -> bool {
    let local = |addresses: &BTreeMap<u32, BTreeSet<Ipv4Addr>>, ifindex: u32| {
        let found = addresses.get(&ifindex).into_iter().flatten();
        found.into_iter().any(|address| settings.subnet.contains(address))
    };
    if ifindex == settings.underlay_ifindex {
        return false;
    }
    match link.master {
        Some(master) => {
            let is_bridge = |link: &PodLink| link.kind == LinkKind::Bridge;
            observed.links.get(&master).is_some_and(is_bridge) && local(&observed.addresses, master)
        }
        None => link.kind == LinkKind::Veth && local(&observed.host_routes, ifindex),
    }
}

fn verdict(link: &PodLink, limiter: Option<&Limiter>) -> Verdict {
    if link.kind != LinkKind::Veth {
        return Verdict::Excluded(Exclusion::NotVeth);
    }
    let asked = link
        .alias
        .as_deref()
        .and_then(|alias| alias.strip_prefix(ALIAS_PREFIX));
    let mode = match asked {
        None | Some("on") => EndpointMode::Fast,
        Some("shortcut") => EndpointMode::Shortcut,
        Some("off") => return Verdict::Excluded(Exclusion::OptOut),
        Some(value) => {
            return Verdict::Excluded(Exclusion::Unknown {
                value: value.to_owned(),
            });
        }
    };
    let exclusion = match link.qdisc.as_deref() {
        // noop: the device has not been up yet.
        None | Some("noqueue" | "noop") => limiter.cloned().map(Exclusion::Limiter),
        Some(kind) => Some(Exclusion::Qdisc {
            kind: kind.to_owned(),
        }),
    };
    exclusion.map_or(Verdict::Endpoint(mode), Verdict::Excluded)
}
