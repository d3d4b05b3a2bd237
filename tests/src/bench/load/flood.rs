//! UDP packets one way, as fast as one CPU sends them; what counts is what arrives.
//!
//! The receiver empties its socket a few thousand times per second instead of sleeping in it: waking a sleeping CPU for
//! single packets would burden the sender more than the whole way through the kernel. Every thousandth packet is
//! answered: a flow that never has an answer is not established, and never taken onto the fast path.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};

use super::stream::Arrived;
use super::{Client, Cpus, Sample, Server, Session, is_timeout};
use crate::bench::bed::Ends;
use crate::bound;

/// One packet of so many is answered.
const ANSWERED: u64 = 1000;
/// How often the receiver empties its socket.
const PAUSE: Duration = Duration::from_micros(300);
/// After so many empty looks it waits for the next packet.
const IDLE_LOOKS: u32 = 100;
/// Room for what arrives during several pauses, in bytes.
const ROOM: usize = 16 << 20;
/// How often an idle receiver looks whether it shall end.
const LOOK: Duration = Duration::from_millis(200);
/// So many packets are sent between two looks at the clock.
const BURST: u32 = 32;

#[derive(Debug)]
pub(super) struct Flood {
    sender: Client,
    receiver: Server,
    arrived: Arrived,
}

/// Connects a sender of datagrams with `size` bytes of payload.
pub(super) fn start(ends: &Ends, size: usize, cpus: Cpus) -> Result<Flood> {
    let (listen, target) = (ends.listen, ends.target);
    let arrived = Arrived::default();
    let counter = arrived.clone();
    let bind = move || {
        let socket = bound(|| UdpSocket::bind(listen))?;
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM).context("cannot enlarge the receive buffer")?;
        socket.set_read_timeout(Some(LOOK))?;
        Ok(socket)
    };
    let serve = move |socket, done: &AtomicBool| receive(&socket, &counter, done);
    let receiver = Server::start(&ends.server, cpus.receiver, bind, serve)?;
    let sender = Client::start(&ends.client, cpus.sender, move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(target)?;
        let payload = vec![1; size];
        Ok(move |duration| {
            let start = Instant::now();
            let mut sample = Sample::default();
            while sample.elapsed < duration {
                for _ in 0..BURST {
                    socket.send(&payload)?;
                }
                // The answers need no reading but the room they take.
                while receive_at_once(&socket, &mut [0])?.is_some() {}
                sample.elapsed = start.elapsed();
            }
            Ok(sample)
        })
    })?;
    Ok(Flood {
        sender,
        receiver,
        arrived,
    })
}

fn receive(socket: &UdpSocket, arrived: &Arrived, done: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0; 2048];
    let (mut seen, mut looks, mut peer) = (0_u64, IDLE_LOOKS, None);
    while !done.load(Ordering::Relaxed) {
        let mut count = 0;
        if looks >= IDLE_LOOKS {
            match socket.recv_from(&mut buffer) {
                Ok((_, from)) => {
                    socket.send_to(&[1], from)?;
                    peer = Some(from);
                    count += 1;
                }
                Err(error) if is_timeout(&error) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        while receive_at_once(socket, &mut buffer)?.is_some() {
            count += 1;
            seen += 1;
            if let Some(peer) = peer.filter(|_| seen.is_multiple_of(ANSWERED)) {
                socket.send_to(&[1], peer)?;
            }
        }
        looks = if count == 0 { looks.saturating_add(1) } else { 0 };
        arrived.add(count);
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// The size of the next datagram, if there is one.
fn receive_at_once(socket: &UdpSocket, buffer: &mut [u8]) -> Result<Option<usize>> {
    match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
        Ok(size) => Ok(Some(size)),
        Err(Errno::EAGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Session for Flood {
    fn measure(&mut self, duration: Duration) -> Result<Sample> {
        self.arrived.measure(&self.sender, duration)
    }

    fn stop(self: Box<Self>) -> Result<()> {
        self.sender.stop()?;
        self.receiver.stop()
    }
}
