//! What every test starts from, and how it looks at a node: with iproute2 and bpftool, not with the agent's own eyes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use overlay_testbed::exec::Output;
use overlay_testbed::traffic::{PingOptions, UdpEcho, UdpStream, ping};
use overlay_testbed::{Agent, AgentOptions, Lease, Leases, Mac, Node, Testbed, eventually};
use serde_json::Value;

pub(crate) const DEVICE: &str = "flannel.1";
pub(crate) const PINS: &str = AgentOptions::PIN_DIRECTORY;
/// Within this everything is repaired: events at once, BPF at the resync of [`options`].
pub(crate) const SOON: Duration = Duration::from_secs(6);

const PORT: u16 = 5001;

/// A testbed with a pod on each node.
pub(crate) fn testbed(nodes: u8) -> Testbed {
    Testbed::builder().nodes(nodes).pods_per_node(1).build().unwrap()
}

/// flannel's defaults, with a resync of one second.
pub(crate) fn options() -> AgentOptions {
    AgentOptions::default().with_arguments(&["--resync", "1"])
}

/// The lease of a node that does not exist.
pub(crate) fn absent(number: u8) -> Lease {
    Lease {
        node: format!("absent-{number}"),
        subnet: Ipv4Addr::new(10, 244, 100 + number, 0),
        public_ip: Ipv4Addr::new(172, 16, 0, number),
        vtep_mac: Mac([0x06, 0, 0, 0, 0, number]),
    }
}

/// The leases of the testbed's nodes and of `count` more that do not exist.
pub(crate) fn with_absent(testbed: &Testbed, count: u8) -> Leases {
    let mut leases = testbed.leases();
    (1..=count).for_each(|number| leases.join(absent(number)));
    leases
}

/// The only node, which has the leases of itself and of `absent` more.
pub(crate) fn with_leases(testbed: &Testbed, absent: u8) -> (&Node, Leases) {
    let (node, leases) = (testbed.node(1).unwrap(), with_absent(testbed, absent));
    node.write_leases(&leases).unwrap();
    (node, leases)
}

/// An agent that has programmed the peers of `leases`, which the node has.
pub(crate) fn start(node: &Node, leases: &Leases) -> Agent {
    let agent = node.start_agent(&options()).unwrap();
    wait_for_peers(node, leases);
    agent
}

/// Runs a verb of the agent that must succeed.
pub(crate) fn command(node: &Node, arguments: &[&str]) -> String {
    node.agent_command(arguments).unwrap().success().unwrap()
}

/// The verb `run` or `plan` with the files of `node`.
pub(crate) fn with_files(node: &Node, verb: &str, further: &[&str]) -> Vec<String> {
    let (leases, conf) = (node.path(AgentOptions::LEASES), node.path(AgentOptions::NET_CONF));
    let mut words = [verb, "--node", node.name(), "--leases", leases.to_str().unwrap()].to_vec();
    words.extend_from_slice(&["--net-config-path", conf.to_str().unwrap()]);
    words.extend_from_slice(further);
    words.into_iter().map(str::to_owned).collect()
}

/// Runs `run` or `plan` with the files of `node`, to its end.
pub(crate) fn verb(node: &Node, verb: &str, further: &[&str]) -> Output {
    let words = with_files(node, verb, further);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    node.agent_command(&words).unwrap()
}

/// What `plan` prints.
pub(crate) fn plan(node: &Node, further: &[&str]) -> String {
    verb(node, "plan", further).success().unwrap()
}

pub(crate) fn assert_settled(node: &Node, further: &[&str]) {
    let plan = plan(node, further);
    assert!(plan.starts_with("nothing to do"), "{plan}");
}

/// Standard output of `command` as JSON; nothing at all is an empty list.
pub(crate) fn json(node: &Node, command: &str) -> Result<Value> {
    let text = node.run(command)?;
    if text.trim().is_empty() {
        return Ok(Value::Array(Vec::new()));
    }
    Ok(serde_json::from_str(&text)?)
}

