//! A TCP connection that carries a payload one way and its checksum back.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::payload::{BLOCK, Blocks};
use crate::bound;
use crate::space::Space;

/// A transfer from a client to a server.
#[derive(Clone, Copy, Debug)]
pub struct TcpTransfer {
    /// Where the client connects to.
    pub connect: SocketAddrV4,
    /// Where the server listens; differs from `connect` when an address is translated in between.
    pub listen: SocketAddrV4,
    /// Size of the payload in bytes.
    pub bytes: u64,
    /// For the whole transfer.
    pub timeout: Duration,
}

/// A completed transfer: every byte arrived, in order and unchanged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TransferReport {
    /// Size of the payload in bytes.
    pub bytes: u64,
    /// CRC-32 of the payload, computed by both ends from what they sent and received.
    pub crc32: u32,
    /// From the connection's start to the server's answer.
    pub elapsed: Duration,
    /// The client's address as the server saw it.
    pub client_seen: IpAddr,
}

impl TcpTransfer {
    /// A transfer of `bytes` to `port` of `address`, within 30 seconds.
    #[must_use]
    pub fn new(address: Ipv4Addr, port: u16, bytes: u64) -> Self {
        let target = SocketAddrV4::new(address, port);
        Self {
            connect: target,
            listen: target,
            bytes,
            timeout: Duration::from_secs(30),
        }
    }

    /// With the server listening elsewhere than the client connects to.
    #[must_use]
    pub fn listening_at(mut self, listen: SocketAddrV4) -> Self {
        self.listen = listen;
        self
    }

    /// Runs the transfer.
    ///
    /// # Errors
    ///
    /// When the connection fails, the payload arrives changed, or the time is up.
    pub fn run(&self, client: &Space, server: &Space) -> Result<TransferReport> {
        let deadline = Instant::now() + self.timeout;
        let listener = server.enter(|| {
            bound(|| TcpListener::bind(self.listen))
                .with_context(|| format!("cannot listen at {}", self.listen))
        })?;
        let transfer = *self;
        std::thread::scope(|scope| {
            let receiver = scope.spawn(move || serve(&listener, transfer.bytes, deadline));
            let sent = client.enter(|| send(&transfer, deadline));
            let received = receiver
                .join()
                .map_err(|_| anyhow!("the server's thread panicked"))?;
            let (received, sent) = match (received, sent) {
                (Ok(received), Ok(sent)) => (received, sent),
                (Err(server), Err(client)) => {
                    return Err(client).with_context(|| format!("the server says: {server:#}"));
                }
                (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(error),
            };
            ensure!(
                received.crc32 == sent.crc32,
                "checksums differ: sent {:08x}, received {:08x}",
                sent.crc32,
                received.crc32
            );
            Ok(TransferReport {
                bytes: self.bytes,
                crc32: sent.crc32,
                elapsed: sent.elapsed,
                client_seen: received.client,
            })
        })
        .with_context(|| {
            format!(
                "{} bytes by TCP from {} to {} ({})",
                self.bytes,
                client.label(),
                server.label(),
                self.connect
            )
        })
    }
}

struct Sent {
    crc32: u32,
    elapsed: Duration,
}

struct Received {
    crc32: u32,
    client: IpAddr,
}

fn left(deadline: Instant) -> Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    ensure!(!left.is_zero(), "the time is up");
    Ok(left)
}

fn send(transfer: &TcpTransfer, deadline: Instant) -> Result<Sent> {
    let start = Instant::now();
    let target = SocketAddr::V4(transfer.connect);
    let mut stream = TcpStream::connect_timeout(&target, left(deadline)?).context("cannot connect")?;
    let mut blocks = Blocks::new();
    let mut hasher = crc32fast::Hasher::new();
    let (mut index, mut remaining) = (0, transfer.bytes);
    while remaining > 0 {
        let block = blocks.block(index);
        let length = usize::try_from(remaining).unwrap_or(BLOCK).min(BLOCK);
        let part = block.get(..length).unwrap_or(block);
        stream.set_write_timeout(Some(left(deadline)?))?;
        stream
            .write_all(part)
            .with_context(|| format!("{remaining} bytes before the end"))?;
        hasher.update(part);
        remaining -= length as u64;
        index += 1;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(left(deadline)?))?;
    let mut answer = [0; 4];
    stream
        .read_exact(&mut answer)
        .context("no answer from the server")?;
    let crc32 = hasher.finalize();
    let seen = u32::from_be_bytes(answer);
    ensure!(
        seen == crc32,
        "the server received checksum {seen:08x}, {crc32:08x} was sent"
    );
    Ok(Sent {
        crc32,
        elapsed: start.elapsed(),
    })
}

fn serve(listener: &TcpListener, bytes: u64, deadline: Instant) -> Result<Received> {
    let wait = PollTimeout::try_from(left(deadline)?).unwrap_or(PollTimeout::MAX);
    let ready = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], wait)?;
    ensure!(ready > 0, "no connection arrived");
    let (mut stream, client) = listener.accept()?;
    let mut blocks = Blocks::new();
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; BLOCK];
    let (mut index, mut remaining) = (0, bytes);
    while remaining > 0 {
        let length = usize::try_from(remaining).unwrap_or(BLOCK).min(BLOCK);
        let part = buffer.get_mut(..length).context("block size")?;
        stream.set_read_timeout(Some(left(deadline)?))?;
        stream
            .read_exact(part)
            .with_context(|| format!("{remaining} bytes before the end"))?;
        ensure!(
            blocks.block(index).get(..length) == Some(&*part),
            "block {index} arrived changed or out of order"
        );
        hasher.update(part);
        remaining -= length as u64;
        index += 1;
    }
    ensure!(stream.read(&mut buffer)? == 0, "more than {bytes} bytes arrived");
    let crc32 = hasher.finalize();
    stream.write_all(&crc32.to_be_bytes())?;
    Ok(Received {
        crc32,
        client: client.ip(),
    })
}
