//! Who reaches whom: every pod every other, by every protocol.

use overlay_testbed::traffic::{PingOptions, TcpTransfer, UdpTransfer, ping};
use overlay_testbed::{Pod, Testbed};

/// Bytes by TCP: enough for several large segments.
const BYTES: u64 = 200_000;
/// Datagrams, of a size that just fits, and the same as full-size segments of TCP.
const DATAGRAMS: u64 = 20;
const LARGEST: u16 = 1450 - 28;

/// Every pod reaches every pod of the other nodes: ICMP, UDP and TCP, every byte compared.
pub(crate) fn assert_all_reach(testbed: &Testbed) {
    let pods: Vec<(u8, &Pod)> = testbed
        .nodes()
        .flat_map(|node| node.pods().iter().map(|pod| (node.index(), pod)))
        .collect();
    let mut pairs = 0;
    for (from, client) in &pods {
        for (to, server) in pods.iter().filter(|(to, _)| to != from) {
            assert_reach(client, server)
                .unwrap_or_else(|error| panic!("node {from} to node {to}: {error:#}"));
            pairs += 1;
        }
    }
    assert!(pairs >= 2, "{pairs} pairs prove nothing");
}

/// `client` reaches `server`.
pub(crate) fn assert_reach(client: &Pod, server: &Pod) -> anyhow::Result<()> {
    ping(client.space(), server.address(), &PingOptions::default())?.expect_lossless()?;
    UdpTransfer::new(server.address(), 4001, DATAGRAMS, LARGEST)
        .run(client.space(), server.space())?
        .expect_perfect()?;
    let report = TcpTransfer::new(server.address(), 4002, BYTES).run(client.space(), server.space())?;
    // Between pods nothing is masqueraded.
    anyhow::ensure!(report.client_seen == client.address(), "{report:?}");
    Ok(())
}
