//! What a run of the control-plane benchmark found: the JSON file, which table and report are made from.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::stats::Summary;
use crate::bench::result::Machine;

/// Everything one run found.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// What was measured on.
    pub machine: Machine,
    /// Version of the kube-apiserver, as its `/version` says.
    pub api_server: String,
    /// How it was measured, one sentence each: for the reader of the report.
    pub setup: Vec<String>,
    /// Whether there were few samples and no large cluster (`--quick`): good for a look, not for a decision.
    pub quick: bool,
    /// Single changes that did not count, because a CPU was away meanwhile, and were measured again.
    pub disturbed: Disturbed,
    /// One entry per kind of Node object, size of the cluster, figure and load, in the order of the table.
    pub results: Vec<Entry>,
    /// What went wrong while measuring: the run is not to be trusted where this is not empty.
    pub problems: Vec<String>,
}

/// How many changes did not count. As many are measured with an agent as without one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Disturbed {
    /// While an agent followed them.
    pub with_agent: usize,
    /// While nobody did but a client that watches.
    pub without: usize,
}

/// What was measured. Names and units are those of the JSON file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Seconds from the start of the agent's process until every peer is in the kernel and in the maps, on a node where
    /// nothing was before.
    StartS,
    /// The same on a node where everything is in place already.
    RestartS,
    /// Milliseconds from the end of the API server's answer to the patch that makes a node a peer until the last of the
    /// peer's entries is there. Negative where the peer was there before the answer.
    AddMs,
    /// Milliseconds from the end of the API server's answer to the patch that ends a peer until the last of its
    /// entries is gone.
    RemoveMs,
    /// Milliseconds from the end of the API server's answer to the patch that makes a node a peer until a client that
    /// only watches has the event, where no agent runs.
    WatchMs,
    /// The agent's CPU time per changed Node object, in microseconds, the kernel's work on its behalf included.
    EventCpuUs,
    /// The agent's resident memory in MiB: median and min are of `VmRSS` at rest after a start, p99 and max are the
    /// largest `VmHWM` (peak).
    RssMib,
    /// The agent's CPU time in seconds, user and system, from its start until it is ready and at rest.
    CpuS,
}

impl Figure {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 8] = [
        Self::StartS,
        Self::RestartS,
        Self::AddMs,
        Self::RemoveMs,
        Self::WatchMs,
        Self::EventCpuUs,
        Self::RssMib,
        Self::CpuS,
    ];

    /// Name in the JSON file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StartS => "start_s",
            Self::RestartS => "restart_s",
            Self::AddMs => "add_ms",
            Self::RemoveMs => "remove_ms",
            Self::WatchMs => "watch_ms",
            Self::EventCpuUs => "event_cpu_us",
            Self::RssMib => "rss_mib",
            Self::CpuS => "cpu_s",
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// What else happened in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// One patch at a time, and nothing else.
    Quiet,
    /// A hundred other nodes per second became peers or ceased to be.
    Churn,
}

impl Load {
    /// Both, in the order of the table.
    pub const ALL: [Self; 2] = [Self::Quiet, Self::Churn];

    /// Name in the JSON file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Churn => "churn",
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// What a Node object carries besides what the agent reads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// What every node has: about 2 KB.
    Bare,
    /// What a node that runs pods has, with the 50 images that a kubelet lists: about 15 KB.
    Real,
}

impl Kind {
    /// Both, in the order of the table.
    pub const ALL: [Self; 2] = [Self::Bare, Self::Real];

    /// Name in the JSON file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Real => "real",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// One line of the results.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Node objects in the cluster, all of them peers of the agent's node (which comes on top).
    pub nodes: u32,
    /// Size of one Node object in bytes, as the API server sends it in JSON.
    pub node_bytes: u32,
    /// What kind of object that is.
    pub node_kind: Kind,
    /// What was measured, and in which unit.
    pub figure: Figure,
    /// What else happened; none for figures about a start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// Median, 99th percentile, extremes and number of the samples.
    #[serde(flatten)]
    pub summary: Summary,
}

impl Run {
    /// The entry of these properties, if it was measured.
    #[must_use]
    pub fn find(&self, kind: Kind, nodes: u32, figure: Figure, load: Option<Load>) -> Option<&Entry> {
        self.results.iter().find(|entry| {
            (entry.node_kind, entry.nodes, entry.figure, entry.load) == (kind, nodes, figure, load)
        })
    }

    /// The sizes of the clusters that were measured, ascending.
    #[must_use]
    pub fn sizes(&self) -> Vec<u32> {
        let mut sizes: Vec<_> = self.results.iter().map(|entry| entry.nodes).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control_plane_bench::stats::summary;

    fn entry(figure: Figure, load: Option<Load>) -> Entry {
        Entry {
            nodes: 5_000,
            node_bytes: 15_123,
            node_kind: Kind::Real,
            figure,
            load,
            summary: summary(&[0.5, 0.25, 1.0]).unwrap(),
        }
    }

    #[test]
    fn an_entry_has_the_shape_that_was_promised() {
        assert_eq!(
            serde_json::to_value(entry(Figure::AddMs, Some(Load::Churn))).unwrap(),
            json!({
                "nodes": 5000, "node_bytes": 15123, "node_kind": "real", "figure": "add_ms", "load": "churn",
                "median": 0.5, "p99": 1.0, "min": 0.25, "max": 1.0, "samples": 3
            })
        );
        let start = serde_json::to_value(entry(Figure::StartS, None)).unwrap();
        assert!(start.get("load").is_none(), "{start}");
    }

    #[test]
    fn names_are_those_of_the_file() {
        for figure in Figure::ALL {
            assert_eq!(serde_json::to_value(figure).unwrap(), figure.name());
        }
        for load in Load::ALL {
            assert_eq!(serde_json::to_value(load).unwrap(), load.name());
        }
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn a_run_survives_its_file() {
        let run = Run {
            machine: Machine::default(),
            api_server: "v1.20.2".to_owned(),
            setup: vec!["One node.".to_owned()],
            quick: true,
            disturbed: Disturbed {
                with_agent: 3,
                without: 4,
            },
            results: vec![
                entry(Figure::RssMib, None),
                entry(Figure::RemoveMs, Some(Load::Quiet)),
            ],
            problems: Vec::new(),
        };
        let text = serde_json::to_string(&run).unwrap();
        assert_eq!(serde_json::from_str::<Run>(&text).unwrap(), run);
        assert!(
            run.find(Kind::Real, 5_000, Figure::RemoveMs, Some(Load::Quiet))
                .is_some()
        );
        assert!(run.find(Kind::Real, 5_000, Figure::RemoveMs, None).is_none());
        assert_eq!(run.sizes(), [5_000]);
    }
}
