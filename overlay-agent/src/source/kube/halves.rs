//! The lease of one Node as it is in force, and what is wrong with what it says now.

use std::fmt;

use overlay_core::kube::{BadValue, Half, Reading};
use overlay_core::model::FamilyLease;

/// The families that are in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Halves {
    pub(super) v4: Option<FamilyLease>,
    pub(super) v6: Option<FamilyLease>,
}

impl Halves {
    pub(super) const fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// What is in force after a Node has said `reading`, and what an operator should know about it.
    pub(super) fn after(&self, node: &str, reading: Reading) -> (Self, Option<String>) {
        match reading {
            Reading::NoPart => (Self::default(), None),
            Reading::OtherBackend(bad) => {
                let text = format!("Node {node} is left out: {bad}");
                (Self::default(), Some(text))
            }
            Reading::Part { v4, v6 } => {
                let (v4, v4_wrong) = half(self.v4, v4);
                let (v6, v6_wrong) = half(self.v6, v6);
                let texts: Vec<_> = [("IPv4", v4_wrong), ("IPv6", v6_wrong)]
                    .into_iter()
                    .filter_map(|(family, wrong)| wrong.map(|wrong| wrong.text(family)))
                    .collect();
                let text = (!texts.is_empty()).then(|| format!("Node {node}: {}", texts.join(". ")));
                (Self { v4, v6 }, text)
            }
        }
    }
}

/// What is wrong with a half, and what is in force instead.
struct Wrong {
    values: Vec<BadValue>,
    kept: Option<FamilyLease>,
}

fn half(last: Option<FamilyLease>, half: Half) -> (Option<FamilyLease>, Option<Wrong>) {
    match half {
        Half::Absent => (None, None),
        Half::Good(lease) => (Some(lease), None),
        // The pods are where they were, and so, in all likelihood, is the node.
        Half::Bad { values, subnet } => {
            let kept = last.filter(|last| subnet == Some(last.subnet));
            (kept, Some(Wrong { values, kept }))
        }
    }
}

impl Wrong {
    fn text(self, family: &str) -> String {
        let values: Vec<_> = self.values.iter().map(ToString::to_string).collect();
        let now = match self.kept {
            Some(lease) => format!("its last good {family} lease stays in force: {}", Shown(lease)),
            None => format!("it has no {family} lease until that is repaired"),
        };
        format!("{}; {now}", values.join("; "))
    }
}

struct Shown(FamilyLease);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FamilyLease {
            subnet,
            public_ip,
            vtep_mac,
        } = self.0;
        write!(f, "{subnet} via {public_ip}, {vtep_mac}")
    }
}
