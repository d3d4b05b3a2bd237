//! One byte there and one byte back on established TCP connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Client, STALLED, Sample, Server, Session, WINDOW, describe};
use crate::bench::bed::Ends;
use crate::bound;

#[derive(Debug)]
pub(super) struct TcpRr {
    client: Client,
    server: Server,
}

/// Opens `flows` connections.
///
/// Both ends use them in the same order, so that neither has to ask which one is ready.
pub(super) fn start(ends: &Ends, flows: usize, cpu: usize) -> Result<TcpRr> {
    let (listen, target) = (ends.listen, ends.target);
    let server = Server::start(
        &ends.server,
        cpu,
        move || Ok(bound(|| TcpListener::bind(listen))?),
        move |listener, _| respond(&listener, flows),
    )?;
    let client = Client::start(&ends.client, cpu, move || {
        let mut connections = connect(target, flows)?;
        let mut next = 0;
        Ok(move |duration| {
            let start = Instant::now();
            let mut sample = Sample::default();
            while sample.elapsed < duration {
                let end = (next + WINDOW).min(flows);
                let batch = connections.get_mut(next..end).unwrap_or_default();
                next = end % flows;
                for connection in batch.iter_mut() {
                    connection.write_all(&[1])?;
                }
                for connection in batch {
                    let answer = connection.read_exact(&mut [0]);
                    answer.context("an established connection has stalled or was closed")?;
                    sample.amount += 1;
                }
                sample.elapsed = start.elapsed();
            }
            Ok(sample)
        })
    })?;
    Ok(TcpRr { client, server })
}

fn connect(target: SocketAddrV4, flows: usize) -> Result<Vec<TcpStream>> {
    let connections = (0..flows).map(|_| {
        let connection =
            TcpStream::connect_timeout(&target.into(), STALLED).with_context(|| describe(target))?;
        connection.set_nodelay(true)?;
        connection.set_read_timeout(Some(STALLED))?;
        Ok(connection)
    });
    connections.collect()
}

fn respond(listener: &TcpListener, flows: usize) -> Result<()> {
    let connections = (0..flows).map(|_| {
        let (connection, _) = listener.accept()?;
        connection.set_nodelay(true)?;
        Ok(connection)
    });
    let mut connections = connections.collect::<Result<Vec<_>>>()?;
    loop {
        for connection in &mut connections {
            match connection.read_exact(&mut [0]) {
                // The client has closed them all.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                done => done?,
            }
            connection.write_all(&[1])?;
        }
    }
}

impl Session for TcpRr {
    fn measure(&mut self, duration: Duration) -> Result<Sample> {
        self.client.run(duration)
    }

    fn stop(self: Box<Self>) -> Result<()> {
        self.client.stop()?;
        self.server.stop()
    }
}
