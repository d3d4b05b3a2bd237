//! UDP flows whose every datagram says to which flow it belongs and which it is, watched while they run, at both ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeSpec;

use crate::bound;
use crate::flow_payload::{LONGEST, content, pin};
use crate::lock::lock;
use crate::space::Space;

/// Tag, number, and name of the server.
const HEADER: usize = 8 + 8 + 4;
/// How often a waiting thread looks whether it shall stop.
const TICK: Duration = Duration::from_millis(20);
/// How long a client waits for an answer before its next request, when it waits for each.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long a stopped client waits for further answers.
const GRACE: Duration = Duration::from_millis(300);
/// Room for what arrives faster than it is read.
const RECEIVE_BUFFER: usize = 64 << 20;

/// What has arrived of one flow at one end.
#[derive(Clone, Debug, Default)]
pub struct Arrivals {
    /// Different datagrams of the flow.
    pub received: u64,
    /// Those that came after a datagram with a higher number.
    pub reordered: u64,
    /// Further arrivals of a datagram.
    pub duplicated: u64,
    /// Datagrams with another content than was sent, or of another flow.
    pub corrupted: u64,
    /// The last corrupted or foreign datagram, for messages.
    pub example: Option<String>,
    /// When the last one came.
    pub last: Option<Instant>,
    /// The longest time between two that came one after the other.
    pub longest_silence: Duration,
    missing: BTreeSet<u64>,
    next: u64,
}

impl Arrivals {
    /// How many of the datagrams before the last that arrived have not arrived.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.missing.len()
    }

    /// Fails when a datagram was reordered, duplicated or not what was sent; loss is not looked at.
    ///
    /// # Errors
    ///
    /// The numbers.
    pub fn expect_in_order(&self) -> Result<()> {
        let clean = self.received > 0 && self.reordered + self.duplicated + self.corrupted == 0;
        ensure!(clean, "{self:?}");
        Ok(())
    }

    fn arrived(&mut self, number: u64) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest_silence = self.longest_silence.max(now - last);
        }
        if number >= self.next {
            self.missing.extend(self.next..number);
            self.next = number + 1;
            self.received += 1;
        } else if self.missing.remove(&number) {
            self.reordered += 1;
            self.received += 1;
        } else {
            self.duplicated += 1;
        }
    }

    fn corrupt(&mut self, why: String) {
        self.corrupted += 1;
        self.example = Some(why);
    }
}

/// A datagram of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    tag: u64,
    number: u64,
    /// Zero in requests.
    server: u32,
}

impl Header {
    fn write(self, size: usize, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.tag.to_be_bytes());
        to.extend_from_slice(&self.number.to_be_bytes());
        to.extend_from_slice(&self.server.to_be_bytes());
        to.extend_from_slice(content(self.tag, self.number, size.saturating_sub(HEADER)));
    }

    /// None when the rest of the datagram is not what the header says.
    fn read(datagram: &[u8]) -> Option<Self> {
        let (tag, rest) = datagram.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (server, rest) = rest.split_first_chunk()?;
        let header = Self {
            tag: u64::from_be_bytes(*tag),
            number: u64::from_be_bytes(*number),
            server: u32::from_be_bytes(*server),
        };
        (content(header.tag, header.number, rest.len()) == rest).then_some(header)
    }
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("a UDP thread panicked"))?
}

/// Waits until the socket has something, for at most `wait`. `SO_RCVTIMEO` would be a whole tick of the kernel.
fn readable(socket: &UdpSocket, wait: Duration) -> Result<bool> {
    let mut sockets = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    Ok(ppoll(&mut sockets, Some(TimeSpec::from_duration(wait)), None)? > 0)
}

/// The next datagram, if there is one. A closed port of the peer is loss, not failure.
fn receive<'a>(socket: &UdpSocket, buffer: &'a mut [u8]) -> Result<Option<(&'a [u8], SocketAddr)>> {
    match socket.recv_from(buffer) {
        Ok((length, from)) => Ok(Some((buffer.get(..length).unwrap_or_default(), from))),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) => Err(error).context("cannot receive"),
    }
}

/// What a server does.
#[derive(Clone, Copy, Debug)]
pub struct UdpServerOptions {
    /// Where it listens.
    pub listen: SocketAddrV4,
    /// Its name in its answers, not 0.
    pub name: u32,
    /// It answers every such datagram of a flow, with datagrams of the same size that are numbered by themselves; 0: it
    /// never answers.
    pub answer_every: u64,
    /// The CPU that it stays on.
    pub cpu: Option<usize>,
}

impl UdpServerOptions {
    /// A server that answers every datagram.
    #[must_use]
    pub fn new(listen: SocketAddrV4, name: u32) -> Self {
        Self {
            listen,
            name,
            answer_every: 1,
            cpu: None,
        }
    }
}

