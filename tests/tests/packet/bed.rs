//! Where a program is run on one packet (`BPF_PROG_TEST_RUN`): a private network namespace with an underlay device, the
//! programs with maps of their own, and the outcome as one value, so that a test asserts everything that happened.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::thread;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, PerCpuArray, PerCpuHashMap};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use overlay_agent::dataplane::{OBJECT, kernel_fib_flags};
use overlay_common::addr::{Addr, MaskedPrefix, V4_MAPPED_BITS};
use overlay_common::config::{ABI_VERSION, Config, FLAG_ENFORCE_PEERS, LOG_OFF};
use overlay_common::maps::{
    self, CONFIG, COUNTERS, Counter, PEERS, PeerStats, SUBNETS, SubnetEntry, UNDERLAY_INGRESS, VTEP_EGRESS,
};
use overlay_common::reason::Reason;

/// "Left unchanged, ask the next program": `TC_ACT_UNSPEC`, which is also `TCX_NEXT`.
pub(crate) const PASS: i32 = -1;
/// `TC_ACT_SHOT`.
pub(crate) const DROP: i32 = 2;
/// `TC_ACT_REDIRECT`.
pub(crate) const REDIRECT: i32 = 7;

/// The underlay device of the bed.
pub(crate) const UNDERLAY: &str = "under0";
/// Its address on the link.
pub(crate) const UNDERLAY_MAC: [u8; 6] = [2, 0xaa, 0, 0, 0, 1];
/// This node's VTEP.
pub(crate) const VTEP: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
/// A second local address of this node, which is no VTEP.
pub(crate) const OTHER_LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 11);
/// An address that this node would forward to.
pub(crate) const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 77);
/// The router that the peers off the link are behind.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 254);
/// MAC address of this node's VTEP device.
pub(crate) const VTEP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A peer of the bed: VTEP, its device's MAC address, its pod subnet (all `/24`).
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) vtep: Ipv4Addr,
    pub(crate) mac: [u8; 6],
    pub(crate) subnet: Ipv4Addr,
}

impl Peer {
    /// The address of a pod of the peer.
    pub(crate) const fn pod(&self, host: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.subnet.octets();
        Ipv4Addr::new(a, b, c, host)
    }
}

/// On the underlay's own link.
pub(crate) const NEAR: Peer = Peer {
    vtep: Ipv4Addr::new(192, 168, 0, 2),
    mac: [2, 0, 0, 0, 0, 2],
    subnet: Ipv4Addr::new(10, 244, 2, 0),
};
/// Behind a router.
pub(crate) const FAR: Peer = Peer {
    vtep: Ipv4Addr::new(10, 9, 9, 9),
    mac: [2, 0, 0, 0, 0, 3],
    subnet: Ipv4Addr::new(10, 244, 3, 0),
};
/// Behind a route with a locked MTU of 1400.
pub(crate) const NARROW: Peer = Peer {
    vtep: Ipv4Addr::new(10, 9, 8, 8),
    mac: [2, 0, 0, 0, 0, 4],
    subnet: Ipv4Addr::new(10, 244, 4, 0),
};
/// Without any route.
pub(crate) const LOST: Peer = Peer {
    vtep: Ipv4Addr::new(203, 0, 113, 7),
    mac: [2, 0, 0, 0, 0, 5],
    subnet: Ipv4Addr::new(10, 244, 5, 0),
};

const PEER_LIST: [Peer; 4] = [NEAR, FAR, NARROW, LOST];

/// The address of a pod of this node.
pub(crate) const fn local_pod(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, host)
}

/// Everything that a program did with one packet.
#[derive(PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: i32,
    pub(crate) bytes: Vec<u8>,
    /// Every counter that changed, with the difference.
    pub(crate) counters: BTreeMap<&'static str, (u64, u64)>,
    /// Every peer whose statistics changed, with the difference: tx packets, tx bytes, rx packets, rx bytes.
    pub(crate) peers: BTreeMap<IpAddr, [u64; 4]>,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self
            .bytes
            .iter()
            .take(120)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        f.debug_struct("Outcome")
            .field("verdict", &self.verdict)
            .field("len", &self.bytes.len())
            .field("bytes", &headers.join(" "))
            .field("counters", &self.counters)
            .field("peers", &self.peers)
            .finish()
    }
}

