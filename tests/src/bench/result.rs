//! What a benchmark run found: the JSON file, which the table and the report are made from.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::test_run_cost::ProgramCost;

/// Everything one run found.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// What was measured on.
    pub machine: Machine,
    /// How the nodes were set up and what was sent, one sentence each: for the reader of the report.
    pub setup: Vec<String>,
    /// Whether slices were short and rounds few (`--quick`): good for a look, not for a decision.
    pub quick: bool,
    /// One entry per workload, target, mode, number of flows and kind of wire, in the order of the table.
    pub results: Vec<Entry>,
    /// What the eBPF programs cost, by `BPF_PROG_TEST_RUN`. Empty if that was not measured.
    pub programs: Vec<ProgramCost>,
    /// What went wrong while measuring: the run is not to be trusted where this is not empty.
    pub problems: Vec<String>,
}

/// The machine and its state.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// Name of the processor.
    pub processor: String,
    /// CPUs online.
    pub cpus: usize,
    /// When the run began, seconds since 1970 (UTC).
    pub started_at: u64,
    /// How long it took, in seconds.
    pub seconds: u64,
    /// Version of the agent, as `overlay-agent --version` prints it.
    pub agent: String,
    /// Load average of the last minute when the run began, in hundredths: what else the machine was doing.
    pub load_percent: u32,
}

/// What was sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// One byte there, one byte back, on established TCP connections.
    TcpRr,
    /// One byte there, one byte back, in UDP datagrams.
    UdpRr,
    /// UDP datagrams of 64 bytes of payload, one way, as many as arrive.
    #[serde(rename = "udp_64")]
    Udp64,
    /// UDP datagrams of 1400 bytes of payload, one way, as many as arrive.
    #[serde(rename = "udp_1400")]
    Udp1400,
    /// One TCP connection that sends as much as it can.
    TcpBulk,
    /// Connect, one byte there, one byte back, close.
    TcpCrr,
    /// Masqueraded request/response from a pod to an address outside the cluster: can never be accelerated.
    OutsideRr,
}

impl Workload {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 7] = [
        Self::TcpRr,
        Self::UdpRr,
        Self::Udp64,
        Self::Udp1400,
        Self::TcpBulk,
        Self::TcpCrr,
        Self::OutsideRr,
    ];

    /// Name in the JSON file and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TcpRr => "tcp_rr",
            Self::UdpRr => "udp_rr",
            Self::Udp64 => "udp_64",
            Self::Udp1400 => "udp_1400",
            Self::TcpBulk => "tcp_bulk",
            Self::TcpCrr => "tcp_crr",
            Self::OutsideRr => "outside_rr",
        }
    }

    /// What `median`, `min` and `max` count.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::TcpRr | Self::UdpRr | Self::TcpCrr | Self::OutsideRr => "transactions/s",
            Self::Udp64 | Self::Udp1400 => "packets/s",
            Self::TcpBulk => "Mbit/s",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// Which address the client used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The server's own (without pods, in mode `bare`: the node's).
    Pod,
    /// A service's, which the client's node translates as kube-proxy would.
    Service,
}

impl Target {
    /// Name in the JSON file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Service => "service",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// What carried the packets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Node to node: no pods, no overlay.
    Bare,
    /// Pod to pod, routed between the nodes without overlay, as flannel's host-gw backend does.
    Hostgw,
    /// Pod to pod through the kernel's vxlan device, configured as flannel configures it.
    Kernel,
    /// This agent with `--fastpath=off`.
    Slow,
    /// This agent as it comes.
    Fast,
}

impl Mode {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 5] = [Self::Bare, Self::Hostgw, Self::Kernel, Self::Slow, Self::Fast];

    /// Name in the JSON file and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Hostgw => "hostgw",
            Self::Kernel => "kernel",
            Self::Slow => "slow",
            Self::Fast => "fast",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// How large packets cross the underlay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wire {
    /// Whole: the underlay's devices offer every segmentation offload, as veth devices do.
    Tso,
    /// Cut into segments by the sender's kernel and put together again by the receiver's GRO, as on a network
    /// card without offloads for tunnels.
    Segments,
}

impl Wire {
    /// Name in the JSON file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tso => "tso",
            Self::Segments => "segments",
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// One line of the results: the median over the rounds, with its spread.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// What was sent.
    pub workload: Workload,
    /// To which address.
    pub target: Target,
    /// What carried it.
    pub mode: Mode,
    /// Concurrent flows.
    pub flows: u32,
    /// How large packets crossed the underlay.
    pub wire: Wire,
    /// What the three numbers count: [`Workload::unit`].
    pub unit: String,
    /// Median of the rounds.
    pub median: f64,
    /// Smallest round.
    pub min: f64,
    /// Largest round.
    pub max: f64,
    /// How many rounds were measured.
    pub rounds: u32,
}

impl Run {
    /// The entry of these properties, if it was measured.
    #[must_use]
    pub fn find(
        &self,
        workload: Workload,
        target: Target,
        mode: Mode,
        flows: u32,
        wire: Wire,
    ) -> Option<&Entry> {
        self.results.iter().find(|entry| {
            (entry.workload, entry.target, entry.mode, entry.flows, entry.wire)
                == (workload, target, mode, flows, wire)
        })
    }
}
