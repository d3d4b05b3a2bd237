//! TCP connections that are watched while they run: a stream that goes on until it is told to end, and request/response.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::libc::linger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use crate::bound;
use crate::flow_payload::{LONGEST, content, pin};
use crate::lock::lock;
use crate::space::Space;
use crate::wait::eventually;

mod segments;

pub use segments::SentAgain;

/// A connection that makes no progress for so long has stalled for good.
const STALLED: Duration = Duration::from_secs(15);
/// How often a waiting receiver looks at the clock.
const TICK: Duration = Duration::from_millis(50);
/// Bytes in a block, the unit of sending.
const BLOCK: usize = LONGEST;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection, as both ends see it.
#[derive(Clone, Copy, Debug)]
pub struct TcpEnds {
    /// Where the server listens; differs from `connect` when an address is translated in between.
    pub listen: SocketAddrV4,
    /// Where the client connects to.
    pub connect: SocketAddrV4,
}

/// Opens a connection: the client's and the server's socket.
fn open(client: &Space, server: &Space, ends: &TcpEnds) -> Result<(TcpStream, TcpStream)> {
    let listener = server.enter(|| {
        bound(|| TcpListener::bind(ends.listen)).with_context(|| format!("cannot listen at {}", ends.listen))
    })?;
    let near = client.enter(|| {
        TcpStream::connect_timeout(&SocketAddr::V4(ends.connect), CONNECT_TIMEOUT)
            .with_context(|| format!("cannot connect to {}", ends.connect))
    })?;
    let wait = PollTimeout::try_from(CONNECT_TIMEOUT).unwrap_or(PollTimeout::MAX);
    let ready = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], wait)?;
    ensure!(ready > 0, "no connection arrived at {}", ends.listen);
    let (far, _) = listener.accept()?;
    Ok((near, far))
}

fn v4(address: SocketAddr) -> Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => bail!("{address} is not IPv4"),
    }
}

/// How a stream is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpStreamOptions {
    /// At most so many bytes in a second; 0: as fast as possible.
    pub bytes_per_second: u64,
    /// The CPU that both ends stay on.
    pub cpu: Option<usize>,
    /// Whether both ends compute the CRC-32 of everything, which takes most of their time. Each block is compared with
    /// what was sent in any case.
    pub checksum: bool,
}

#[derive(Debug)]
struct Progress {
    stop: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    arrivals: Mutex<(Instant, Duration)>,
}

impl Progress {
    fn arrived(&self, length: u64) {
        self.received.fetch_add(length, Ordering::Relaxed);
        let mut arrivals = lock(&self.arrivals);
        let now = Instant::now();
        *arrivals = (now, arrivals.1.max(now - arrivals.0));
    }

    fn silence(&self) -> (Duration, Duration) {
        let (last, longest) = *lock(&self.arrivals);
        let current = last.elapsed();
        (current, longest.max(current))
    }
}

/// Bytes that one end sent or received, and their CRC-32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// How many.
    pub bytes: u64,
    /// Of all of them, if it was asked for.
    pub crc32: Option<u32>,
}

/// How the receiving end saw the stream end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

/// A one-way stream of blocks, from a client to a server, that goes on until it is told to end.
#[derive(Debug)]
pub struct TcpFlow {
    progress: Arc<Progress>,
    client: SocketAddrV4,
    client_seen: SocketAddrV4,
    sender: JoinHandle<Result<(TcpStream, Digest)>>,
    receiver: JoinHandle<Result<(End, Digest)>>,
}

impl TcpFlow {
    /// Connects and starts to send.
    ///
    /// # Errors
    ///
    /// When there is no connection within five seconds.
    pub fn start(client: &Space, server: &Space, ends: TcpEnds, options: TcpStreamOptions) -> Result<Self> {
        let (near, far) = open(client, server, &ends)?;
        let (local, client_seen) = (v4(near.local_addr()?)?, v4(far.peer_addr()?)?);
        let progress = Arc::new(Progress {
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            arrivals: Mutex::new((Instant::now(), Duration::ZERO)),
        });
        let (sending, receiving) = (Arc::clone(&progress), Arc::clone(&progress));
        Ok(Self {
            progress,
            client: local,
            client_seen,
            sender: thread::spawn(move || {
                pin(options.cpu)?;
                send(near, &options, &sending)
            }),
            receiver: thread::spawn(move || {
                pin(options.cpu)?;
                receive(far, &options, &receiving)
            }),
        })
    }