/// Fields of `__sk_buff` that a packet arrives with.
#[derive(Clone, Copy, Default)]
pub(crate) struct Context {
    pub(crate) mark: u32,
    pub(crate) gso_size: u32,
    pub(crate) gso_segs: u32,
}

/// The programs, loaded, with maps of their own.
pub(crate) struct Bed {
    ebpf: Ebpf,
    underlay_ifindex: u32,
}

/// Runs `test` with a bed in a network namespace of its own, configured with [`PEER_LIST`] and an enforced check.
pub(crate) fn with_bed(test: impl FnOnce(&mut Bed) + Send + 'static) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "packet tests load eBPF programs: run them as root, with `cargo xtask test packet`"
    );
    let result = thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("a network namespace (needs CAP_SYS_ADMIN)");
        let mut bed = Bed::new();
        test(&mut bed);
    })
    .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

impl Bed {
    fn new() -> Self {
        for line in [
            "link set lo up".to_owned(),
            format!(
                "link add {UNDERLAY} address {} type veth peer name wire0",
                mac_text(UNDERLAY_MAC)
            ),
            "link set wire0 up".to_owned(),
            format!("link set {UNDERLAY} up"),
            format!("addr add {VTEP}/24 dev {UNDERLAY}"),
            format!("addr add {OTHER_LOCAL}/24 dev {UNDERLAY}"),
            format!("neigh add {} lladdr 02:bb:00:00:00:02 dev {UNDERLAY}", NEAR.vtep),
            format!("neigh add {ROUTER} lladdr 02:bb:00:00:00:fe dev {UNDERLAY}"),
            format!("route add 10.9.9.0/24 via {ROUTER}"),
            format!("route add 10.9.8.0/24 via {ROUTER} mtu lock 1400"),
        ] {
            ip(&line);
        }
        // bpf_fib_lookup answers only for devices that forward, as every node of a cluster does.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("net.ipv4.ip_forward");
        let ifindex = nix::net::if_::if_nametoindex(UNDERLAY).expect("the underlay's index");
        let mut ebpf = EbpfLoader::new().load(OBJECT).expect("the embedded object");
        for name in [VTEP_EGRESS, UNDERLAY_INGRESS] {
            program(&mut ebpf, name).load().expect("accepted by the verifier");
        }
        let mut bed = Self {
            ebpf,
            underlay_ifindex: ifindex,
        };
        for peer in PEER_LIST {
            bed.add_peer(&peer);
        }
        let config = bed.default_config();
        bed.configure(config);
        bed
    }

    /// A configuration as the agent writes it: VNI 1, port 8472, subnet 10.244.1.0/24, check enforced.
    pub(crate) fn default_config(&self) -> Config {
        Config {
            abi: ABI_VERSION,
            flags: FLAG_ENFORCE_PEERS,
            log_level: LOG_OFF,
            underlay_ifindex: self.underlay_ifindex,
            fib_flags: kernel_fib_flags().expect("the kernel version"),
            source_port_min: 32_768,
            source_port_max: 60_999,
            port: 8472u16.to_be_bytes(),
            ttl: 64,
            vni: [0, 0, 1],
            vtep_mac: VTEP_MAC,
            max_segment: 1500,
            vtep: addr(VTEP),
            subnet_v4: MaskedPrefix::new(addr(local_pod(0)), V4_MAPPED_BITS + 24),
            ..Config::UNCONFIGURED
        }
    }

    pub(crate) fn configure(&mut self, config: Config) {
        let mut map: Array<_, Config> = self
            .ebpf
            .map_mut(CONFIG)
            .expect(CONFIG)
            .try_into()
            .expect("an array of Config");
        map.set(0, config, 0).expect("write CONFIG");
    }

    pub(crate) fn add_peer(&mut self, peer: &Peer) {
        let cpus = aya::util::nr_cpus().expect("number of CPUs");
        let mut peers: PerCpuHashMap<_, Addr, maps::Peer> = self
            .ebpf
            .map_mut(PEERS)
            .expect(PEERS)
            .try_into()
            .expect("a per-CPU hash");
        let known = maps::Peer::new(MaskedPrefix::new(addr(peer.subnet), V4_MAPPED_BITS + 24));
        let copies = aya::maps::PerCpuValues::try_from(vec![known; cpus]).expect("one per CPU");
        peers.insert(addr(peer.vtep), copies, 0).expect("write PEERS");
        self.add_subnet(peer.subnet, 24, peer);
    }

