//! What is on a node, seen with iproute2 and the verbs that operators use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use overlay_testbed::flannel_node::DEVICE;
use overlay_testbed::{AgentOptions, Lease, Node, eventually};
use serde_json::Value;

/// Within this everything is repaired.
pub(crate) const SOON: Duration = Duration::from_secs(6);

/// The entries of the overlay's device for its peers, as iproute2 prints them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Entries {
    pub(crate) routes: BTreeSet<String>,
    pub(crate) neighbours: BTreeSet<String>,
    pub(crate) fdb: BTreeSet<String>,
}

impl Entries {
    /// On `node`.
    pub(crate) fn of(node: &Node) -> Result<Self> {
        let lines = |command: &str| -> Result<BTreeSet<String>> {
            let text = node.run(command)?;
            let lines = text
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
            Ok(lines.collect())
        };
        Ok(Self {
            // `-d` shows the protocol, the table and whatever else flannel would not have set.
            routes: lines(&format!("ip -4 -d route show table main dev {DEVICE}"))?,
            neighbours: lines(&format!("ip -4 neigh show dev {DEVICE} nud permanent"))?,
            fdb: lines(&format!("bridge fdb show dev {DEVICE}"))?,
        })
    }

    /// What flannel makes of `peers`.
    pub(crate) fn wanted<'a>(peers: impl IntoIterator<Item = &'a Lease>) -> Self {
        let mut wanted = Self::default();
        for Lease {
            subnet,
            public_ip,
            vtep_mac,
            ..
        } in peers
        {
            let route = format!("unicast {subnet}/24 via {subnet} proto boot scope global onlink");
            wanted.routes.insert(route);
            wanted
                .neighbours
                .insert(format!("{subnet} lladdr {vtep_mac} PERMANENT"));
            wanted
                .fdb
                .insert(format!("{vtep_mac} dst {public_ip} self permanent"));
        }
        wanted
    }
}

/// Subnet → VTEP and MAC, as the eBPF programs know their peers.
pub(crate) fn ebpf_peers(node: &Node) -> Result<BTreeMap<String, (String, String)>> {
    let text = node.agent_command(&["status", "--json"])?.success()?;
    let status: Value = serde_json::from_str(&text)?;
    let mut peers = BTreeMap::new();
    for peer in status["peers"].as_array().context("peers")? {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for subnet in peer["subnets"].as_array().context("subnets")? {
            peers.insert(
                word(&subnet["subnet"]),
                (word(&peer["vtep"]), word(&subnet["vtepMAC"])),
            );
        }
    }
    Ok(peers)
}

/// The node has exactly `peers`, in the kernel's tables, and with `ebpf` in its maps, too.
pub(crate) fn check_peers(node: &Node, peers: &[Lease], ebpf: bool) -> Result<()> {
    let of_others = || peers.iter().filter(|lease| lease.node != node.name());
    let (found, wanted) = (Entries::of(node)?, Entries::wanted(of_others()));
    ensure!(
        found == wanted,
        "{}: found {found:#?}, wanted {wanted:#?}",
        node.name()
    );
    if ebpf {
        let wanted: BTreeMap<_, _> = of_others()
            .map(|lease| {
                let at = (lease.public_ip.to_string(), lease.vtep_mac.to_string());
                (format!("{}/24", lease.subnet), at)
            })
            .collect();
        let found = ebpf_peers(node)?;
        ensure!(
            found == wanted,
            "{}: maps have {found:?}, wanted {wanted:?}",
            node.name()
        );
    }
    Ok(())
}

/// Waits until the node's routes out of the overlay's device are those to `peers`; returns how long after `since` it was.
///
/// This look costs microseconds, [`check_peers`] a good part of a second on a busy machine.
pub(crate) fn time_routes(node: &Node, peers: &[Lease], since: Instant) -> Duration {
    let others = peers.iter().filter(|lease| lease.node != node.name());
    let wanted: BTreeSet<Ipv4Addr> = others.map(|lease| lease.subnet).collect();
    let waited = node.space().enter(|| {
        eventually(SOON, "the routes to the peers", || {
            let found = routes()?;
            ensure!(found == wanted, "found {found:?}, wanted {wanted:?}");
            Ok(since.elapsed())
        })
    });
    waited.unwrap_or_else(|error| panic!("{}: {error:#}", node.name()))
}

/// Destinations of the routes out of the overlay's device, in the calling thread's network namespace.
fn routes() -> Result<BTreeSet<Ipv4Addr>> {
    let text = fs::read_to_string("/proc/thread-self/net/route")?;
    let words = text.lines().map(|line| line.split_whitespace());
    let ours = words.filter_map(|mut words| (words.next()? == DEVICE).then(|| words.next()).flatten());
    ours.map(|word| {
        // The address as the machine has it in memory.
        let bytes = u32::from_str_radix(word, 16)?.to_ne_bytes();
        Ok(Ipv4Addr::from(bytes))
    })
    .collect()
}

/// Interface index and MAC of the overlay's device: another index is another device.
pub(crate) fn identity(node: &Node) -> (u64, String) {
    let text = node.run(&format!("ip -j link show dev {DEVICE}")).unwrap();
    let links: Value = serde_json::from_str(&text).unwrap();
    let mac = links[0]["address"].as_str().unwrap().to_owned();
    (links[0]["ifindex"].as_u64().unwrap(), mac)
}

/// Every program and link of the agent's that is pinned, by path, with its ID: another ID is another object.
pub(crate) fn ebpf_objects(node: &Node) -> BTreeMap<String, u64> {
    let pins = AgentOptions::PIN_DIRECTORY;
    let mut objects = BTreeMap::new();
    for (kind, directory) in [("prog", "programs"), ("link", "links")] {
        let files = node.run(&format!("find {pins}/{directory} -type f")).unwrap();
        for file in files.lines() {
            let text = node
                .run(&format!("bpftool -j {kind} show pinned {file}"))
                .unwrap();
            let object: Value = serde_json::from_str(&text).unwrap();
            objects.insert(file.to_owned(), object["id"].as_u64().unwrap());
        }
    }
    assert!(!objects.is_empty(), "nothing is pinned in {pins}");
    objects
}
