//! Pods and hosts reach each other: ping, TCP and UDP, on one node and across every pair of nodes.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::ledger::Ledger;
use super::report::Report;
use crate::node::Node;
use crate::space::Space;
use crate::testbed::Testbed;
use crate::traffic::{PingOptions, TcpTransfer, UdpTransfer, ping};

const PORT: u16 = 7000;
const PINGS: u32 = 5;
const DATAGRAMS: u64 = 50;
const DATAGRAM_SIZE: u16 = 1000;
const MIB: u64 = 1 << 20;
const BULK: u64 = 64 * MIB;
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest IP packet: a TCP payload needs at least one for so many bytes.
const LARGEST_PACKET: u64 = 65_535;

/// A communication of the demo.
struct Talk<'a> {
    client: &'a Space,
    server: &'a Space,
    address: Ipv4Addr,
}

impl Talk<'_> {
    /// Ping, one mebibyte by TCP and some datagrams by UDP, none of them lost or changed.
    fn hold(&self) -> Result<()> {
        let options = PingOptions {
            count: PINGS,
            ..PingOptions::default()
        };
        ping(self.client, self.address, &options)?.expect_lossless()?;
        self.tcp(MIB)?;
        let udp = UdpTransfer::new(self.address, PORT, DATAGRAMS, DATAGRAM_SIZE);
        UdpTransfer {
            timeout: TIMEOUT,
            ..udp
        }
        .run(self.client, self.server)?
        .expect_perfect()?;
        Ok(())
    }

    fn tcp(&self, bytes: u64) -> Result<u32> {
        let transfer = TcpTransfer {
            timeout: TIMEOUT,
            ..TcpTransfer::new(self.address, PORT, bytes)
        };
        Ok(transfer.run(self.client, self.server)?.crc32)
    }
}

/// Writes down what [`Talk::hold`] sends from the client's node to the server's.
fn record_forth(ledger: &mut Ledger, client: &Node, server: &Node) {
    let packets = u64::from(PINGS) + MIB / LARGEST_PACKET + DATAGRAMS;
    ledger.sent(
        client,
        server,
        packets,
        MIB + DATAGRAMS * u64::from(DATAGRAM_SIZE),
    );
}

/// Writes down what comes back: echo replies, and TCP's handshake and answer.
fn record_back(ledger: &mut Ledger, client: &Node, server: &Node) {
    ledger.sent(server, client, u64::from(PINGS) + 2, 0);
}

/// Every kind of communication in the overlay.
pub(super) fn check(testbed: &Testbed, report: &mut Report, ledger: &mut Ledger) {
    let kinds = format!("ping, TCP {} MiB and UDP", MIB / (1 << 20));
    report.check("pod to pod on a node", || {
        for node in testbed.nodes() {
            let (client, server) = (node.pod(1)?, node.pod(2)?);
            Talk {
                client: client.space(),
                server: server.space(),
                address: server.address(),
            }
            .hold()?;
        }
        Ok(format!("{kinds} on each of {} nodes", testbed.nodes().count()))
    });
    for from in testbed.nodes() {
        for to in testbed.nodes().filter(|node| node.index() != from.index()) {
            report.check(&format!("{} to {}", from.name(), to.name()), || {
                let (client, server) = (from.pod(1)?, to.pod(2)?);
                Talk {
                    client: client.space(),
                    server: server.space(),
                    address: server.address(),
                }
                .hold()?;
                record_forth(ledger, from, to);
                record_back(ledger, from, to);
                // The node itself has the device's address there, and the overlay carries it both ways.
                let of_host = Talk {
                    client: from.space(),
                    server: server.space(),
                    address: server.address(),
                };
                of_host.hold()?;
                record_forth(ledger, from, to);
                record_back(ledger, from, to);
                // Towards a node the underlay carries it, masqueraded, and its answers too.
                Talk {
                    client: client.space(),
                    server: to.space(),
                    address: to.address(),
                }
                .hold()?;
                let target = (server.address(), to.address());
                Ok(format!(
                    "{kinds}: pod to pod {}, host to pod {}, pod to host {}",
                    target.0, target.0, target.1
                ))
            });
        }
    }
    report.check("64 MiB with a checksum", || bulk(testbed, ledger));
}

fn bulk(testbed: &Testbed, ledger: &mut Ledger) -> Result<String> {
    let (from, to) = (testbed.node(1)?, testbed.node(2)?);
    let (client, server) = (from.pod(1)?, to.pod(1)?);
    let talk = Talk {
        client: client.space(),
        server: server.space(),
        address: server.address(),
    };
    let crc32 = talk.tcp(BULK)?;
    ledger.sent(from, to, BULK / LARGEST_PACKET, BULK);
    Ok(format!(
        "{BULK} bytes from {} to {}, CRC-32 {crc32:08x} on both ends",
        client.address(),
        server.address()
    ))
}

/// One ping between the pods of every pair of nodes.
pub(super) fn one_ping_per_pair(testbed: &Testbed) -> Result<String> {
    let mut pairs = 0;
    for from in testbed.nodes() {
        for to in testbed.nodes().filter(|node| node.index() != from.index()) {
            let options = PingOptions {
                count: 1,
                ..PingOptions::default()
            };
            ping(from.pod(1)?.space(), to.pod(1)?.address(), &options)?.expect_lossless()?;
            pairs += 1;
        }
    }
    ensure!(pairs > 0, "there is only one node");
    Ok(format!(
        "{pairs} pairs of nodes still reach each other without an agent"
    ))
}
