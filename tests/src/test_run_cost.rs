//! What each eBPF program costs: nanoseconds per packet, by `BPF_PROG_TEST_RUN`.
//!
//! The programs are loaded with maps of their own in a network namespace of their own, so nothing outside notices. Each
//! case names the counter that its packets must end in, and a run that counted anything else is an error: a time is
//! never that of another branch.
//!
//! Two ways of measuring, by what the program does to the packet:
//!
//! * A packet that is left as it is runs [`Options::repeat`] times in a row ([`Method::Repeated`]). Caches and branch
//!   predictors are as warm as they get, and the harness adds next to nothing.
//! * A packet that is encapsulated or decapsulated is another one afterwards, so a second run would measure another
//!   branch. Such packets run once per system call ([`Method::Single`]), with caches as the system call leaves them, and
//!   each time has the harness' two looks at the clock in it.
//!
//! The same is done with a program that does nothing but one look into a map, [`NOTHING`], so that both can be compared
//! with what the harness itself takes. In no time is what the kernel does around a program: the hook, and carrying out a
//! redirect.

mod bed;
mod cases;
mod median;

use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use self::bed::Bed;
use self::cases::{Case, PEER_COUNTS};
use self::median::{Spread, spread};
use crate::cpus::pin;

/// The case (of `vtep_ingress`) that shows what the harness itself takes.
pub const NOTHING: &str = "no pod in shortcut mode: does nothing";

/// What to load, and how often to run it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The object file: [`object`].
    pub object: PathBuf,
    /// The CPU to stay on.
    pub cpu: usize,
    /// How many times each case is measured; the cases take turns. At least 1.
    pub rounds: u32,
    /// How often a packet runs in each round of [`Method::Repeated`]. At least 1.
    pub repeat: u32,
    /// How many packets run in each round of [`Method::Single`]. At least 1.
    pub singles: u32,
}

impl Options {
    /// Seven rounds of about 20 ms for each case, on this CPU.
    #[must_use]
    pub fn new(object: PathBuf, cpu: usize) -> Self {
        Self {
            object,
            cpu,
            rounds: 7,
            repeat: 200_000,
            singles: 2_000,
        }
    }
}

/// How a case was measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// One packet many times in a row, in one system call.
    Repeated,
    /// One packet per system call: the program changes it.
    Single,
}

/// What one program costs for one kind of packet.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ProgramCost {
    /// Name of the program, such as `vtep_egress`.
    pub program: String,
    /// Which packet, and so which branch.
    pub case: String,
    /// How it was measured. Only times of the same method can be compared.
    pub method: Method,
    /// Median of the rounds, in nanoseconds per packet; a round of [`Method::Single`] is the median of its packets.
    pub nanoseconds: f64,
    /// Smallest round.
    pub min: f64,
    /// Largest round.
    pub max: f64,
    /// How many rounds were measured.
    pub rounds: u32,
}

/// The object file of this checkout, built if need be.
///
/// # Errors
///
/// When it cannot be built; the message says what is missing.
pub fn object() -> Result<PathBuf> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    ebpf_build::build(root, &ebpf_build::default_target_dir(root)).context("cannot build the eBPF programs")
}

/// Measures every case. Needs root. Takes about ten seconds, and leaves nothing behind.
///
/// # Errors
///
/// When the process is not root, the object cannot be loaded, or a packet ended in another counter than it should have.
pub fn measure(options: &Options) -> Result<Vec<ProgramCost>> {
    ensure!(
        geteuid().is_root(),
        "measuring the programs loads them into the kernel, which needs root; nothing was loaded"
    );
    ensure!(
        options.rounds > 0 && options.repeat > 0 && options.singles > 0,
        "measuring the programs takes at least one round of one packet, not {options:?}"
    );
    let options = options.clone();
    // A thread of its own: what is done to it, its namespace and its CPU, ends with it.
    thread::Builder::new()
        .name("test-run-cost".to_owned())
        .spawn(move || in_thread(&options))
        .context("cannot start a thread to measure the programs in")?
        .join()
        .map_err(|_| anyhow!("measuring the programs ended in a panic; its message is above"))?
}

fn in_thread(options: &Options) -> Result<Vec<ProgramCost>> {
    unshare(CloneFlags::CLONE_NEWNET)
        .context("cannot make a network namespace to measure the programs in")?;
    pin(options.cpu).context("cannot measure the programs")?;
    let mut bed = Bed::new(&options.object)?;
    let mut costs = Vec::new();
    // More peers each time: they are only added.
    for peers in PEER_COUNTS {
        bed.fill(peers)?;
        let cases = cases::with_peers(&bed, peers);
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
        for _ in 0..options.rounds {
            for (case, times) in cases.iter().zip(&mut times) {
                let time = round(&mut bed, case, options)
                    .with_context(|| format!("while measuring {}, {}", case.program, case.name))?;
                times.push(time);
            }
        }
        for (case, times) in cases.iter().zip(times) {
            costs.push(cost(case, &times, options.rounds));
        }
    }
    Ok(costs)
}

/// One round of one case, in nanoseconds per packet.
fn round(bed: &mut Bed, case: &Case, options: &Options) -> Result<f64> {
    let (runs, repeat) = match case.method {
        Method::Repeated => (1, options.repeat),
        Method::Single => (options.singles, 1),
    };
    bed.prepare(case)?;
    let before = bed.counters()?;
    let mut times = Vec::new();
    for _ in 0..runs {
        times.push(bed.run(case, repeat)?);
    }
    bed.check(case, &before, u64::from(runs) * u64::from(repeat))?;
    Ok(spread(&times).median)
}

fn cost(case: &Case, times: &[f64], rounds: u32) -> ProgramCost {
    let Spread { median, min, max } = spread(times);
    ProgramCost {
        program: case.program.to_owned(),
        case: case.name.clone(),
        method: case.method,
        nanoseconds: median,
        min,
        max,
        rounds,
    }
}