    /// The client's own socket.
    #[must_use]
    pub fn client(&self) -> SocketAddrV4 {
        self.client
    }

    /// The client as the server sees it.
    #[must_use]
    pub fn client_seen(&self) -> SocketAddrV4 {
        self.client_seen
    }

    /// Bytes that have arrived.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.progress.received.load(Ordering::Relaxed)
    }

    /// How long nothing has arrived, and the longest such time so far.
    #[must_use]
    pub fn silence(&self) -> (Duration, Duration) {
        self.progress.silence()
    }

    /// Waits until `bytes` more have arrived.
    ///
    /// # Errors
    ///
    /// When the stream stalls or they have not arrived within `timeout`.
    pub fn wait_for(&self, bytes: u64, timeout: Duration) -> Result<()> {
        let (start, deadline) = (self.received(), Instant::now() + timeout);
        while self.received() < start + bytes {
            let (silence, _) = self.silence();
            ensure!(
                silence < STALLED,
                "the stream stalled {silence:?} ago after {} bytes",
                self.received()
            );
            ensure!(
                Instant::now() < deadline,
                "{} of {bytes} bytes within {timeout:?}; nothing for {silence:?}",
                self.received() - start
            );
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Ends the stream and the connection in an orderly way; returns what arrived, which is what was sent.
    ///
    /// # Errors
    ///
    /// When the stream stalls, or something else arrived than was sent.
    pub fn finish(self) -> Result<Digest> {
        let (stream, sent) = end_sending(&self.progress, self.sender)?;
        stream.shutdown(Shutdown::Write)?;
        let (end, received) = join(self.receiver).context("the receiving end")?;
        ensure!(
            end == End::Closed && sent == received,
            "sent {sent:?}, received {received:?}, and then {end:?}"
        );
        Ok(received)
    }

    /// Ends the stream, waits until everything has arrived, and resets the connection (RST).
    ///
    /// # Errors
    ///
    /// When the stream stalls, something else arrived than was sent, or the reset does not arrive within five seconds.
    pub fn reset(self) -> Result<Digest> {
        let (stream, sent) = end_sending(&self.progress, self.sender)?;
        let progress = Arc::clone(&self.progress);
        eventually(STALLED, "arrival of everything", || {
            ensure!(
                progress.received.load(Ordering::Relaxed) == sent.bytes,
                "some is missing"
            );
            Ok(())
        })?;
        let reset = linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&stream, sockopt::Linger, &reset)?;
        drop(stream);
        let receiver = self.receiver;
        eventually(Duration::from_secs(5), "arrival of the reset", || {
            ensure!(receiver.is_finished(), "the server's connection is still open");
            Ok(())
        })?;
        let (end, received) = join(receiver).context("the receiving end")?;
        ensure!(
            end == End::Reset && sent == received,
            "sent {sent:?} and a reset, received {received:?}, and then {end:?}"
        );
        Ok(received)
    }
}

fn end_sending(
    progress: &Progress,
    sender: JoinHandle<Result<(TcpStream, Digest)>>,
) -> Result<(TcpStream, Digest)> {
    progress.stop.store(true, Ordering::Relaxed);
    join(sender).context("the sending end")
}

