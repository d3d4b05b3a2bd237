//! The benchmark of the control plane: one agent with a real API server and a cluster of made-up nodes.
//!
//! The agent runs as on a node: its own process, the kernel's device, the eBPF programs. The other nodes exist as Node
//! objects only; nothing is ever sent to them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use nix::time::ClockId;

use self::bed::Bed;
use self::events::{Samples, Witness};
use self::observer::Observer;
use self::patching::{Churner, Patcher};
use self::peers::Peer;
use self::plan::{CHURN, Plan};
use self::process::AgentProcess;
use self::reference::Reference;
use self::result::{Disturbed, Entry, Figure, Kind, Load, Run};
use self::start::Start;
use crate::api_server::Binaries;
use crate::bench::ending::{self, Outcome};
use crate::bench::machine;
use crate::bench::priority::Priority;
use crate::{agent, requirements};

mod absence;
mod bed;
mod churn;
mod curve;
mod events;
mod floors;
mod kernel;
mod maps;
mod notifications;
mod objects;
mod observer;
mod patching;
mod peers;
mod plan;
mod process;
mod reference;
mod report;
pub mod result;
mod start;
pub mod stats;
mod table;

/// The slowest churn that still counts as one, by the intended rate.
const STEADY: f64 = 0.9;

/// What the benchmark shall do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Few samples, and no large cluster.
    pub quick: bool,
    /// Sizes of the cluster; the usual ones when empty.
    pub nodes: Vec<u32>,
    /// Where the results are written as JSON.
    pub json: Option<PathBuf>,
    /// Where the report is written as HTML.
    pub report: Option<PathBuf>,
}

/// Runs the benchmark and prints what it found.
///
/// # Errors
///
/// When it cannot be run at all; what goes wrong with a cluster is among the run's problems.
pub fn run(options: &Options) -> Result<Outcome> {
    requirements::check()?;
    let plan = Plan::new(options.quick, &options.nodes)?;
    agent::binary()?;
    Binaries::find()?;
    let _priority = Priority::raise()?;
    let start = Instant::now();
    let mut run = Run {
        machine: machine::describe(true)?,
        api_server: String::new(),
        setup: describe(&plan),
        quick: options.quick,
        disturbed: Disturbed::default(),
        results: Vec::new(),
        problems: Vec::new(),
    };
    table::print_header();
    for kind in Kind::ALL {
        let log = options
            .json
            .as_ref()
            .map(|json| json.with_extension(format!("{kind}.log")));
        if let Err(error) = measure_kind(kind, &plan, &mut run, log.as_deref()) {
            run.problems.push(format!("nodes of kind {kind}: {error:#}"));
        }
    }
    run.machine.seconds = start.elapsed().as_secs();
    finish(&run, options)
}

fn describe(plan: &Plan) -> Vec<String> {
    vec![
        "One agent (release build, --kube-subnet-mgr, eBPF, fast path on) on a node in namespaces of its own; a \
         kube-apiserver and etcd (data in memory) on its underlay; every other node is a Node object with flannel's \
         annotations, and all of them are peers."
            .to_owned(),
        "start_s, restart_s: from the fork before the agent's exec until it logs `ready`; that every peer's route, \
         neighbour, forwarding entry and two map entries are there, and nothing else, is checked from outside right after. \
         A start is on a node without device, pins and annotations."
            .to_owned(),
        "add_ms, remove_ms: from the moment at which the client has the whole answer to the patch that sets (removes) the \
         node's four annotations until the last of the peer's five entries is there (gone), by the kernel's notifications \
         and lookups in the maps every 20 µs; negative where it was there before the answer. The benchmark's own waking up is in \
         it."
            .to_owned(),
        format!(
            "quiet: one patch every {} ms at most; churn: meanwhile {CHURN} other nodes per second lose or get back their \
             annotations. {} peers left and joined again for each.",
            plan.pace.as_millis(),
            plan.samples
        ),
        "A change during which one of the CPUs was away (not even a real-time thread got it within 2 ms, as when the \
         hypervisor has given it to somebody else) does not count; another one is measured instead."
            .to_owned(),
        "watch_ms: the same patches where no agent runs, from the whole answer until a client that only watches has the \
         whole event: what the API server and this machine take by themselves."
            .to_owned(),
        "event_cpu_us: CPU time of the agent (user and system) per changed Node, in windows of a second.".to_owned(),
        "rss_mib: median and min are VmRSS at rest after a start, p99 and max the largest VmHWM (peak); floors are about \
         the peak. cpu_s: user and system time until then."
            .to_owned(),
    ]
}

fn measure_kind(kind: Kind, plan: &Plan, run: &mut Run, log: Option<&Path>) -> Result<()> {
    let mut bed = Bed::build(kind).context("the cluster cannot be set up")?;
    run.api_server = bed.server.version()?;
    for nodes in &plan.sizes {
        let took = bed.grow(*nodes)?;
        let node_bytes = bed.node_bytes()?;
        println!(
            "{kind}: {nodes} nodes of {node_bytes} bytes, created in {:.1} s",
            took.as_secs_f64()
        );
        let mut size = Size {
            bed: &bed,
            plan,
            entry: (*nodes, node_bytes, kind),
            run,
        };
        let measured = size.measure();
        if let (Some(log), Err(_)) = (log, &measured) {
            bed.keep_log(log)?;
        }
        measured.with_context(|| format!("{nodes} nodes"))?;
    }
    Ok(())
}

