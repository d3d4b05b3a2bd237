//! UDP datagrams with sequence numbers: an echo server, a stream against it, and a one-way transfer.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use super::payload::{BLOCK, Blocks};
use crate::bound;
use crate::space::Space;

/// How often a waiting thread looks whether it shall stop.
const TICK: Duration = Duration::from_millis(20);
/// How long a stopped stream waits for the datagrams under way.
const GRACE: Duration = Duration::from_secs(2);
/// Room for what arrives faster than it is read.
const RECEIVE_BUFFER: usize = 64 << 20;
/// A sequence number.
const NUMBER: usize = size_of::<u64>();

fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a UDP thread panicked"))?
}

/// Whether nothing arrived in time, or the peer's port was closed for a moment: both are loss, not failure.
fn is_loss(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused
    )
}

/// Sends every datagram back to where it came from, until dropped.
#[derive(Debug)]
pub struct UdpEcho {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl UdpEcho {
    /// Starts a server at `listen` in `space`.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound.
    pub fn start(space: &Space, listen: SocketAddrV4) -> Result<Self> {
        let socket = space.enter(|| {
            bound(|| UdpSocket::bind(listen)).with_context(|| format!("cannot bind UDP {listen}"))
        })?;
        socket.set_read_timeout(Some(TICK))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; BLOCK];
            while !stopped.load(Ordering::Relaxed) {
                match socket.recv_from(&mut buffer) {
                    Ok((length, client)) => {
                        let datagram = buffer.get(..length).unwrap_or_default();
                        // A lost answer shows at the client.
                        socket.send_to(datagram, client).ok();
                    }
                    Err(error) if is_loss(&error) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(error)) = self.thread.take().map(join) {
            eprintln!("UDP echo server: {error:#}");
        }
    }
}

/// What became of the datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UdpReport {
    /// Datagrams sent.
    pub sent: u64,
    /// Different datagrams that came back (or arrived, one way).
    pub received: u64,
    /// Arrivals after a datagram with a higher number.
    pub reordered: u64,
    /// Arrivals of a datagram that had arrived before.
    pub duplicated: u64,
    /// Arrivals with another content than was sent.
    pub corrupted: u64,
}

impl UdpReport {
    /// This report, if every datagram arrived once, in order and unchanged.
    ///
    /// # Errors
    ///
    /// The numbers, when one did not, or none was sent.
    pub fn expect_perfect(self) -> Result<Self> {
        let perfect = Self {
            sent: self.sent,
            received: self.sent,
            ..Self::default()
        };
        ensure!(
            self.sent > 0 && self == perfect,
            "datagrams were lost or changed: {self:?}"
        );
        Ok(self)
    }
}

/// What has arrived so far.
struct Ledger {
    blocks: Blocks,
    size: usize,
    missing: BTreeSet<u64>,
    next: u64,
    report: UdpReport,
}

impl Ledger {
    fn new(size: usize) -> Self {
        Self {
            blocks: Blocks::new(),
            size,
            missing: BTreeSet::new(),
            next: 0,
            report: UdpReport::default(),
        }
    }

    fn datagram(&mut self, number: u64) -> Result<&[u8]> {
        self.blocks
            .block(number)
            .get(..self.size)
            .context("a datagram is at most a block")
    }

    fn arrived(&mut self, datagram: &[u8]) -> Result<()> {
        let number = datagram.first_chunk().map(|number| u64::from_be_bytes(*number));
        let Some(number) = number else {
            self.report.corrupted += 1;
            return Ok(());
        };
        if self.datagram(number)? != datagram {
            self.report.corrupted += 1;
        } else if number >= self.next {
            self.missing.extend(self.next..number);
            self.next = number + 1;
            self.report.received += 1;
        } else if self.missing.remove(&number) {
            self.report.reordered += 1;
            self.report.received += 1;
        } else {
            self.report.duplicated += 1;
        }
        Ok(())
    }
}

/// Sends datagrams to an echo server at a fixed pace in the background, until it is stopped.
#[derive(Debug)]
pub struct UdpStream {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<UdpReport>>,
}

impl UdpStream {
    /// Starts sending datagrams of `size` bytes from `space` to an [`UdpEcho`] at `target`; returns at once.
    ///
    /// # Errors
    ///
    /// When no socket can be opened.
    pub fn start(space: &Space, target: SocketAddrV4, interval: Duration, size: usize) -> Result<Self> {
        ensure!(
            (NUMBER..=BLOCK).contains(&size),
            "a datagram has {NUMBER} to {BLOCK} bytes"
        );
        let socket = space.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket
                .connect(target)
                .with_context(|| format!("cannot reach {target}"))?;
            Ok(socket)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || stream(&socket, interval, size, &stopped));
        Ok(Self { stop, thread })
    }

    /// Stops sending, waits for what is still under way, and reports.
    ///
    /// # Errors
    ///
    /// When the socket failed.
    pub fn stop(self) -> Result<UdpReport> {
        self.stop.store(true, Ordering::Relaxed);
        join(self.thread)
    }
}

fn stream(socket: &UdpSocket, interval: Duration, size: usize, stopped: &AtomicBool) -> Result<UdpReport> {
    let mut ledger = Ledger::new(size);
    let mut sent = 0;
    let mut due = Instant::now();
    while !stopped.load(Ordering::Relaxed) {
        // A refused send (no route for a moment) is a lost datagram.
        socket.send(ledger.datagram(sent)?).ok();
        sent += 1;
        due += interval;
        while let Some(wait) = due
            .checked_duration_since(Instant::now())
            .filter(|wait| !wait.is_zero())
        {
            receive_one(socket, wait, &mut ledger)?;
        }
    }
    let end = Instant::now() + GRACE;
    while ledger.report.received < sent {
        let Some(wait) = end
            .checked_duration_since(Instant::now())
            .filter(|wait| !wait.is_zero())
        else {
            break;
        };
        receive_one(socket, wait, &mut ledger)?;
    }
    Ok(UdpReport {
        sent,
        ..ledger.report
    })
}