    /// Runs `vtep_egress` on a frame that the stack routed to the VTEP device.
    pub(crate) fn egress(&mut self, frame: &[u8], context: Context) -> Outcome {
        self.run(VTEP_EGRESS, frame, context)
    }

    /// Runs `underlay_ingress` on a frame that arrived on the underlay device.
    pub(crate) fn ingress(&mut self, frame: &[u8]) -> Outcome {
        self.run(UNDERLAY_INGRESS, frame, Context::default())
    }

    /// Adds a more specific subnet for a peer.
    pub(crate) fn add_subnet(&mut self, network: Ipv4Addr, bits: u32, peer: &Peer) {
        let mut subnets: LpmTrie<_, Addr, SubnetEntry> = self
            .ebpf
            .map_mut(SUBNETS)
            .expect(SUBNETS)
            .try_into()
            .expect("an LPM trie");
        subnets
            .insert(
                &Key::new(V4_MAPPED_BITS + bits, addr(network)),
                SubnetEntry::new(addr(peer.vtep), peer.mac),
                0,
            )
            .expect("write SUBNETS");
    }

    fn run(&mut self, name: &str, frame: &[u8], context: Context) -> Outcome {
        let (counters, peers) = (self.counters(), self.peers());
        let mut bytes = vec![0; frame.len() + 256];
        let ctx = sk_buff(self.underlay_ifindex, context);
        let result = program(&mut self.ebpf, name)
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut bytes),
                ctx_in: Some(&ctx),
                ..TestRunOptions::new()
            })
            .expect("BPF_PROG_TEST_RUN");
        bytes.truncate(result.data_size_out as usize);
        Outcome {
            verdict: result.return_value.cast_signed(),
            bytes,
            counters: Reason::ALL
                .into_iter()
                .zip(counters.into_iter().zip(self.counters()))
                .filter(|(_, (before, after))| before != after)
                .map(|(reason, (before, after))| {
                    (
                        reason.label(),
                        (after.packets - before.packets, after.bytes - before.bytes),
                    )
                })
                .collect(),
            peers: self
                .peers()
                .into_iter()
                .map(|(vtep, after)| (vtep, (peers.get(&vtep).copied().unwrap_or_default(), after)))
                .filter(|(_, (before, after))| before != after)
                .map(|(vtep, (before, after))| {
                    let delta = [
                        after.tx_packets - before.tx_packets,
                        after.tx_bytes - before.tx_bytes,
                        after.rx_packets - before.rx_packets,
                        after.rx_bytes - before.rx_bytes,
                    ];
                    (vtep, delta)
                })
                .collect(),
        }
    }

    fn counters(&self) -> Vec<Counter> {
        let map: PerCpuArray<_, Counter> = self
            .ebpf
            .map(COUNTERS)
            .expect(COUNTERS)
            .try_into()
            .expect("a per-CPU array");
        Reason::ALL
            .into_iter()
            .map(|reason| {
                let values = map.get(&(reason as u32), 0).expect("read COUNTERS");
                values.iter().copied().fold(Counter::default(), Counter::plus)
            })
            .collect()
    }

    fn peers(&self) -> BTreeMap<IpAddr, PeerStats> {
        let map: PerCpuHashMap<_, Addr, maps::Peer> = self
            .ebpf
            .map(PEERS)
            .expect(PEERS)
            .try_into()
            .expect("a per-CPU hash");
        map.iter()
            .map(|entry| {
                let (vtep, values) = entry.expect("read PEERS");
                (
                    vtep.into(),
                    values
                        .iter()
                        .map(|peer| peer.stats)
                        .fold(PeerStats::ZERO, PeerStats::plus),
                )
            })
            .collect()
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    ebpf.program_mut(name)
        .expect("a program of the object")
        .try_into()
        .expect("a TC program")
}

pub(crate) fn addr(ip: Ipv4Addr) -> Addr {
    Addr::from(IpAddr::V4(ip))
}

/// `struct __sk_buff` of `linux/bpf.h` with the fields that `BPF_PROG_TEST_RUN` lets a caller set.
fn sk_buff(ifindex: u32, context: Context) -> [u8; 192] {
    let mut bytes = [0; 192];
    for (offset, value) in [
        (8, context.mark),
        (36, ifindex),
        (40, ifindex),
        (164, context.gso_segs),
        (176, context.gso_size),
    ] {
        bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Runs `ip` in this thread's network namespace.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("the ip command (iproute2)");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