/// Receives datagrams of any number of flows, until it is dropped.
#[derive(Debug)]
pub struct UdpServer {
    stop: Arc<AtomicBool>,
    flows: Arc<Mutex<BTreeMap<SocketAddr, ServedFlow>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct ServedFlow {
    tag: Option<u64>,
    answers: u64,
    arrivals: Arrivals,
}

impl UdpServer {
    /// Starts a server in `space`.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound.
    pub fn start(space: &Space, options: UdpServerOptions) -> Result<Self> {
        let socket = space.enter(|| {
            let socket = bound(|| UdpSocket::bind(options.listen))
                .with_context(|| format!("cannot bind UDP {}", options.listen))?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            Ok(socket)
        })?;
        socket.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let flows = Arc::default();
        let (stopped, served) = (Arc::clone(&stop), Arc::clone(&flows));
        let thread = thread::spawn(move || {
            pin(options.cpu)?;
            serve(&socket, &options, &stopped, &served)
        });
        Ok(Self {
            stop,
            flows,
            thread: Some(thread),
        })
    }

    /// What has arrived so far from `client`, as the server sees it.
    #[must_use]
    pub fn arrivals(&self, client: SocketAddrV4) -> Arrivals {
        let flows = lock(&self.flows);
        let flow = flows.get(&SocketAddr::V4(client));
        flow.map(|flow| flow.arrivals.clone()).unwrap_or_default()
    }

    /// Every client so far, as the server sees it.
    #[must_use]
    pub fn clients(&self) -> Vec<SocketAddr> {
        lock(&self.flows).keys().copied().collect()
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(error)) = self.thread.take().map(join) {
            eprintln!("UDP server: {error:#}");
        }
    }
}

fn serve(
    socket: &UdpSocket,
    options: &UdpServerOptions,
    stopped: &AtomicBool,
    flows: &Mutex<BTreeMap<SocketAddr, ServedFlow>>,
) -> Result<()> {
    let (mut buffer, mut answer) = (vec![0; LONGEST], Vec::with_capacity(LONGEST));
    while !stopped.load(Ordering::Relaxed) {
        let Some((datagram, client)) = receive(socket, &mut buffer)? else {
            readable(socket, TICK)?;
            continue;
        };
        let mut flows = lock(flows);
        let flow = flows.entry(client).or_default();
        let Some(header) = Header::read(datagram).filter(|header| header.server == 0) else {
            flow.arrivals
                .corrupt(format!("{} bytes from {client}", datagram.len()));
            continue;
        };
        if *flow.tag.get_or_insert(header.tag) != header.tag {
            flow.arrivals.corrupt(format!("{header:?} from {client}"));
            continue;
        }
        flow.arrivals.arrived(header.number);
        if options.answer_every > 0 && flow.arrivals.received.is_multiple_of(options.answer_every) {
            let number = flow.answers;
            flow.answers += 1;
            drop(flows);
            answer.clear();
            let header = Header {
                number,
                server: options.name,
                ..header
            };
            header.write(datagram.len(), &mut answer);
            // A lost answer shows at the client.
            socket.send_to(&answer, client).ok();
        }
    }
    Ok(())
}

/// When a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At these intervals, whatever comes back.
    Every(Duration),
    /// When the answer to the last one has come, or is overdue (200 ms).
    Answered,
}

/// What a client does.
#[derive(Clone, Copy, Debug)]
pub struct UdpClientOptions {
    /// Where it sends to; only datagrams from there are its answers.
    pub target: SocketAddrV4,
    /// Its own port; 0: one of the kernel's choice.
    pub port: u16,
    /// The flow's name.
    pub tag: u64,
    /// Bytes in each datagram.
    pub size: usize,
    /// When it sends.
    pub pace: Pace,
    /// How many datagrams it hands to the kernel at once, for it to segment (`UDP_SEGMENT`).
    pub segments: u16,
    /// The CPU that it stays on.
    pub cpu: Option<usize>,
}

impl UdpClientOptions {
    /// A flow of 64-byte datagrams to `target`, one each millisecond.
    #[must_use]
    pub fn new(target: SocketAddrV4, tag: u64) -> Self {
        Self {
            target,
            port: 0,
            tag,
            size: 64,
            pace: Pace::Every(Duration::from_millis(1)),
            segments: 1,
            cpu: None,
        }
    }
}

/// How a client's flow is doing.
#[derive(Clone, Debug, Default)]
pub struct UdpStatus {
    /// Datagrams sent.
    pub sent: u64,
    /// Answers that were taken up in the order of their numbers, of the server that answered last.
    pub answers: Arrivals,
    /// How many answers each server gave, and when the last.
    pub by_server: BTreeMap<u32, (u64, Instant)>,
}

/// Sends datagrams until it is stopped.
#[derive(Debug)]
pub struct UdpClient {
    stop: Arc<AtomicBool>,
    status: Arc<Mutex<UdpStatus>>,
    local: SocketAddrV4,
    thread: JoinHandle<Result<()>>,
}

