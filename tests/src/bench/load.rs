//! Load generators: sockets in the namespaces of two ends, used by threads of this process.
//!
//! Threads, not processes: changing between the ends then costs no change of address space, which would be added to
//! every mode's packets alike and hide the difference between them. Both ends of a request/response run on one CPU, so
//! that no wake-up of another CPU is measured; one-way traffic is sent on one and received on the other. With veth
//! devices the kernel does everything up to the receiving socket on the CPU of the sender.

use std::io::{self, ErrorKind};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, unshare};

use super::bed::Ends;
use super::plan::Case;
use super::result::Workload;
use crate::cpus;
use crate::space::Space;

mod flood;
mod stream;
mod tcp_bulk;
mod tcp_crr;
mod tcp_rr;
mod udp_rr;

pub(super) use self::stream::MARGINS;

/// How long a single answer may take: an established flow that waits longer has stalled.
pub(super) const STALLED: Duration = Duration::from_secs(5);
/// How long it may take to open all connections of a case.
const CONNECTING: Duration = Duration::from_secs(20);
/// Requests on their way at the same time, where there are that many flows.
const WINDOW: usize = 32;

/// What was counted in a slice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// Transactions, packets, or bytes.
    pub(super) amount: u64,
    /// How long it took.
    pub(super) elapsed: Duration,
    /// Requests without an answer. One-way packets that were lost are not counted: there are as many as are sent too fast.
    pub(super) lost: u64,
}

impl Sample {
    /// Per second, in the unit of `workload`.
    pub(super) fn rate(&self, workload: Workload) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "less than 2⁵² of anything is counted in a slice"
        )]
        let amount = self.amount as f64;
        let per_second = amount / self.elapsed.as_secs_f64().max(1e-9);
        match workload {
            Workload::TcpBulk => per_second * 8.0 / 1e6,
            Workload::TcpRr
            | Workload::UdpRr
            | Workload::Udp64
            | Workload::Udp1400
            | Workload::TcpCrr
            | Workload::OutsideRr => per_second,
        }
    }
}

/// Two connected ends. They wait between the slices.
pub(super) trait Session: Send {
    /// Runs the workload for `duration`.
    fn measure(&mut self, duration: Duration) -> Result<Sample>;

    /// Ends both ends, and says what went wrong in them.
    fn stop(self: Box<Self>) -> Result<()>;
}

/// Which CPUs the ends run on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpus {
    pub(super) sender: usize,
    pub(super) receiver: usize,
}

impl Cpus {
    /// The first two of those that this process may use.
    pub(super) fn choose() -> Result<Self> {
        match cpus::allowed()?.as_slice() {
            &[sender, receiver, ..] => Ok(Self { sender, receiver }),
            _ => bail!(
                "the benchmark needs two CPUs, one for each end of one-way traffic; this machine allows one"
            ),
        }
    }

    /// Both ends of a request/response: not the first CPU, which serves most interrupts.
    fn shared(self) -> usize {
        self.receiver
    }
}

/// Connects the ends of `case`.
pub(super) fn start(case: Case, ends: &Ends, cpus: Cpus) -> Result<Box<dyn Session>> {
    let flows = usize::try_from(case.flows)?;
    Ok(match case.workload {
        Workload::TcpRr | Workload::OutsideRr => Box::new(tcp_rr::start(ends, flows, cpus.shared())?),
        Workload::UdpRr => Box::new(udp_rr::start(ends, flows, cpus.shared())?),
        Workload::Udp64 => Box::new(flood::start(ends, 64, cpus)?),
        Workload::Udp1400 => Box::new(flood::start(ends, 1400, cpus)?),
        Workload::TcpBulk => Box::new(tcp_bulk::start(ends, cpus)?),
        Workload::TcpCrr => Box::new(tcp_crr::start(ends, cpus.shared())?),
    })
}

/// Starts a thread on `cpu` with sockets in `space` and files of its own.
///
/// Of its own because a process may not have as many open files as the largest case needs, but a thread's table of files
/// need not be that of its process; and a table that nobody shares is used without atomic operations.
fn spawn(space: &Space, cpu: usize, work: impl FnOnce() -> Result<()> + Send + 'static) -> Thread {
    Thread(space.spawn_inside(move || {
        unshare(CloneFlags::CLONE_FILES).context("a thread cannot have files of its own")?;
        cpus::pin(cpu)?;
        work()
    }))
}