/// One size of the cluster being measured.
struct Size<'a> {
    bed: &'a Bed,
    plan: &'a Plan,
    entry: (u32, u32, Kind),
    run: &'a mut Run,
}

impl Size<'_> {
    fn measure(&mut self) -> Result<()> {
        self.reference().context("the watch without an agent")?;
        let (nodes, _, _) = self.entry;
        let starts = (0..self.plan.starts(nodes))
            .map(|_| {
                self.bed.clean()?;
                let (agent, start) = start::measure(self.bed, &mut self.run.problems)?;
                agent.stop()?;
                Ok(start)
            })
            .collect::<Result<Vec<_>>>()?;
        self.starts(&starts);
        let mut restarts = Vec::new();
        let mut last = None;
        for _ in 0..self.plan.restarts() {
            if let Some(agent) = last.take() {
                AgentProcess::stop(agent)?;
            }
            let (agent, start) = start::measure(self.bed, &mut self.run.problems)?;
            restarts.push(start.seconds);
            last = Some(agent);
        }
        self.add(Figure::RestartS, None, &restarts);
        let agent = last.context("the agent was not started")?;
        let observer = Observer::start(self.bed.node()?.space())?;
        for load in Load::ALL {
            let samples = agent
                .cpu_clock()
                .and_then(|clock| self.events(&observer, Some(clock), load))
                .with_context(|| format!("load {load}; {}", agent.log_end()))?;
            self.add(Figure::AddMs, Some(load), &samples.add_ms);
            self.add(Figure::RemoveMs, Some(load), &samples.remove_ms);
            self.add(Figure::EventCpuUs, Some(load), &samples.event_cpu_us);
        }
        observer.stop()?;
        self.bed
            .expect_programmed()
            .context("after all nodes have come back")?;
        agent.stop()
    }

    fn reference(&mut self) -> Result<()> {
        let reference = Reference::start(&self.bed.server)?;
        for load in Load::ALL {
            let samples = self.events(&reference, None, load)?;
            self.add(Figure::WatchMs, Some(load), &samples.add_ms);
        }
        reference.stop()
    }

    fn starts(&mut self, starts: &[Start]) {
        let of = |value: fn(&Start) -> f64| starts.iter().map(value).collect::<Vec<_>>();
        self.add(Figure::StartS, None, &of(|start| start.seconds));
        let peak = of(|start| start.memory.peak).into_iter().fold(0.0, f64::max);
        if let Some(entry) = self.entry(Figure::RssMib, None, &of(|start| start.memory.now)) {
            let summary = stats::Summary {
                p99: peak,
                max: peak,
                ..entry.summary
            };
            self.push(Entry { summary, ..entry });
        }
        self.add(Figure::CpuS, None, &of(|start| start.cpu_seconds));
    }

    /// Half of the nodes are measured, the others churn.
    fn events(&mut self, witness: &impl Witness, agent: Option<ClockId>, load: Load) -> Result<Samples> {
        let (nodes, _, _) = self.entry;
        let patcher = Patcher::new(&self.bed.server);
        let measured = Peer::first(nodes).filter(|peer| peer.0 % 2 == 1).cycle();
        let others = Peer::first(nodes).filter(|peer| peer.0.is_multiple_of(2));
        let churner = match load {
            Load::Quiet => None,
            Load::Churn => Some(Churner::start(&patcher, others, CHURN)?),
        };
        let count = usize::try_from(self.plan.samples)?;
        let samples = events::measure(
            &patcher,
            witness,
            agent,
            churner.as_ref(),
            measured,
            count,
            self.plan.pace,
        );
        if let Some(churner) = churner {
            let rate = churner.stop()?;
            if rate < STEADY * f64::from(CHURN) {
                let problem = format!("{nodes} nodes: only {rate:.0} changes per second instead of {CHURN}");
                self.run.problems.push(problem);
            }
        }
        let samples = samples?;
        *match agent {
            Some(_) => &mut self.run.disturbed.with_agent,
            None => &mut self.run.disturbed.without,
        } += samples.disturbed;
        let least = samples.add_ms.len().min(samples.remove_ms.len());
        if least < count {
            let problem =
                format!("{nodes} nodes: a CPU was away so often that only {least} of {count} samples count");
            self.run.problems.push(problem);
        }
        Ok(samples)
    }

    fn entry(&self, figure: Figure, load: Option<Load>, samples: &[f64]) -> Option<Entry> {
        let (nodes, node_bytes, node_kind) = self.entry;
        Some(Entry {
            nodes,
            node_bytes,
            node_kind,
            figure,
            load,
            summary: stats::summary(samples)?,
        })
    }

    fn add(&mut self, figure: Figure, load: Option<Load>, samples: &[f64]) {
        if let Some(entry) = self.entry(figure, load, samples) {
            self.push(entry);
        }
    }

    fn push(&mut self, entry: Entry) {
        table::print_entry(&entry);
        self.run.results.push(entry);
    }
}

fn finish(run: &Run, options: &Options) -> Result<Outcome> {
    let outcome = table::print_end(run);
    if let Some(path) = &options.json {
        ending::write_json(run, path)?;
    }
    if let Some(path) = &options.report {
        report::write(run, path)?;
        println!("report:  {}", path.display());
    }
    Ok(outcome)
}
