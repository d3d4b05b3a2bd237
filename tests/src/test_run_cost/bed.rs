//! Where the programs are measured: a network namespace with an underlay and a pod's device, and maps as an agent fills
//! them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use bytemuck::Zeroable;
use nix::net::if_::if_nametoindex;
use overlay_common::addr::{Addr, MaskedPrefix, V4_MAPPED_BITS};
use overlay_common::config::{
    ABI_VERSION, Config, FIB_LOOKUP_MARK, FIB_LOOKUP_OUTPUT, FLAG_ENFORCE_PEERS, FLAG_FASTPATH, LOG_OFF,
};
use overlay_common::flow::{EgressFlow, FLOW_NAT, FlowKey, IngressFlow, RETRY_PATIENCE, Retry, retry_slots};
use overlay_common::maps::{
    CONFIG, COUNTERS, Counter, EGRESS_FLOWS, INGRESS_FLOWS, PEERS, POD_EGRESS, POD_INGRESS, Peer, RETRIES,
    SUBNETS, SubnetEntry, UNDERLAY_INGRESS, VTEP_EGRESS, VTEP_INGRESS,
};
use overlay_common::reason::Reason;

use super::cases::{Case, Flow, Known};
use crate::exec::{self, COMMAND_TIMEOUT};

const UNDERLAY: &str = "under0";
const POD: &str = "pod0";
/// The underlay device's address on its link.
pub(super) const UNDERLAY_MAC: [u8; 6] = [2, 0xaa, 0, 0, 0, 1];
/// This node's VTEP.
pub(super) const VTEP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
/// MAC address of this node's VTEP device.
pub(super) const VTEP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// A pod of this node.
pub(super) const LOCAL_POD: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 5);
/// Its MAC address.
pub(super) const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0xb0, 5];
/// A service's address, which the stack would translate to a pod of the first peer.
pub(super) const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

const REVALIDATE: u64 = 1_000_000_000;

/// Underlay address of the peer with this number. That of the first one is resolved.
pub(super) fn peer_vtep(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(172, 17, high, low)
}

/// Address of a pod of the peer with this number.
pub(super) fn peer_pod(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, high, low, 7)
}

/// MAC address of that peer's VTEP device.
pub(super) fn peer_mac(number: u16) -> [u8; 6] {
    let [high, low] = number.to_be_bytes();
    [2, 0, 0, 1, high, low]
}

pub(super) fn addr(ip: Ipv4Addr) -> Addr {
    Addr::from(IpAddr::V4(ip))
}

pub(super) struct Bed {
    ebpf: Ebpf,
    pub(super) underlay: u32,
    pub(super) pod: u32,
    fib_flags: u32,
    peers: u16,
}

impl Bed {
    /// Makes the devices in this thread's network namespace and loads the programs of the object file at `object`.
    pub(super) fn new(object: &Path) -> Result<Self> {
        for arguments in [
            "link set lo up".to_owned(),
            format!(
                "link add {UNDERLAY} address {} type veth peer name wire0",
                mac_text(UNDERLAY_MAC)
            ),
            "link set wire0 up".to_owned(),
            format!("link set {UNDERLAY} up"),
            format!("addr add {VTEP}/12 dev {UNDERLAY}"),
            format!(
                "neigh add {} lladdr 02:bb:00:00:00:02 dev {UNDERLAY}",
                peer_vtep(0)
            ),
            format!("link add {POD} type veth peer name eth0"),
            "link set eth0 up".to_owned(),
            format!("link set {POD} up"),
        ] {
            ip(&arguments)?;
        }
        // bpf_fib_lookup answers only where packets are forwarded, as on every node of a cluster.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
            .context("cannot set net.ipv4.ip_forward in a network namespace made for measuring")?;
        let mut ebpf = EbpfLoader::new()
            .load_file(object)
            .with_context(|| format!("cannot load the eBPF object {}", object.display()))?;
        for name in [
            POD_INGRESS,
            POD_EGRESS,
            VTEP_EGRESS,
            VTEP_INGRESS,
            UNDERLAY_INGRESS,
        ] {
            program(&mut ebpf, name)?
                .load()
                .with_context(|| format!("the kernel refuses the program {name}"))?;
        }
        let newer = KernelVersion::current().context("cannot read the kernel's version")?
            >= KernelVersion::new(6, 10, 0);
        Ok(Self {
            ebpf,
            underlay: if_nametoindex(UNDERLAY).context("the underlay device's index")?,
            pod: if_nametoindex(POD).context("the pod device's index")?,
            fib_flags: FIB_LOOKUP_OUTPUT | if newer { FIB_LOOKUP_MARK } else { 0 },
            peers: 0,
        })
    }

