//! One TCP connection that carries as much as it can.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::stream::Arrived;
use super::{Client, Cpus, STALLED, Sample, Server, Session, describe};
use crate::bench::bed::Ends;
use crate::bound;

/// Bytes of one write, and room for one read.
const BLOCK: usize = 128 << 10;

#[derive(Debug)]
pub(super) struct TcpBulk {
    sender: Client,
    receiver: Server,
    arrived: Arrived,
}

/// Opens the connection.
pub(super) fn start(ends: &Ends, cpus: Cpus) -> Result<TcpBulk> {
    let (listen, target) = (ends.listen, ends.target);
    let arrived = Arrived::default();
    let counter = arrived.clone();
    let receiver = Server::start(
        &ends.server,
        cpus.receiver,
        move || Ok(bound(|| TcpListener::bind(listen))?),
        move |listener, _| receive(&listener, &counter),
    )?;
    let sender = Client::start(&ends.client, cpus.sender, move || {
        let mut connection =
            TcpStream::connect_timeout(&target.into(), STALLED).with_context(|| describe(target))?;
        connection.set_write_timeout(Some(STALLED))?;
        let block = vec![1; BLOCK];
        Ok(move |duration| {
            let start = Instant::now();
            let mut sample = Sample::default();
            while sample.elapsed < duration {
                let written = connection.write_all(&block);
                written.context("the connection has stalled or was closed")?;
                sample.elapsed = start.elapsed();
            }
            Ok(sample)
        })
    })?;
    Ok(TcpBulk {
        sender,
        receiver,
        arrived,
    })
}

fn receive(listener: &TcpListener, arrived: &Arrived) -> Result<()> {
    let (mut connection, _) = listener.accept()?;
    let mut buffer = vec![0; BLOCK];
    loop {
        match connection.read(&mut buffer)? {
            0 => return Ok(()),
            size => arrived.add(size),
        }
    }
}

impl Session for TcpBulk {
    fn measure(&mut self, duration: Duration) -> Result<Sample> {
        self.arrived.measure(&self.sender, duration)
    }

    fn stop(self: Box<Self>) -> Result<()> {
        self.sender.stop()?;
        self.receiver.stop()
    }
}