#[derive(Debug)]
struct Thread(JoinHandle<Result<()>>);

impl Thread {
    /// Waits for the end of the thread, but not forever: its last packet may have been lost.
    fn join(self, what: &str) -> Result<()> {
        let deadline = Instant::now() + STALLED;
        while !self.0.is_finished() {
            if Instant::now() > deadline {
                bail!("the {what} did not end: its connection has stalled");
            }
            thread::sleep(Duration::from_millis(1));
        }
        let ended = self.0.join().map_err(|_| anyhow!("the {what} panicked"))?;
        ended.with_context(|| format!("the {what}"))
    }
}

/// The end that sends requests, or everything: it works when it is told to, and ends when it is stopped.
#[derive(Debug)]
struct Client {
    orders: Sender<Duration>,
    answers: Receiver<Result<Sample>>,
    thread: Thread,
}

impl Client {
    /// Starts it on `cpu` in `space`: `connect` opens its sockets and returns what does one slice with them.
    fn start<W: FnMut(Duration) -> Result<Sample>>(
        space: &Space,
        cpu: usize,
        connect: impl FnOnce() -> Result<W> + Send + 'static,
    ) -> Result<Self> {
        let (orders, receiver) = mpsc::channel();
        let (sender, answers) = mpsc::channel();
        let thread = spawn(space, cpu, move || {
            let mut work = match connect() {
                Ok(work) => work,
                Err(error) => {
                    sender.send(Err(error)).ok();
                    return Ok(());
                }
            };
            sender.send(Ok(Sample::default())).ok();
            while let Ok(duration) = receiver.recv() {
                if sender.send(work(duration)).is_err() {
                    break;
                }
            }
            Ok(())
        });
        let client = Self {
            orders,
            answers,
            thread,
        };
        match client.answer(CONNECTING) {
            Ok(_) => Ok(client),
            Err(error) => Err(error).context("the client cannot start"),
        }
    }

    /// Begins a slice.
    fn order(&self, duration: Duration) -> Result<()> {
        self.orders
            .send(duration)
            .map_err(|_| anyhow!("the client has ended"))
    }

    /// Waits for the end of a slice of `duration`.
    fn answer(&self, duration: Duration) -> Result<Sample> {
        self.answers
            .recv_timeout(duration + STALLED + Duration::from_secs(2))
            .context("the client does not answer")?
    }

    fn run(&self, duration: Duration) -> Result<Sample> {
        self.order(duration)?;
        self.answer(duration)
    }

    fn stop(self) -> Result<()> {
        drop(self.orders);
        self.thread.join("client")
    }
}

/// The end that answers, or only counts.
#[derive(Debug)]
struct Server {
    thread: Thread,
    done: Arc<AtomicBool>,
}

impl Server {
    /// Starts it on `cpu` in `space`, with the socket that `bind` opens: it listens when this returns.
    ///
    /// It ends when its connections are closed, or, where it has none, soon after the flag is set.
    fn start<S>(
        space: &Space,
        cpu: usize,
        bind: impl FnOnce() -> Result<S> + Send + 'static,
        serve: impl FnOnce(S, &AtomicBool) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let (sender, ready) = mpsc::channel();
        let done = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&done);
        let thread = spawn(space, cpu, move || {
            let socket = match bind() {
                Ok(socket) => socket,
                Err(error) => {
                    sender.send(Err(error)).ok();
                    return Ok(());
                }
            };
            sender.send(Ok(())).ok();
            serve(socket, &told)
        });
        let started = ready.recv_timeout(STALLED).context("it does not answer");
        started.flatten().context("the server cannot start")?;
        Ok(Self { thread, done })
    }

    /// Call it when the client has closed its connections, or has ended.
    fn stop(self) -> Result<()> {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join("server")
    }
}

fn describe(target: SocketAddrV4) -> String {
    format!("cannot connect to {target}")
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