fn list(node: &Node, command: &str) -> Result<Vec<Value>> {
    Ok(json(node, command)?.as_array().cloned().unwrap_or_default())
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// Everything that makes peers reachable, of the shape that flannel gives it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Peers {
    /// Destination → gateway.
    pub(crate) routes: BTreeMap<String, String>,
    /// Address → MAC.
    pub(crate) neighbours: BTreeMap<String, String>,
    /// MAC and underlay address.
    pub(crate) fdb: BTreeSet<(String, String)>,
    /// The `SUBNETS` map: subnet → underlay address and MAC.
    pub(crate) subnets: BTreeMap<String, (String, String)>,
    /// The keys of the `PEERS` map.
    pub(crate) vteps: BTreeSet<String>,
}

impl Peers {
    /// What a node called `own` should have.
    pub(crate) fn wanted(leases: &Leases, own: &str) -> Self {
        let mut peers = Self::default();
        for lease in leases.entries().iter().filter(|lease| lease.node != own) {
            let (gateway, subnet) = (lease.subnet.to_string(), format!("{}/24", lease.subnet));
            let (mac, vtep) = (lease.vtep_mac.to_string(), lease.public_ip.to_string());
            peers.routes.insert(subnet.clone(), gateway.clone());
            peers.neighbours.insert(gateway, mac.clone());
            peers.fdb.insert((mac.clone(), vtep.clone()));
            peers.vteps.insert(vtep.clone());
            peers.subnets.insert(subnet, (vtep, mac));
        }
        peers
    }

    /// Without what the eBPF maps hold.
    pub(crate) fn kernel_only(mut self) -> Self {
        self.subnets.clear();
        self.vteps.clear();
        self
    }

    /// What the kernel's tables hold.
    pub(crate) fn of_kernel(node: &Node) -> Result<Self> {
        let mut peers = Self::default();
        for route in list(node, &format!("ip -4 -d -j route show dev {DEVICE}"))? {
            let (subnet, gateway) = (text(&route, "dst"), text(&route, "gateway"));
            let plain =
                route["protocol"] == "boot" && route["metric"].is_null() && route["flags"][0] == "onlink";
            if plain && subnet.starts_with(&format!("{gateway}/")) {
                peers.routes.insert(subnet, gateway);
            }
        }
        for neighbour in list(node, &format!("ip -4 -j neigh show dev {DEVICE}"))? {
            let address = text(&neighbour, "dst");
            if neighbour["state"][0] == "PERMANENT" && address.starts_with("10.") {
                peers.neighbours.insert(address, text(&neighbour, "lladdr"));
            }
        }
        for entry in list(node, &format!("bridge -j fdb show dev {DEVICE}"))? {
            let mac = text(&entry, "mac");
            if entry["state"] == "permanent" && mac != "00:00:00:00:00:00" {
                peers.fdb.insert((mac, text(&entry, "dst")));
            }
        }
        Ok(peers)
    }

    /// What the kernel's tables and the pinned maps hold.
    pub(crate) fn of(node: &Node) -> Result<Self> {
        // The maps first: what is in them must be in the tables already.
        let subnets = node.map_entries("SUBNETS")?;
        let vteps = node.map_entries("PEERS")?;
        let mut peers = Self::of_kernel(node)?;
        for entry in subnets {
            let (key, value) = (&entry["formatted"]["key"], &entry["formatted"]["value"]);
            let length = key["prefix_len"].as_u64().unwrap_or_default().saturating_sub(96);
            let subnet = format!("{}/{length}", ipv4(&key["data"]["octets"])?);
            let mac = Mac(octets(&value["vtep_mac"], 0)?);
            let vtep = ipv4(&value["vtep"]["octets"])?;
            peers.subnets.insert(subnet, (vtep.to_string(), mac.to_string()));
        }
        for entry in vteps {
            let vtep = ipv4(&entry["formatted"]["key"]["octets"])?;
            peers.vteps.insert(vtep.to_string());
        }
        Ok(peers)
    }

