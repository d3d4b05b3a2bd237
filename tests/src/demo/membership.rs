//! A node joins and one leaves while the others talk, and those must not notice.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Overlay;
use super::counters::Status;
use super::report::Report;
use crate::agent::AgentOptions;
use crate::traffic::{PingOptions, PingStream, UdpEcho, UdpStream, ping};
use crate::wait::eventually;

const PORT: u16 = 7001;
const PACE: Duration = Duration::from_millis(5);
const DATAGRAM_SIZE: usize = 200;
const CONVERGENCE: Duration = Duration::from_secs(10);

/// Traffic between two nodes that stay, in both directions.
struct Streams {
    pings: Vec<PingStream>,
    datagrams: Vec<UdpStream>,
    _servers: Vec<UdpEcho>,
}

impl Streams {
    fn start(overlay: &Overlay) -> Result<Self> {
        let (first, second) = (overlay.testbed.pod(1, 1)?, overlay.testbed.pod(2, 1)?);
        let (mut pings, mut datagrams, mut servers) = (Vec::new(), Vec::new(), Vec::new());
        for (from, to) in [(first, second), (second, first)] {
            let target = SocketAddrV4::new(to.address(), PORT);
            servers.push(UdpEcho::start(to.space(), target)?);
            datagrams.push(UdpStream::start(from.space(), target, PACE, DATAGRAM_SIZE)?);
            pings.push(PingStream::start(from.space(), to.address(), PACE)?);
        }
        Ok(Self {
            pings,
            datagrams,
            _servers: servers,
        })
    }

    fn stop(self) -> Result<String> {
        let (mut answered, mut echoed) = (0, 0);
        // All are stopped before any is judged.
        let pings: Vec<_> = self.pings.into_iter().map(PingStream::stop).collect();
        let datagrams: Vec<_> = self.datagrams.into_iter().map(UdpStream::stop).collect();
        for report in pings {
            answered += report?.expect_lossless()?.received;
        }
        for report in datagrams {
            echoed += report?.expect_perfect()?.received;
        }
        Ok(format!(
            "{answered} pings and {echoed} datagrams between node-1 and node-2, one every 5 ms, none lost"
        ))
    }
}

/// A node joins, another leaves.
pub(super) fn check(overlay: &mut Overlay, nodes: u8, report: &mut Report) {
    let mut streams = None;
    let started = report.check("traffic between node-1 and node-2", || {
        streams = Some(Streams::start(overlay)?);
        Ok("ping and UDP in both directions, one packet every 5 ms each".to_owned())
    });
    let joined = report.check("a node joins", || join(overlay));
    // With two nodes there is nobody to spare but the one that came.
    let leaver = if nodes > 2 { nodes } else { nodes + 1 };
    if joined || leaver == nodes {
        report.check("a node leaves", || leave(overlay, leaver));
    }
    if let (true, Some(streams)) = (started, streams) {
        report.check("not one packet was lost", || streams.stop());
    }
}

fn join(overlay: &mut Overlay) -> Result<String> {
    let node = overlay.testbed.add_node()?.clone();
    overlay.testbed.publish(&overlay.testbed.leases())?;
    overlay
        .agents
        .insert(node.index(), node.start_agent(&AgentOptions::default())?);
    let mut others = 0;
    for other in overlay
        .testbed
        .nodes()
        .filter(|other| other.index() != node.index())
    {
        eventually(CONVERGENCE, "the new node as a peer", || {
            let known = knows(&Status::of(other)?, &node.address().to_string());
            ensure!(known, "{} does not list {}", other.name(), node.address());
            Ok(())
        })?;
        for (from, to) in [(&node, other), (other, &node)] {
            ping(
                from.pod(1)?.space(),
                to.pod(2)?.address(),
                &PingOptions::default(),
            )?
            .expect_lossless()?;
        }
        others += 1;
    }
    Ok(format!(
        "{} {} reaches the pods of {others} others, and they reach its pods",
        node.name(),
        node.address()
    ))
}

fn leave(overlay: &mut Overlay, leaver: u8) -> Result<String> {
    let node = overlay.testbed.node(leaver)?.clone();
    let mut leases = overlay.testbed.leases();
    leases.leave(node.name());
    overlay.testbed.publish(&leases)?;
    if let Some(agent) = overlay.agents.remove(&leaver) {
        agent.stop()?;
    }
    overlay.testbed.remove_node(leaver)?;
    let subnet = node.lease().subnet.to_string();
    for other in overlay.testbed.nodes() {
        eventually(CONVERGENCE, "the end of the peer", || {
            let known = knows(&Status::of(other)?, &node.address().to_string());
            ensure!(!known, "{} still lists {}", other.name(), node.address());
            for command in ["ip route", "ip neigh", "bridge fdb show"] {
                let entries = other.run(command)?;
                let traces = [&subnet, &node.lease().vtep_mac.to_string()];
                let left = entries
                    .lines()
                    .find(|line| traces.iter().any(|trace| line.contains(*trace)));
                ensure!(
                    left.is_none(),
                    "{} still has: {}",
                    other.name(),
                    left.unwrap_or_default()
                );
            }
            Ok(())
        })?;
    }
    Ok(format!(
        "{} is gone; no other node has a route, neighbour, forwarding entry or map entry of it",
        node.name()
    ))
}

fn knows(status: &Status, vtep: &str) -> bool {
    status.peers.iter().any(|peer| peer.vtep == vtep)
}