impl UdpClient {
    /// Starts sending from `space`; returns at once.
    ///
    /// # Errors
    ///
    /// When the socket cannot be made.
    pub fn start(space: &Space, options: UdpClientOptions) -> Result<Self> {
        let whole = options.size * usize::from(options.segments);
        ensure!(
            options.size >= HEADER && options.segments > 0 && whole <= LONGEST,
            "datagrams have {HEADER} to {LONGEST} bytes, all segments together"
        );
        let socket = space.enter(|| {
            let socket = bound(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, options.port)))?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            if options.segments > 1 {
                setsockopt(&socket, sockopt::UdpGsoSegment, &i32::try_from(options.size)?)?;
            }
            socket
                .connect(options.target)
                .with_context(|| format!("cannot reach {}", options.target))?;
            Ok(socket)
        })?;
        let SocketAddr::V4(local) = socket.local_addr()? else {
            bail!("an IPv4 socket has an IPv6 address");
        };
        socket.set_nonblocking(true)?;
        let (stop, status) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&status));
        let thread = thread::spawn(move || {
            pin(options.cpu)?;
            Client {
                socket,
                options,
                status: shared,
                buffer: vec![0; LONGEST],
            }
            .run(&stopped)
        });
        Ok(Self {
            stop,
            status,
            local,
            thread,
        })
    }

    /// The client's own socket.
    #[must_use]
    pub fn local(&self) -> SocketAddrV4 {
        self.local
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> UdpStatus {
        lock(&self.status).clone()
    }

    /// Stops sending, waits for what is still under way, and reports.
    ///
    /// # Errors
    ///
    /// When the socket failed.
    pub fn stop(self) -> Result<UdpStatus> {
        self.stop.store(true, Ordering::Relaxed);
        join(self.thread)?;
        let status = lock(&self.status).clone();
        Ok(status)
    }
}

struct Client {
    socket: UdpSocket,
    options: UdpClientOptions,
    status: Arc<Mutex<UdpStatus>>,
    buffer: Vec<u8>,
}

impl Client {
    fn run(mut self, stopped: &AtomicBool) -> Result<()> {
        let UdpClientOptions {
            tag, size, segments, ..
        } = self.options;
        let (mut number, mut due, mut datagrams) = (0, Instant::now(), Vec::new());
        while !stopped.load(Ordering::Relaxed) {
            datagrams.clear();
            for _ in 0..segments {
                let header = Header {
                    tag,
                    number,
                    server: 0,
                };
                header.write(size, &mut datagrams);
                number += 1;
            }
            // A refused send (no route for a moment) is lost datagrams.
            self.socket.send(&datagrams).ok();
            lock(&self.status).sent = number;
            match self.options.pace {
                Pace::Answered => {
                    if readable(&self.socket, PATIENCE)? {
                        self.drain()?;
                    }
                }
                Pace::Every(interval) => {
                    due += interval;
                    self.drain()?;
                    while let Some(wait) = left(due) {
                        if readable(&self.socket, wait)? {
                            self.drain()?;
                        }
                    }
                }
            }
        }
        while readable(&self.socket, GRACE)? {
            self.drain()?;
        }
        Ok(())
    }

    /// Takes what has arrived.
    fn drain(&mut self) -> Result<()> {
        while let Some((datagram, _)) = receive(&self.socket, &mut self.buffer)? {
            let mut status = lock(&self.status);
            let header =
                Header::read(datagram).filter(|header| header.tag == self.options.tag && header.server != 0);
            let Some(header) = header else {
                let why = format!("{} bytes: {:?}", datagram.len(), Header::read(datagram));
                status.answers.corrupt(why);
                continue;
            };
            let now = Instant::now();
            let (count, last) = status.by_server.entry(header.server).or_insert((0, now));
            *last = now;
            *count += 1;
            if *count == 1 {
                // Another server numbers its answers anew.
                let before = &mut status.answers;
                (before.next, before.missing) = (header.number, BTreeSet::new());
            }
            status.answers.arrived(header.number);
        }
        Ok(())
    }
}

fn left(due: Instant) -> Option<Duration> {
    due.checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_says_what_it_is_and_shows_damage() {
        let header = Header {
            tag: 77,
            number: 5,
            server: 0,
        };
        let mut datagram = Vec::new();
        header.write(64, &mut datagram);
        assert_eq!(datagram.len(), 64);
        assert_eq!(Header::read(&datagram), Some(header));
        for index in [0, 15, 63] {
            let mut damaged = datagram.clone();
            damaged[index] ^= 1;
            assert_ne!(Header::read(&damaged), Some(header));
        }
        let mut longer = datagram.clone();
        longer.push(0);
        assert_eq!(Header::read(&longer), None);
        assert_eq!(Header::read(&datagram[..10]), None);
    }

    #[test]
    fn arrivals_tell_loss_reordering_and_duplicates_apart() {
        let mut arrivals = Arrivals::default();
        for number in [0, 3, 1, 1] {
            arrivals.arrived(number);
        }
        let found = (arrivals.received, arrivals.reordered, arrivals.duplicated);
        assert_eq!(found, (3, 1, 1));
        assert_eq!(arrivals.missing(), 1);
        assert!(arrivals.expect_in_order().is_err());
    }
}
