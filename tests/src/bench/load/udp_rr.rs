//! One byte there and one byte back in UDP datagrams.

use std::net::{SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Client, Sample, Server, Session, WINDOW, is_timeout};
use crate::bench::bed::Ends;
use crate::bound;

/// A datagram without an answer for so long is lost.
const PATIENCE: Duration = Duration::from_millis(200);
/// So many of them in one slice, and there is no use in going on.
const TOO_MANY_LOST: u64 = 20;
/// How often the server looks whether it shall end.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct UdpRr {
    client: Client,
    server: Server,
}

/// Opens `flows` client sockets, and one for the server.
pub(super) fn start(ends: &Ends, flows: usize, cpu: usize) -> Result<UdpRr> {
    let (listen, target) = (ends.listen, ends.target);
    let bind = move || {
        let socket = bound(|| UdpSocket::bind(listen))?;
        socket.set_read_timeout(Some(LOOK))?;
        Ok(socket)
    };
    let server = Server::start(&ends.server, cpu, bind, |socket, done| respond(&socket, done))?;
    let client = Client::start(&ends.client, cpu, move || {
        let sockets = connect(target, flows)?;
        let mut next = 0;
        Ok(move |duration| {
            let start = Instant::now();
            let mut sample = Sample::default();
            while sample.elapsed < duration {
                let end = (next + WINDOW).min(flows);
                let batch = sockets.get(next..end).unwrap_or_default();
                next = end % flows;
                for socket in batch {
                    socket.send(&[1])?;
                }
                for socket in batch {
                    match socket.recv(&mut [0]) {
                        Ok(_) => sample.amount += 1,
                        Err(error) if is_timeout(&error) => sample.lost += 1,
                        Err(error) => return Err(error.into()),
                    }
                }
                if sample.lost > TOO_MANY_LOST {
                    bail!(
                        "{} of {} datagrams were lost",
                        sample.lost,
                        sample.lost + sample.amount
                    );
                }
                sample.elapsed = start.elapsed();
            }
            Ok(sample)
        })
    })?;
    Ok(UdpRr { client, server })
}

fn connect(target: SocketAddrV4, flows: usize) -> Result<Vec<UdpSocket>> {
    let sockets = (0..flows).map(|_| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    });
    sockets.collect()
}

fn respond(socket: &UdpSocket, done: &AtomicBool) -> Result<()> {
    let mut byte = [0];
    loop {
        match socket.recv_from(&mut byte) {
            Ok((_, from)) => {
                socket.send_to(&byte, from)?;
            }
            Err(error) if is_timeout(&error) => {
                if done.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

impl Session for UdpRr {
    fn measure(&mut self, duration: Duration) -> Result<Sample> {
        self.client.run(duration)
    }

    fn stop(self: Box<Self>) -> Result<()> {
        self.client.stop()?;
        self.server.stop()
    }
}