fn send(
    mut stream: TcpStream,
    options: &TcpStreamOptions,
    progress: &Progress,
) -> Result<(TcpStream, Digest)> {
    // A stream that has stalled ends here, too.
    stream.set_write_timeout(Some(STALLED))?;
    let mut hasher = options.checksum.then(crc32fast::Hasher::new);
    let (start, mut number) = (Instant::now(), 0);
    while !progress.stop.load(Ordering::Relaxed) {
        let block = content(0, number, BLOCK);
        stream
            .write_all(block)
            .with_context(|| format!("block {number} was not taken within {STALLED:?}"))?;
        if let Some(hasher) = &mut hasher {
            hasher.update(block);
        }
        number += 1;
        let sent = number * BLOCK as u64;
        progress.sent.store(sent, Ordering::Relaxed);
        if let Some(nanoseconds) = (sent * 1_000_000).checked_div(options.bytes_per_second / 1000) {
            thread::sleep(Duration::from_nanos(nanoseconds).saturating_sub(start.elapsed()));
        }
    }
    let digest = Digest {
        bytes: number * BLOCK as u64,
        crc32: hasher.map(crc32fast::Hasher::finalize),
    };
    Ok((stream, digest))
}

fn receive(mut stream: TcpStream, options: &TcpStreamOptions, progress: &Progress) -> Result<(End, Digest)> {
    stream.set_read_timeout(Some(TICK))?;
    let mut hasher = options.checksum.then(crc32fast::Hasher::new);
    let (mut block, mut filled, mut number) = (vec![0; BLOCK], 0, 0);
    let end = loop {
        let room = block.get_mut(filled..).unwrap_or_default();
        match stream.read(room) {
            Ok(0) => break End::Closed,
            Ok(length) => {
                progress.arrived(length as u64);
                filled += length;
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break End::Reset,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let (silence, _) = progress.silence();
                ensure!(silence < STALLED * 2, "nothing for {silence:?}");
            }
            Err(error) => return Err(error.into()),
        }
        if filled == BLOCK {
            ensure!(
                block == content(0, number, BLOCK),
                "block {number} arrived changed or out of order"
            );
            if let Some(hasher) = &mut hasher {
                hasher.update(&block);
            }
            (filled, number) = (0, number + 1);
        }
    };
    ensure!(filled == 0, "the last block is not complete: {filled} bytes");
    let digest = Digest {
        bytes: number * BLOCK as u64,
        crc32: hasher.map(crc32fast::Hasher::finalize),
    };
    Ok((end, digest))
}

/// What request/response has found.
#[derive(Clone, Copy, Debug)]
pub struct TcpRrReport {
    /// The client's own socket.
    pub client: SocketAddrV4,
    /// The client as the server saw it.
    pub client_seen: SocketAddrV4,
    /// Completed transactions.
    pub transactions: u64,
}

/// One connection on which the client sends numbered requests of `size` bytes, one at a time, and the server answers each
/// with the same; both ends on `cpu`.
///
/// # Errors
///
/// When the connection stalls for five seconds or an answer is not the request's.
pub fn tcp_request_response(
    (client, server): (&Space, &Space),
    ends: TcpEnds,
    (transactions, size): (u64, usize),
    cpu: Option<usize>,
) -> Result<TcpRrReport> {
    let (mut near, mut far) = open(client, server, &ends)?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    }
    let report = TcpRrReport {
        client: v4(near.local_addr()?)?,
        client_seen: v4(far.peer_addr()?)?,
        transactions,
    };
    thread::scope(|scope| {
        let answers = scope.spawn(move || {
            pin(cpu)?;
            let mut buffer = vec![0; size];
            for number in 0..transactions {
                far.read_exact(&mut buffer)
                    .with_context(|| format!("request {number} did not arrive"))?;
                far.write_all(&buffer)?;
            }
            anyhow::Ok(())
        });
        let requests = scope.spawn(move || {
            pin(cpu)?;
            let mut buffer = vec![0; size];
            for number in 0..transactions {
                near.write_all(content(1, number, size))?;
                near.read_exact(&mut buffer)
                    .with_context(|| format!("answer {number} did not arrive"))?;
                ensure!(
                    buffer == content(1, number, size),
                    "answer {number} is not the request"
                );
            }
            Ok(())
        });
        let ended = [requests.join(), answers.join()];
        ended
            .into_iter()
            .try_for_each(|end| end.map_err(|_| anyhow!("a TCP thread panicked"))?)
    })?;
    Ok(report)
}

fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a TCP thread panicked"))?
}
