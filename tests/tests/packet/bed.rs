//! Where a program is run on one packet (`BPF_PROG_TEST_RUN`): a private network namespace with an underlay device, the
//! programs with maps of their own, and the outcome as one value, so that a test asserts everything that happened.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie};
use aya::programs::{SchedClassifier, TcAttachType, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, sendto, socket};
use nix::unistd::Pid;
use overlay_agent::dataplane::{OBJECT, kernel_fib_flags};
use overlay_common::addr::{Addr, MaskedPrefix, V4_MAPPED_BITS};
use overlay_common::config::{ABI_VERSION, Config, FLAG_ENFORCE_PEERS, LOG_OFF};
use overlay_common::maps::{
    self, CONFIG, EGRESS_FLOWS, INGRESS_FLOWS, PEER_STATS, PEERS, PENDING, POD_EGRESS, POD_INGRESS, SUBNETS,
    SubnetEntry, UNDERLAY_INGRESS, VTEP_EGRESS, VTEP_INGRESS,
};
use overlay_common::reason::Reason;

pub(crate) mod memory;
mod outcome;

pub(crate) use self::outcome::{Counters, Outcome, Peers};

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
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 254);
/// MAC address of the router on the link.
const ROUTER_MAC: [u8; 6] = [2, 0xbb, 0, 0, 0, 0xfe];
/// MAC address of [`NEAR`] on the link.
pub(crate) const NEAR_MAC: [u8; 6] = [2, 0xbb, 0, 0, 0, 2];
/// MAC address of this node's VTEP device.
pub(crate) const VTEP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Host sides of two pods' veths.
pub(crate) const POD: &str = "pod0";
pub(crate) const OTHER_POD: &str = "pod1";
/// The pod's side of its veth.
pub(crate) const INSIDE: &str = "inside0";

/// Sizes of maps that would be large.
const STATS_SLOTS: u32 = 8;
const FLOWS: u32 = 1024;
/// `PENDING` slots of each CPU.
pub(crate) const SLOTS_PER_CPU: u32 = 8;

/// A peer of the bed: VTEP, its device's MAC address, its pod subnet (all `/24`), its place in the statistics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) vtep: Ipv4Addr,
    pub(crate) mac: [u8; 6],
    pub(crate) subnet: Ipv4Addr,
    /// Its slot of `PEER_STATS`.
    pub(crate) stats: u32,
    /// MAC address of the next hop towards it.
    pub(crate) next_hop_mac: [u8; 6],
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
    stats: 3,
    next_hop_mac: NEAR_MAC,
    subnet: Ipv4Addr::new(10, 244, 2, 0),
};
/// Behind a router.
pub(crate) const FAR: Peer = Peer {
    vtep: Ipv4Addr::new(10, 9, 9, 9),
    mac: [2, 0, 0, 0, 0, 3],
    stats: 0,
    next_hop_mac: ROUTER_MAC,
    subnet: Ipv4Addr::new(10, 244, 3, 0),
};
/// Behind a route with a locked MTU of 1400.
pub(crate) const NARROW: Peer = Peer {
    vtep: Ipv4Addr::new(10, 9, 8, 8),
    mac: [2, 0, 0, 0, 0, 4],
    stats: 6,
    next_hop_mac: ROUTER_MAC,
    subnet: Ipv4Addr::new(10, 244, 4, 0),
};
/// Without any route.
pub(crate) const LOST: Peer = Peer {
    vtep: Ipv4Addr::new(203, 0, 113, 7),
    mac: [2, 0, 0, 0, 0, 5],
    stats: 1,
    next_hop_mac: [0; 6],
    subnet: Ipv4Addr::new(10, 244, 5, 0),
};

pub(crate) const PEER_LIST: [Peer; 4] = [NEAR, FAR, NARROW, LOST];

/// The address of a pod of this node.
pub(crate) const fn local_pod(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, host)
}

/// Fields of `__sk_buff` that a packet arrives with.
#[derive(Clone, Copy, Default)]
pub(crate) struct Context {
    pub(crate) mark: u32,
    pub(crate) priority: u32,
    /// Index of the device; the underlay's if 0.
    pub(crate) ifindex: u32,
    pub(crate) gso_size: u32,
    pub(crate) gso_segs: u32,
}

/// The programs, loaded, with maps of their own.
pub(crate) struct Bed {
    ebpf: Ebpf,
    underlay_ifindex: u32,
    /// The CPU that everything of this bed runs on.
    pub(crate) cpu: u32,
}

/// CPUs are handed out in turn: a program's per-CPU state must be right on each of them.
static NEXT_CPU: AtomicUsize = AtomicUsize::new(0);

