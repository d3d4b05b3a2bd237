//! What is kept, adopted, removed and left alone.

use anyhow::ensure;
use aya::EbpfLoader;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use overlay_agent::dataplane::OBJECT;
use overlay_common::flow::ENDPOINT_FAST;
use overlay_common::maps::POD_EGRESS;
use overlay_testbed::{Node, eventually};

use crate::bed::{
    MECHANISMS, PINS, SOON, endpoints, epoch, ifindex, pins_of, served, start, tcx, veth, wait_bare, wait_for,
};

/// Everything that tells a new attachment from an old one.
fn attachments(node: &Node, device: &str) -> String {
    let mut text = node.run(&format!("bpftool net show dev {device}")).unwrap();
    for direction in ["ingress", "egress"] {
        text += &node
            .run(&format!("tc filter show dev {device} {direction}"))
            .unwrap();
    }
    text + &node.run(&format!("find {PINS}/links -name pod_*")).unwrap()
}

#[test]
fn a_killed_agent_is_followed_by_one_that_adopts() {
    for attach in MECHANISMS {
        let (testbed, agent) = served(attach);
        let node = testbed.node(1).unwrap();
        let first = node.pods()[0].host_veth();
        for name in ["stays", "ends"] {
            veth(node, name);
            node.run(&format!("ip link set {name} master cni0")).unwrap();
        }
        wait_for(
            node,
            &[
                (first, ENDPOINT_FAST),
                ("stays", ENDPOINT_FAST),
                ("ends", ENDPOINT_FAST),
            ],
        );
        let (kept, ended) = (ifindex(node, "stays"), ifindex(node, "ends"));
        let (before, kept_epoch, ended_epoch) =
            (attachments(node, "stays"), epoch(node, kept), epoch(node, ended));
        agent.kill9().unwrap();
        node.run("ip link del ends").unwrap();
        let _agent = start(node, attach);
        wait_for(node, &[(first, ENDPOINT_FAST), ("stays", ENDPOINT_FAST)]);
        eventually(SOON, "no pins of the device that ended", || {
            let pins = pins_of(node, ended);
            ensure!(pins.is_empty(), "{pins}");
            Ok(())
        })
        .unwrap();
        let gone = |text: &str| -> Vec<String> {
            text.lines()
                .filter(|line| !line.ends_with(&format!("-{ended}")))
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(
            gone(&attachments(node, "stays")),
            gone(&before),
            "nothing is attached anew"
        );
        assert_eq!(epoch(node, kept), kept_epoch, "its flows stay");
        assert!(epoch(node, ended) > ended_epoch, "its flows must be forgotten");
    }
}

#[test]
fn a_deleted_pod_leaves_nothing() {
    for attach in MECHANISMS {
        let (testbed, _agent) = served(attach);
        let node = testbed.node(1).unwrap();
        let first = node.pods()[0].host_veth();
        let index = ifindex(node, first);
        let before = epoch(node, index);
        assert!(!pins_of(node, index).is_empty());
        // What the CNI plugin does.
        node.run("ip -n pod-1 link del eth0").unwrap();
        eventually(SOON, "nothing of the pod", || {
            let pins = pins_of(node, index);
            ensure!(
                pins.is_empty() && endpoints(node)?.is_empty(),
                "{pins} {:?}",
                endpoints(node)?
            );
            Ok(())
        })
        .unwrap();
        assert!(epoch(node, index) > before, "its flows must be forgotten");
    }
}

#[test]
fn what_somebody_detaches_comes_back() {
    let (testbed, _agent) = served("clsact");
    let node = testbed.node(1).unwrap();
    let first = node.pods()[0].host_veth();
    for command in [
        format!("tc filter del dev {first} ingress"),
        format!("tc qdisc del dev {first} clsact"),
    ] {
        node.run(&command).unwrap();
        wait_for(node, &[(first, ENDPOINT_FAST)]);
    }
}

#[test]
fn cleanup_takes_everything_of_pods() {
    for attach in MECHANISMS {
        let (testbed, agent) = served(attach);
        let node = testbed.node(1).unwrap();
        let first = node.pods()[0].host_veth();
        agent.stop().unwrap();
        node.agent_command(&["cleanup"]).unwrap().success().unwrap();
        wait_bare(node, first);
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            assert_eq!(tcx(node, first, direction).unwrap(), [0; 0]);
        }
        let qdiscs = node.run(&format!("tc qdisc show dev {first}")).unwrap();
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
        assert_eq!(node.run("find /sys/fs/bpf -path */overlay*").unwrap(), "");
    }
}

#[test]
fn programs_of_others_survive() {
    for attach in MECHANISMS {
        let (testbed, agent) = served(attach);
        let node = testbed.node(1).unwrap();
        let first = node.pods()[0].host_veth();
        let mut object = EbpfLoader::new().load(OBJECT).unwrap();
        let theirs: &mut SchedClassifier = object.program_mut(POD_EGRESS).unwrap().try_into().unwrap();
        theirs.load().unwrap();
        let id = theirs.info().unwrap().id();
        node.space()
            .enter(|| {
                for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
                    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
                    theirs.attach_with_options(first, direction, options)?;
                }
                Ok(())
            })
            .unwrap();
        let there = || {
            let query = || -> anyhow::Result<Vec<bool>> {
                [TcAttachType::Ingress, TcAttachType::Egress]
                    .into_iter()
                    .map(|direction| {
                        let (_, programs) = SchedClassifier::query_tcx(first, direction)?;
                        Ok(programs.iter().any(|program| program.id() == id))
                    })
                    .collect()
            };
            node.space().enter(query).unwrap()
        };
        node.run(&format!("ip link set {first} alias overlay-fastpath=off"))
            .unwrap();
        wait_for(node, &[]);
        assert_eq!(there(), [true, true]);
        node.run(&format!("ip link set {first} alias overlay-fastpath=on"))
            .unwrap();
        eventually(SOON, "the endpoint", || {
            ensure!(endpoints(node)?.len() == 1);
            Ok(())
        })
        .unwrap();
        agent.stop().unwrap();
        node.agent_command(&["cleanup"]).unwrap().success().unwrap();
        assert_eq!(there(), [true, true]);
    }
}