fn receive_one(socket: &UdpSocket, wait: Duration, ledger: &mut Ledger) -> Result<()> {
    let mut buffer = vec![0; BLOCK];
    socket.set_read_timeout(Some(wait))?;
    match socket.recv(&mut buffer) {
        Ok(length) => ledger.arrived(buffer.get(..length).unwrap_or_default()),
        Err(error) if is_loss(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Datagrams one way, as fast as they can be sent.
#[derive(Clone, Copy, Debug)]
pub struct UdpTransfer {
    /// Where they are sent to.
    pub target: SocketAddrV4,
    /// Where they are received; differs from `target` when an address is translated in between.
    pub listen: SocketAddrV4,
    /// How many datagrams.
    pub datagrams: u64,
    /// Bytes in each.
    pub size: u16,
    /// Hand many datagrams to the kernel at once, for it to segment (`UDP_SEGMENT`).
    pub segment: bool,
    /// For the whole transfer.
    pub timeout: Duration,
}

impl UdpTransfer {
    /// Datagrams to `port` of `address`, within 20 seconds, without segmentation by the kernel.
    #[must_use]
    pub fn new(address: Ipv4Addr, port: u16, datagrams: u64, size: u16) -> Self {
        let target = SocketAddrV4::new(address, port);
        Self {
            target,
            listen: target,
            datagrams,
            size,
            segment: false,
            timeout: Duration::from_secs(20),
        }
    }

    /// With segmentation by the kernel (UDP GSO).
    #[must_use]
    pub fn segmented(mut self) -> Self {
        self.segment = true;
        self
    }

    /// Runs the transfer. Loss is not an error: see [`UdpReport::expect_perfect`].
    ///
    /// # Errors
    ///
    /// When a socket fails or the time is up while sending.
    pub fn run(&self, client: &Space, server: &Space) -> Result<UdpReport> {
        let transfer = *self;
        ensure!(
            usize::from(self.size) >= NUMBER,
            "a datagram has at least {NUMBER} bytes"
        );
        let socket = server.enter(|| {
            let socket = bound(|| UdpSocket::bind(self.listen))
                .with_context(|| format!("cannot bind UDP {}", self.listen))?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            Ok(socket)
        })?;
        thread::scope(|scope| {
            let receiver = scope.spawn(move || transfer.receive(&socket));
            client.enter(|| transfer.send())?;
            receiver
                .join()
                .map_err(|_| anyhow!("the receiving thread panicked"))?
        })
        .with_context(|| {
            format!(
                "datagrams from {} to {} ({})",
                client.label(),
                server.label(),
                self.target
            )
        })
    }

    fn send(&self) -> Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_write_timeout(Some(self.timeout))?;
        socket.connect(self.target)?;
        let size = usize::from(self.size);
        let mut per_send = 1;
        if self.segment {
            setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(self.size)).context("UDP_SEGMENT")?;
            // The kernel takes 64 segments (128 since 6.9) and one IP packet's worth of bytes.
            per_send = (65_000 / size).clamp(1, 64);
        }
        let mut ledger = Ledger::new(size);
        let deadline = Instant::now() + self.timeout;
        let numbers: Vec<_> = (0..self.datagrams).collect();
        for group in numbers.chunks(per_send) {
            ensure!(Instant::now() < deadline, "the time is up");
            let mut buffer = Vec::with_capacity(size * group.len());
            for number in group {
                buffer.extend_from_slice(ledger.datagram(*number)?);
            }
            socket
                .send(&buffer)
                .with_context(|| format!("{} bytes from datagram {group:?} on", buffer.len()))?;
        }
        Ok(())
    }

    fn receive(&self, socket: &UdpSocket) -> Result<UdpReport> {
        let mut ledger = Ledger::new(usize::from(self.size));
        let deadline = Instant::now() + self.timeout;
        let mut buffer = vec![0; BLOCK];
        while ledger.report.received < self.datagrams && Instant::now() < deadline {
            // Silence for this long after the first arrival is the end of what will arrive.
            socket.set_read_timeout(Some(GRACE))?;
            match socket.recv(&mut buffer) {
                Ok(length) => ledger.arrived(buffer.get(..length).unwrap_or_default())?,
                Err(error) if is_loss(&error) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(UdpReport {
            sent: self.datagrams,
            ..ledger.report
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_tells_loss_reordering_duplicates_and_damage_apart() {
        let mut ledger = Ledger::new(32);
        let mut datagrams: Vec<Vec<u8>> = [0, 2, 1, 1]
            .map(|number| ledger.datagram(number).unwrap().to_vec())
            .into_iter()
            .collect();
        let mut damaged = datagrams[0].clone();
        damaged[31] ^= 1;
        datagrams.push(damaged);
        for datagram in &datagrams {
            ledger.arrived(datagram).unwrap();
        }
        let expected = UdpReport {
            sent: 0,
            received: 3,
            reordered: 1,
            duplicated: 1,
            corrupted: 1,
        };
        assert_eq!(ledger.report, expected);
        assert!(expected.expect_perfect().is_err());
    }
}
