//! Flows that are established before something happens and must not notice it.

use std::net::SocketAddrV4;
use std::thread::sleep;
use std::time::Duration;

use anyhow::ensure;
use overlay_testbed::flow_tcp::{TcpEnds, TcpFlow, TcpStreamOptions};
use overlay_testbed::flow_udp::{Pace, UdpClient, UdpClientOptions, UdpServer, UdpServerOptions};
use overlay_testbed::{Space, Testbed, eventually};

/// Long enough for a flow to be learned by the fast path.
const SETTLE: Duration = Duration::from_millis(600);
const INTERVAL: Duration = Duration::from_millis(3);
/// Within this a segment that was sent again is answered.
const ANSWERED: Duration = Duration::from_secs(5);
const BYTES_PER_SECOND: u64 = 4_000_000;

/// Between the first pods of pairs of nodes, in both directions: numbered datagrams to and fro, and a TCP stream.
pub(crate) struct Streams {
    udp: Vec<(String, UdpClient, UdpServer)>,
    /// With the namespace of the sender.
    tcp: Vec<(String, Space, TcpFlow)>,
}

impl Streams {
    pub(crate) fn start(testbed: &Testbed, pairs: &[(u8, u8)]) -> Self {
        let mut streams = Self {
            udp: Vec::new(),
            tcp: Vec::new(),
        };
        for (from, to) in pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]) {
            let (client, server) = (testbed.pod(from, 1).unwrap(), testbed.pod(to, 1).unwrap());
            let (client, server, target) = (client.space(), server.space(), server.address());
            let name = format!("node {from} to node {to}");
            let address = SocketAddrV4::new(target, 7000 + u16::from(from));
            let answering = UdpServer::start(server, UdpServerOptions::new(address, u32::from(to))).unwrap();
            let options = UdpClientOptions {
                size: 200,
                pace: Pace::Every(INTERVAL),
                ..UdpClientOptions::new(address, u64::from(from))
            };
            let sending = UdpClient::start(client, options).unwrap();
            streams.udp.push((name.clone(), sending, answering));
            let ends = TcpEnds {
                listen: address,
                connect: address,
            };
            let options = TcpStreamOptions {
                bytes_per_second: BYTES_PER_SECOND,
                ..TcpStreamOptions::default()
            };
            let flow = TcpFlow::start(client, server, ends, options).unwrap();
            streams.tcp.push((name, client.clone(), flow));
        }
        sleep(SETTLE);
        streams
    }

    /// Ends the flows, after some more traffic. No datagram may have been lost, doubled or overtaken, and no segment lost.
    ///
    /// Seen red with a pod that drops every 300th segment of one of the streams.
    pub(crate) fn expect_nothing_lost(self, during: &str) {
        sleep(Duration::from_millis(300));
        // Of these connections, not of their namespaces: there tests try to reach absent nodes, too, and connections that
        // end on a busy machine are over before they hear that what they sent again had arrived.
        for (name, sender, flow) in &self.tcp {
            // The answer to what was just sent again is on its way.
            eventually(ANSWERED, "arrival of every segment", || {
                let again = flow.sent_again(sender)?;
                ensure!(again.lost() == 0, "{again:?}");
                Ok(())
            })
            .unwrap_or_else(|error| panic!("TCP {name} {during}: {error:#}"));
        }
        end_tcp(self.tcp, during);
        for (name, sending, answering) in self.udp {
            let local = sending.local();
            let status = sending.stop().unwrap();
            let requests = answering.arrivals(local);
            for (what, arrived) in [("requests", requests), ("answers", status.answers)] {
                let bad = arrived.reordered + arrived.corrupted;
                let clean = bad == 0 && arrived.duplicated == 0;
                assert!(clean, "UDP {name} {during}, {what}: {arrived:?}");
                let sent = status.sent;
                assert_eq!(arrived.received, sent, "UDP {name} {during}, {what}: {arrived:?}");
                assert!(sent > 200, "UDP {name} {during}: {sent} datagrams prove nothing");
            }
        }
    }

    /// Ends the flows, of which packets may have been lost: the connections have survived. Returns how many datagrams were.
    pub(crate) fn expect_survival(self, during: &str) -> u64 {
        end_tcp(self.tcp, during);
        let ended = self
            .udp
            .into_iter()
            .map(|(_, sending, _answering)| sending.stop().unwrap());
        ended.map(|status| status.sent - status.answers.received).sum()
    }
}

/// Each goes on, and every byte has arrived when it ends.
fn end_tcp(flows: Vec<(String, Space, TcpFlow)>, during: &str) {
    for (name, _, flow) in flows {
        let wanted = flow.received() + BYTES_PER_SECOND / 10;
        // After a gap the sender tries again after as long as the gap was.
        let more = eventually(Duration::from_secs(25), "more of the stream", || {
            ensure!(flow.received() > wanted, "silent for {:?}", flow.silence().0);
            Ok(())
        });
        more.and_then(|()| flow.finish())
            .unwrap_or_else(|error| panic!("TCP {name} {during}: {error:#}"));
    }
}