    /// Adds peers until there are `count`.
    pub(super) fn fill(&mut self, count: u16) -> Result<()> {
        for number in self.peers..count {
            let vtep = addr(peer_vtep(number));
            let (subnet, bits) = (addr(peer_pod(number)), V4_MAPPED_BITS + 24);
            let peer = Peer::new(MaskedPrefix::new(subnet, bits), number.into());
            let mut peers: HashMap<_, Addr, Peer> = HashMap::try_from(self.map(PEERS)?)?;
            peers.insert(vtep, peer, 0).context("cannot write PEERS")?;
            let mut subnets: LpmTrie<_, Addr, SubnetEntry> = LpmTrie::try_from(self.map(SUBNETS)?)?;
            subnets
                .insert(
                    &Key::new(bits, subnet),
                    SubnetEntry::new(vtep, peer_mac(number)),
                    0,
                )
                .context("cannot write SUBNETS")?;
        }
        self.peers = self.peers.max(count);
        Ok(())
    }

    /// Brings the maps into the state that the case starts from.
    pub(super) fn prepare(&mut self, case: &Case) -> Result<()> {
        let config = self.config(case.fast_path);
        let mut map: Array<_, Config> = Array::try_from(self.map(CONFIG)?)?;
        map.set(0, config, 0).context("cannot write CONFIG")?;
        let Some(Flow { key, known }) = &case.flow else {
            return Ok(());
        };
        // The next try to learn the flow is never due: a packet without an entry is counted and nothing else.
        let tag = key.tag();
        let retry = Retry {
            tag,
            count: RETRY_PATIENCE + 1,
            until: u64::MAX,
        };
        let [slot, _] = retry_slots(tag);
        let mut retries: Array<_, Retry> = Array::try_from(self.map(RETRIES)?)?;
        retries.set(slot, retry, 0).context("cannot write RETRIES")?;
        match *known {
            Known::Nothing => {}
            Known::Egress { validated, state } => {
                let flow = self.egress_flow(key, validated, state);
                let mut flows: HashMap<_, FlowKey, EgressFlow> = HashMap::try_from(self.map(EGRESS_FLOWS)?)?;
                flows.insert(key, flow, 0).context("cannot write EGRESS_FLOWS")?;
            }
            Known::Ingress { validated, state } => {
                let flow = self.ingress_flow(key, validated, state);
                let mut flows: HashMap<_, FlowKey, IngressFlow> =
                    HashMap::try_from(self.map(INGRESS_FLOWS)?)?;
                flows.insert(key, flow, 0).context("cannot write INGRESS_FLOWS")?;
            }
        }
        Ok(())
    }

    /// Runs the case's program `repeat` times on its packet. Returns nanoseconds per run.
    pub(super) fn run(&mut self, case: &Case, repeat: u32) -> Result<f64> {
        let context = sk_buff(case.ifindex);
        let result = program(&mut self.ebpf, case.program)?
            .test_run(TestRunOptions {
                data_in: Some(&case.frame),
                ctx_in: Some(&context),
                repeat,
                ..TestRunOptions::new()
            })
            .context("BPF_PROG_TEST_RUN")?;
        Ok(result.duration.as_secs_f64() * 1e9)
    }

    /// Packets counted so far, for each reason in the order of [`Reason::ALL`].
    pub(super) fn counters(&mut self) -> Result<Vec<u64>> {
        let map: PerCpuArray<_, Counter> = PerCpuArray::try_from(self.map(COUNTERS)?)?;
        Reason::ALL
            .into_iter()
            .map(|reason| {
                let copies = map.get(&(reason as u32), 0).context("cannot read COUNTERS")?;
                Ok(copies
                    .iter()
                    .fold(0, |sum: u64, copy| sum.wrapping_add(copy.packets)))
            })
            .collect()
    }

