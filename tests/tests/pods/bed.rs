//! What every test starts from, and how it looks at a node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use overlay_agent::dataplane::OBJECT_HASH;
use overlay_common::flow::{DEVICE_EPOCH_SLOTS, ENDPOINT_FAST, Endpoint};
use overlay_common::maps::{DEVICE_EPOCHS, ENDPOINTS, POD_EGRESS, POD_INGRESS, SHORTCUTS};
use overlay_testbed::{Agent, AgentOptions, Node, Testbed, eventually};
use serde_json::Value;

pub(crate) const PINS: &str = AgentOptions::PIN_DIRECTORY;
/// Events are noticed at once; this leaves room for a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(3);
/// The two ways of attaching to pods' devices: `auto` takes TCX links where the kernel has them.
pub(crate) const MECHANISMS: [&str; 2] = ["clsact", "tcx"];

/// One node with one pod on the bridge, `pod-1`, whose namespace takes the other ends of further veths.
pub(crate) fn testbed() -> Testbed {
    Testbed::builder().nodes(1).pods_per_node(1).build().unwrap()
}

/// An agent whose resync does not help out.
pub(crate) fn start(node: &Node, attach: &str) -> Agent {
    let options = AgentOptions::default().with_arguments(&["--resync", "3600", "--attach", attach]);
    node.start_agent(&options).unwrap()
}

/// A testbed with an agent that serves its pod.
pub(crate) fn served(attach: &str) -> (Testbed, Agent) {
    let testbed = testbed();
    testbed.publish(&testbed.leases()).unwrap();
    let node = testbed.node(1).unwrap();
    let agent = start(node, attach);
    wait_for(node, &[(node.pods()[0].host_veth(), ENDPOINT_FAST)]);
    (testbed, agent)
}

pub(crate) fn ifindex(node: &Node, device: &str) -> u32 {
    let shown: Value =
        serde_json::from_str(&node.run(&format!("ip -j link show dev {device}")).unwrap()).unwrap();
    u32::try_from(shown[0]["ifindex"].as_u64().unwrap()).unwrap()
}

/// A map that the node's agent has pinned.
pub(crate) fn map(node: &Node, name: &str) -> Result<MapData> {
    let path = node.space().path_from_outside(format!("{PINS}/{name}").as_ref());
    Ok(MapData::from_pin(path)?)
}

/// `ENDPOINTS`: index → mode.
pub(crate) fn endpoints(node: &Node) -> Result<BTreeMap<u32, u32>> {
    let map = HashMap::<_, u32, Endpoint>::try_from(Map::HashMap(map(node, ENDPOINTS)?))?;
    map.iter()
        .map(|entry| {
            entry
                .map(|(ifindex, endpoint)| (ifindex, endpoint.mode))
                .map_err(Into::into)
        })
        .collect()
}

pub(crate) fn shortcuts(node: &Node) -> u32 {
    let map = Array::<_, u32>::try_from(Map::Array(map(node, SHORTCUTS).unwrap())).unwrap();
    map.get(&0, 0).unwrap()
}

/// How often the flows of a device were forgotten.
pub(crate) fn epoch(node: &Node, ifindex: u32) -> u32 {
    let map = Array::<_, u32>::try_from(Map::Array(map(node, DEVICE_EPOCHS).unwrap())).unwrap();
    map.get(&(ifindex % DEVICE_EPOCH_SLOTS), 0).unwrap()
}

/// The kernel's ids of the TCX programs on a device.
pub(crate) fn tcx(node: &Node, device: &str, direction: TcAttachType) -> Result<Vec<u32>> {
    node.space().enter(|| {
        let (_, programs) = SchedClassifier::query_tcx(device, direction)?;
        Ok(programs.iter().map(ProgramInfo::id).collect())
    })
}

/// Programs of ours on a device: filters by their name, links by the pinned program.
pub(crate) fn programs(node: &Node, device: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (direction, attach_type, program) in [
        ("ingress", TcAttachType::Ingress, POD_INGRESS),
        ("egress", TcAttachType::Egress, POD_EGRESS),
    ] {
        let filters = node.run(&format!("tc filter show dev {device} {direction}"))?;
        let pin = format!("{PINS}/programs/{program}-{OBJECT_HASH}");
        let pin = node.space().path_from_outside(pin.as_ref());
        let ours = if pin.exists() {
            Some(ProgramInfo::from_pin(pin)?.id())
        } else {
            None
        };
        let links = tcx(node, device, attach_type)?;
        if filters.contains(program) || ours.is_some_and(|ours| links.contains(&ours)) {
            found.insert(program.to_owned());
        }
    }
    Ok(found)
}

/// Waits until exactly these devices are served, in these modes, with both programs.
pub(crate) fn wait_for(node: &Node, wanted: &[(&str, u32)]) {
    eventually(SOON, "the endpoints", || {
        let found = endpoints(node)?;
        let wanted_entries: BTreeMap<u32, u32> = wanted
            .iter()
            .map(|(device, mode)| (ifindex(node, device), *mode))
            .collect();
        ensure!(
            found == wanted_entries,
            "found {found:?}, wanted {wanted_entries:?}"
        );
        for (device, _) in wanted {
            let programs = programs(node, device)?;
            ensure!(programs.len() == 2, "{device} has {programs:?}");
        }
        Ok(())
    })
    .unwrap();
}

/// Waits until nothing of ours is on the device.
pub(crate) fn wait_bare(node: &Node, device: &str) {
    eventually(SOON, "a bare device", || {
        let programs = programs(node, device)?;
        ensure!(programs.is_empty(), "{device} has {programs:?}");
        Ok(())
    })
    .unwrap();
}

/// Everything below the pin directory that is about the device of this index.
pub(crate) fn pins_of(node: &Node, ifindex: u32) -> String {
    node.run(&format!(
        "find {PINS} ( -name pod_*-{ifindex} -o -path */qdiscs/{ifindex} )"
    ))
    .unwrap()
}

/// Adds a veth with the other end in the pod's namespace, without bridge or route.
pub(crate) fn veth(node: &Node, name: &str) {
    node.run(&format!(
        "ip link add {name} type veth peer name p{name} netns pod-1"
    ))
    .unwrap();
    node.run(&format!("ip link set {name} up")).unwrap();
}