/// Runs `test` with a bed in a network namespace of its own, configured with [`PEER_LIST`] and an enforced check.
pub(crate) fn with_bed(test: impl FnOnce(&mut Bed) + Send + 'static) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "packet tests load eBPF programs: run them as root, with `cargo xtask test packet`"
    );
    let result = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (needs CAP_SYS_ADMIN)");
        let cpu = NEXT_CPU.fetch_add(1, Ordering::Relaxed) % aya::util::nr_cpus().expect("number of CPUs");
        let mut cpus = CpuSet::new();
        cpus.set(cpu).expect("a CPU of this machine");
        sched_setaffinity(Pid::from_raw(0), &cpus).expect("a CPU that is online");
        let mut bed = Bed::new(u32::try_from(cpu).expect("a small number"));
        test(&mut bed);
    })
    .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

impl Bed {
    fn new(cpu: u32) -> Self {
        // No packets but the tests' own.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("disable_ipv6");
        for line in [
            "link set lo up".to_owned(),
            format!(
                "link add {UNDERLAY} address {} type veth peer name wire0",
                mac_text(UNDERLAY_MAC)
            ),
            "link set wire0 up".to_owned(),
            format!("link set {UNDERLAY} up"),
            format!("link add {POD} type veth peer name {INSIDE}"),
            format!("link set {INSIDE} up"),
            format!("link set {POD} up"),
            format!("link add {OTHER_POD} type veth peer name inside1"),
            format!("addr add {VTEP}/24 dev {UNDERLAY}"),
            format!("addr add {OTHER_LOCAL}/24 dev {UNDERLAY}"),
            format!(
                "neigh add {} lladdr {} dev {UNDERLAY}",
                NEAR.vtep,
                mac_text(NEAR_MAC)
            ),
            format!(
                "neigh add {ROUTER} lladdr {} dev {UNDERLAY}",
                mac_text(ROUTER_MAC)
            ),
            format!("route add 10.9.9.0/24 via {ROUTER}"),
            format!("route add 10.9.8.0/24 via {ROUTER} mtu lock 1400"),
        ] {
            ip(&line);
        }
        // bpf_fib_lookup answers only for devices that forward, as every node of a cluster does.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("net.ipv4.ip_forward");
        let ebpf = EbpfLoader::new()
            .map_max_entries(PEER_STATS, STATS_SLOTS)
            .map_max_entries(EGRESS_FLOWS, FLOWS)
            .map_max_entries(INGRESS_FLOWS, FLOWS)
            .map_max_entries(PENDING, SLOTS_PER_CPU * (cpu + 1))
            .load(OBJECT)
            .expect("the embedded object");
        let mut bed = Self {
            ebpf,
            underlay_ifindex: ifindex(UNDERLAY),
            cpu,
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
        let mut peers: HashMap<_, Addr, maps::Peer> =
            self.ebpf.map_mut(PEERS).expect(PEERS).try_into().expect("a hash");
        let known = maps::Peer::new(
            MaskedPrefix::new(addr(peer.subnet), V4_MAPPED_BITS + 24),
            peer.stats,
        );
        peers.insert(addr(peer.vtep), known, 0).expect("write PEERS");
        self.add_subnet(peer.subnet, 24, peer);
    }

    /// Takes a peer out of `PEERS`; `SUBNETS` still leads to it.
    pub(crate) fn remove_peer(&mut self, peer: &Peer) {
        let mut peers: HashMap<_, Addr, maps::Peer> =
            self.ebpf.map_mut(PEERS).expect(PEERS).try_into().expect("a hash");
        peers.remove(&addr(peer.vtep)).expect("a known peer");
    }

    /// Runs `vtep_egress` on a frame that the stack routed to the VTEP device.
    pub(crate) fn egress(&mut self, frame: &[u8], context: Context) -> Outcome {
        self.run(VTEP_EGRESS, frame, context)
    }

    /// Runs `underlay_ingress` on a frame that arrived on the underlay device.
    pub(crate) fn ingress(&mut self, frame: &[u8]) -> Outcome {
        self.ingress_with(frame, Context::default())
    }

    pub(crate) fn ingress_with(&mut self, frame: &[u8], context: Context) -> Outcome {
        self.run(UNDERLAY_INGRESS, frame, context)
    }

    /// Runs `vtep_ingress` on a frame that the VTEP device has decapsulated.
    pub(crate) fn vtep_ingress(&mut self, frame: &[u8], context: Context) -> Outcome {
        self.run(VTEP_INGRESS, frame, context)
    }

    /// Runs `pod_ingress` on a frame that came from a pod.
    pub(crate) fn pod_ingress(&mut self, frame: &[u8], context: Context) -> Outcome {
        self.run(POD_INGRESS, frame, context)
    }

    /// Runs `pod_egress` on a frame that the stack sends to a pod.
    pub(crate) fn pod_egress(&mut self, frame: &[u8], context: Context) -> Outcome {
        self.run(POD_EGRESS, frame, context)
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

    /// Attaches `pod_ingress` to the pod's device, for copies of packets that come in there.
    pub(crate) fn attach_pod_ingress(&mut self) {
        program(&mut self.ebpf, POD_INGRESS)
            .attach(POD, TcAttachType::Ingress)
            .expect("attach pod_ingress");
    }

    /// Attaches `underlay_ingress` to the underlay device.
    pub(crate) fn attach_underlay_ingress(&mut self) {
        program(&mut self.ebpf, UNDERLAY_INGRESS)
            .attach(UNDERLAY, TcAttachType::Ingress)
            .expect("attach underlay_ingress");
    }

    /// Everything that is counted while `action` runs and until `last` has been counted, too.
    pub(crate) fn count_until(&mut self, last: Reason, action: impl FnOnce(&mut Self)) -> (Counters, Peers) {
        let before = self.totals();
        action(self);
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let changes = self.totals().since(&before);
            if changes.0.contains_key(last.label()) || Instant::now() > deadline {
                return changes;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn run(&mut self, name: &str, frame: &[u8], context: Context) -> Outcome {
        let before = self.totals();
        let outcome = self.run_uncounted(name, frame, context);
        let (counters, peers) = self.totals().since(&before);
        Outcome {
            counters,
            peers,
            ..outcome
        }
    }

    /// Runs a program without looking at what it counts, which takes longer than the program.
    pub(crate) fn run_uncounted(&mut self, name: &str, frame: &[u8], context: Context) -> Outcome {
        let mut bytes = vec![0; frame.len() + 256];
        let ctx = sk_buff(self.underlay_ifindex, context);
        let mut ctx_out = ctx;
        let result = program(&mut self.ebpf, name)
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut bytes),
                ctx_in: Some(&ctx),
                ctx_out: Some(&mut ctx_out),
                ..TestRunOptions::new()
            })
            .expect("BPF_PROG_TEST_RUN");
        bytes.truncate(result.data_size_out as usize);
        let field = |offset: usize, before: u32| {
            let [a, b, c, d, ..] = ctx_out[offset..] else {
                unreachable!("a whole __sk_buff")
            };
            let after = u32::from_ne_bytes([a, b, c, d]);
            (after != before).then_some(after)
        };
        Outcome {
            verdict: result.return_value.cast_signed(),
            bytes,
            marked: field(MARK, context.mark),
            priority: field(PRIORITY, context.priority),
            counters: Counters::new(),
            peers: Peers::new(),
        }
    }
}

/// The program, loaded: each test loads those that it runs.
fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    let program: &mut SchedClassifier = ebpf
        .program_mut(name)
        .expect("a program of the object")
        .try_into()
        .expect("a TC program");
    if program.fd().is_err() {
        program.load().expect("accepted by the verifier");
    }
    program
}