    /// Fails unless exactly `packets` have been counted since `before`, for the case's reason.
    pub(super) fn check(&mut self, case: &Case, before: &[u64], packets: u64) -> Result<()> {
        let after = self.counters()?;
        let changed: Vec<(Reason, u64)> = Reason::ALL
            .into_iter()
            .zip(after.into_iter().zip(before))
            .map(|(reason, (after, before))| (reason, after.wrapping_sub(*before)))
            .filter(|(_, packets)| *packets != 0)
            .collect();
        let expected: Vec<(Reason, u64)> = case.reason.map(|reason| (reason, packets)).into_iter().collect();
        ensure!(
            changed == expected,
            "the packets took another way than the one to be measured: counted were {changed:?}, not {expected:?}"
        );
        Ok(())
    }

    fn config(&self, fast_path: bool) -> Config {
        Config {
            abi: ABI_VERSION,
            flags: FLAG_ENFORCE_PEERS | if fast_path { FLAG_FASTPATH } else { 0 },
            log_level: LOG_OFF,
            underlay_ifindex: self.underlay,
            fib_flags: self.fib_flags,
            source_port_min: 32_768,
            source_port_max: 60_999,
            port: 8472_u16.to_be_bytes(),
            ttl: 64,
            vni: [0, 0, 1],
            vtep_mac: VTEP_MAC,
            max_segment: 1500,
            vtep: addr(VTEP),
            subnet_v4: MaskedPrefix::new(addr(LOCAL_POD), V4_MAPPED_BITS + 24),
            epoch: 1,
            mark_mask: 0xffff_0000,
            mark_shift: 16,
            slots_per_cpu: 1024,
            revalidate: REVALIDATE,
            ..Config::UNCONFIGURED
        }
    }

    /// An entry as `vtep_egress` writes it, for packets to a pod of the first peer or, with NAT, to [`SERVICE`].
    fn egress_flow(&self, key: &FlowKey, validated: u64, state: u32) -> EgressFlow {
        let mut flow = EgressFlow::zeroed();
        flow.tag = key.tag();
        flow.epoch = 1;
        (flow.validated, flow.probed) = (validated, validated);
        flow.state = state;
        flow.ifindex = self.pod;
        flow.vtep = addr(peer_vtep(0));
        flow.dst = addr(peer_pod(0));
        flow.vtep_mac = peer_mac(0);
        flow.pod_mac = POD_MAC;
        flow.dst_port = key.dst_port;
        flow.source_port = 40_000_u16.to_be_bytes();
        flow
    }

    /// An entry as `pod_egress` writes it, for packets from a pod of the first peer.
    fn ingress_flow(&self, key: &FlowKey, validated: u64, state: u32) -> IngressFlow {
        let mut flow = IngressFlow::zeroed();
        flow.tag = key.tag();
        flow.epoch = 1;
        (flow.validated, flow.probed) = (validated, validated);
        flow.state = state;
        flow.ifindex = self.pod;
        flow.vtep = addr(peer_vtep(0));
        flow.src = if state & FLOW_NAT != 0 {
            addr(SERVICE)
        } else {
            key.src
        };
        flow.src_port = key.src_port;
        flow.dst_mac = POD_MAC;
        flow.src_mac = [2, 0, 0, 0, 0xb0, 1];
        flow
    }

    fn map(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf
            .map_mut(name)
            .ok_or_else(|| anyhow!("the eBPF object has no map {name}: it is not of this version"))
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    ebpf.program_mut(name)
        .ok_or_else(|| anyhow!("the eBPF object has no program {name}: it is not of this version"))?
        .try_into()
        .with_context(|| format!("{name} is no TC program"))
}

/// `struct __sk_buff` of `linux/bpf.h` for a packet on this device.
fn sk_buff(ifindex: u32) -> [u8; 192] {
    const INGRESS_IFINDEX: usize = 36;
    const IFINDEX: usize = 40;
    let mut bytes = [0; 192];
    for offset in [INGRESS_IFINDEX, IFINDEX] {
        if let Some(field) = bytes.get_mut(offset..offset + 4) {
            field.copy_from_slice(&ifindex.to_ne_bytes());
        }
    }
    bytes
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Runs `ip` in this thread's network namespace.
fn ip(arguments: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace());
    exec::run(command, &format!("ip {arguments}"), None, COMMAND_TIMEOUT)?.success()?;
    Ok(())
}
