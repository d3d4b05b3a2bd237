//! Connect, one byte there, one byte back, close: every connection is new.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{Client, STALLED, Sample, Server, Session, describe, is_timeout};
use crate::bench::bed::Ends;
use crate::bound;

/// How often the server looks whether it shall end, in milliseconds.
const LOOK: i64 = 200;

#[derive(Debug)]
pub(super) struct TcpCrr {
    client: Client,
    server: Server,
}

/// Opens the server's socket.
///
/// The client closes first and keeps the connection's remains (TIME_WAIT) for a minute; tens of thousands of them fit into
/// the ports that it may use, and after a second a port can be used again.
pub(super) fn start(ends: &Ends, cpu: usize) -> Result<TcpCrr> {
    ends.client.sysctl("ipv4/ip_local_port_range", "10000 65535")?;
    ends.client.sysctl("ipv4/tcp_tw_reuse", "1")?;
    let (listen, target) = (ends.listen, ends.target);
    let bind = move || {
        let listener = bound(|| TcpListener::bind(listen))?;
        setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::milliseconds(LOOK))?;
        Ok(listener)
    };
    let server = Server::start(&ends.server, cpu, bind, |listener, done| respond(&listener, done))?;
    let client = Client::start(&ends.client, cpu, move || {
        Ok(move |duration| {
            let start = Instant::now();
            let mut sample = Sample::default();
            while sample.elapsed < duration {
                let mut connection = TcpStream::connect(target).with_context(|| describe(target))?;
                connection.set_read_timeout(Some(STALLED))?;
                connection.write_all(&[1])?;
                let answer = connection.read_exact(&mut [0]);
                answer.context("a new connection has stalled or was closed")?;
                drop(connection);
                sample.amount += 1;
                sample.elapsed = start.elapsed();
            }
            Ok(sample)
        })
    })?;
    Ok(TcpCrr { client, server })
}

fn respond(listener: &TcpListener, done: &AtomicBool) -> Result<()> {
    loop {
        match listener.accept() {
            Ok((mut connection, _)) => {
                connection.read_exact(&mut [0])?;
                connection.write_all(&[1])?;
                // The client's end comes first.
                let more = connection.read(&mut [0])?;
                ensure!(more == 0, "a client sent more than one byte");
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

impl Session for TcpCrr {
    fn measure(&mut self, duration: Duration) -> Result<Sample> {
        self.client.run(duration)
    }

    fn stop(self: Box<Self>) -> Result<()> {
        self.client.stop()?;
        self.server.stop()
    }
}