/// Sends a frame out of a device of the bed; of a veth's it arrives at the other side's ingress hook.
pub(crate) fn send_out_of(device: &str, frame: &[u8]) {
    let address = getifaddrs()
        .expect("the devices of the bed")
        .filter(|interface| interface.interface_name == device)
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .expect("a device of the bed");
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).expect("a packet socket");
    let sent = sendto(socket.as_raw_fd(), frame, &address, MsgFlags::empty()).expect("a device that is up");
    assert_eq!(sent, frame.len());
}

pub(crate) fn addr(ip: Ipv4Addr) -> Addr {
    Addr::from(IpAddr::V4(ip))
}

/// The index of a device of the bed.
pub(crate) fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("a device of the bed")
}

/// Offset of `mark` in `struct __sk_buff`.
const MARK: usize = 8;
/// Offset of `priority` in it.
const PRIORITY: usize = 32;

/// `struct __sk_buff` of `linux/bpf.h` with the fields that `BPF_PROG_TEST_RUN` lets a caller set.
fn sk_buff(underlay: u32, context: Context) -> [u8; 192] {
    let mut bytes = [0; 192];
    let ifindex = if context.ifindex == 0 {
        underlay
    } else {
        context.ifindex
    };
    for (offset, value) in [
        (MARK, context.mark),
        (PRIORITY, context.priority),
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