    /// Every `SUBNETS` entry has the kernel's route, neighbour and forwarding entry behind it.
    pub(crate) fn assert_bpf_within_kernel(&self) {
        for (subnet, (vtep, mac)) in &self.subnets {
            let gateway = self.routes.get(subnet);
            let gateway = gateway.unwrap_or_else(|| panic!("{subnet} is in SUBNETS and has no route"));
            assert_eq!(
                self.neighbours.get(gateway),
                Some(mac),
                "neighbour {gateway} of {subnet}"
            );
            let to: Vec<_> = self.fdb.iter().filter(|(of, _)| of == mac).collect();
            assert_eq!(
                to,
                [&(mac.clone(), vtep.clone())],
                "forwarding of {mac} for {subnet}"
            );
        }
    }
}

/// `N` bytes of an array, from this one on. bpftool prints none for an entry that ends while it reads the map.
fn octets<const N: usize>(array: &Value, first: usize) -> Result<[u8; N]> {
    let mut octets = [0; N];
    for (index, octet) in octets.iter_mut().enumerate() {
        let number = array[first + index].as_u64();
        *octet = u8::try_from(number.context("an entry ended while its map was read")?)?;
    }
    Ok(octets)
}

/// From an IPv4-mapped address.
fn ipv4(address: &Value) -> Result<Ipv4Addr> {
    Ok(octets(address, 12)?.into())
}

/// Waits until the node has exactly the peers of `leases`, in the kernel and in the maps.
pub(crate) fn wait_for_peers(node: &Node, leases: &Leases) {
    let wanted = Peers::wanted(leases, node.name());
    eventually(SOON, "the peers of the leases", || {
        let found = Peers::of(node)?;
        ensure!(found == wanted, "found {found:#?}, wanted {wanted:#?}");
        Ok(())
    })
    .unwrap();
}

/// Interface index of the overlay device.
pub(crate) fn ifindex(node: &Node) -> u64 {
    json(node, &format!("ip -j link show {DEVICE}")).unwrap()[0]["ifindex"]
        .as_u64()
        .unwrap()
}

/// Kind and ID of every pinned object of ours, by path; for links also the ID of the attached program.
pub(crate) fn pinned(node: &Node) -> BTreeMap<String, String> {
    let files = node.output(&format!("find {PINS} -type f"));
    let mut pinned = BTreeMap::new();
    for file in files.lines() {
        let kind = match file {
            _ if file.contains("/programs/") => "prog",
            _ if file.contains("/links/") => "link",
            _ => "map",
        };
        let object = json(node, &format!("bpftool -j {kind} show pinned {file}")).unwrap();
        let id = object["id"].as_u64().unwrap();
        pinned.insert(
            file.to_owned(),
            format!("{kind} {id} {}", object["prog_id"].as_u64().unwrap_or_default()),
        );
    }
    pinned
}

/// Output of a command that may fail because there is nothing.
trait Lenient {
    fn output(&self, command: &str) -> String;
}

impl Lenient for Node {
    fn output(&self, command: &str) -> String {
        self.space().output(command).unwrap().stdout
    }
}

/// Numbered datagrams to and fro between the first pods of two nodes, every 5 ms.
pub(crate) struct Traffic {
    stream: UdpStream,
    _echo: UdpEcho,
}

impl Traffic {
    pub(crate) fn start(testbed: &Testbed, from: u8, to: u8) -> Self {
        let (client, server) = (testbed.pod(from, 1).unwrap(), testbed.pod(to, 1).unwrap());
        assert_reach(testbed, from, to);
        let address = SocketAddrV4::new(server.address(), PORT + u16::from(from));
        let echo = UdpEcho::start(server.space(), address).unwrap();
        let stream = UdpStream::start(client.space(), address, Duration::from_millis(5), 100).unwrap();
        Self { stream, _echo: echo }
    }

    /// Ends the traffic, of which nothing may have been lost, doubled or damaged.
    pub(crate) fn stop(self) {
        let report = self.stream.stop().unwrap().expect_perfect().unwrap();
        assert!(report.sent > 50, "{report:?} proves nothing");
    }
}

/// The first pods of the two nodes reach each other.
pub(crate) fn assert_reach(testbed: &Testbed, from: u8, to: u8) {
    let (client, server) = (testbed.pod(from, 1).unwrap(), testbed.pod(to, 1).unwrap());
    let options = PingOptions {
        count: 5,
        ..PingOptions::default()
    };
    ping(client.space(), server.address(), &options)
        .unwrap()
        .expect_lossless()
        .unwrap();
}
