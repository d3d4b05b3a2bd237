//! Pods that shall not take the fast path: by an alias, a qdisc, or a filter.

use anyhow::ensure;
use aya::EbpfLoader;
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType};
use overlay_agent::dataplane::OBJECT;
use overlay_common::flow::{ENDPOINT_FAST, ENDPOINT_SHORTCUT};
use overlay_common::maps::POD_EGRESS;
use overlay_testbed::{Node, eventually};

use crate::bed::{MECHANISMS, SOON, epoch, ifindex, served, shortcuts, veth, wait_bare, wait_for};

#[test]
fn the_alias_is_followed_on_a_live_pod() {
    for attach in MECHANISMS {
        let (testbed, agent) = served(attach);
        let node = testbed.node(1).unwrap();
        let veth = node.pods()[0].host_veth();
        let index = ifindex(node, veth);
        let alias = |text: &str| node.run(&format!("ip link set {veth} alias {text}")).unwrap();

        let before = epoch(node, index);
        alias("overlay-fastpath=off");
        wait_for(node, &[]);
        wait_bare(node, veth);
        assert!(epoch(node, index) > before, "its flows must be forgotten");

        alias("overlay-fastpath=shortcut");
        wait_for(node, &[(veth, ENDPOINT_SHORTCUT)]);
        assert_eq!(shortcuts(node), 1);

        let before = epoch(node, index);
        alias("overlay-fastpath=on");
        wait_for(node, &[(veth, ENDPOINT_FAST)]);
        eventually(SOON, "no shortcuts", || {
            anyhow::ensure!(shortcuts(node) == 0 && epoch(node, index) > before);
            Ok(())
        })
        .unwrap();

        alias("overlay-fastpath=yes");
        wait_for(node, &[]);
        agent
            .wait_log(
                "overlay-fastpath=yes, which is none of off, shortcut and on",
                SOON,
            )
            .unwrap();
        alias("web-1");
        wait_for(node, &[(veth, ENDPOINT_FAST)]);
    }
}

#[test]
fn a_qdisc_excludes_while_it_is_there() {
    for attach in MECHANISMS {
        let (testbed, agent) = served(attach);
        let node = testbed.node(1).unwrap();
        let veth = node.pods()[0].host_veth();
        let index = ifindex(node, veth);
        let before = epoch(node, index);
        node.run(&format!(
            "tc qdisc add dev {veth} root tbf rate 10mbit burst 16kb latency 50ms"
        ))
        .unwrap();
        wait_for(node, &[]);
        wait_bare(node, veth);
        assert!(epoch(node, index) > before, "its flows must be forgotten");
        agent.wait_log("its root qdisc is tbf", SOON).unwrap();
        node.run(&format!("tc qdisc del dev {veth} root")).unwrap();
        wait_for(node, &[(veth, ENDPOINT_FAST)]);
    }
}

/// What the bandwidth plugin of CNI does: an ingress qdisc, and everything that the pod sends to another device.
fn redirect(node: &Node, device: &str) {
    node.run(&format!("tc qdisc add dev {device} handle ffff: ingress"))
        .unwrap();
    node.run(&format!(
        "tc filter add dev {device} parent ffff: pref 1 u32 match u32 0 0 action mirred egress redirect dev limit0"
    ))
    .unwrap();
}

#[test]
fn an_ingress_qdisc_excludes_while_it_is_there() {
    for attach in MECHANISMS {
        let (testbed, agent) = served(attach);
        let node = testbed.node(1).unwrap();
        let first = node.pods()[0].host_veth();
        let (index, before) = (ifindex(node, first), epoch(node, ifindex(node, first)));
        node.run("ip link add limit0 type ifb").unwrap();

        // On a live pod. Our own clsact has the only place for it, so filters must go first.
        if attach == "tcx" {
            redirect(node, first);
        } else {
            let alias = |text: &str| node.run(&format!("ip link set {first} alias {text}")).unwrap();
            alias("overlay-fastpath=off");
            wait_bare(node, first);
            eventually(SOON, "no clsact", || {
                let qdiscs = node.run(&format!("tc qdisc show dev {first}"))?;
                ensure!(!qdiscs.contains("clsact"), "{qdiscs}");
                Ok(())
            })
            .unwrap();
            redirect(node, first);
            alias("overlay-fastpath=on");
        }
        agent.wait_log("it has an ingress qdisc", SOON).unwrap();
        wait_for(node, &[]);
        wait_bare(node, first);
        assert!(epoch(node, index) > before, "its flows must be forgotten");

        // On a pod that is new.
        veth(node, "limited");
        redirect(node, "limited");
        node.run("ip link set limited master cni0").unwrap();
        agent.wait_log("pod device limited", SOON).unwrap();
        wait_for(node, &[]);
        wait_bare(node, "limited");

        node.run("tc qdisc del dev limited ingress").unwrap();
        wait_for(node, &[("limited", ENDPOINT_FAST)]);
        node.run(&format!("tc qdisc del dev {first} ingress")).unwrap();
        wait_for(node, &[("limited", ENDPOINT_FAST), (first, ENDPOINT_FAST)]);
    }
}

#[test]
fn a_filter_with_actions_excludes_while_it_is_there() {
    for attach in MECHANISMS {
        let (testbed, agent) = served(attach);
        let node = testbed.node(1).unwrap();
        let first = node.pods()[0].host_veth();
        let index = ifindex(node, first);
        node.run("ip link add limit0 type ifb").unwrap();
        if attach == "tcx" {
            node.run(&format!("tc qdisc add dev {first} clsact")).unwrap();
        }
        for side in ["ingress", "egress"] {
            let before = epoch(node, index);
            node.run(&format!(
                "tc filter add dev {first} {side} pref 7 u32 match u32 0 0 action mirred egress redirect dev \
                 limit0"
            ))
            .unwrap();
            wait_for(node, &[]);
            wait_bare(node, first);
            assert!(epoch(node, index) > before, "its flows must be forgotten");
            agent
                .wait_log(&format!("it has a u32 filter on {side}"), SOON)
                .unwrap();
            let theirs = node.run(&format!("tc filter show dev {first} {side}")).unwrap();
            assert!(theirs.contains("u32"), "{theirs}");
            node.run(&format!("tc filter del dev {first} {side} pref 7"))
                .unwrap();
            wait_for(node, &[(first, ENDPOINT_FAST)]);
        }
    }
}

/// Most of them only look.
#[test]
fn programs_of_others_on_clsact_do_not_exclude() {
    for attach in MECHANISMS {
        let (testbed, _agent) = served(attach);
        let node = testbed.node(1).unwrap();
        let first = node.pods()[0].host_veth();
        let index = ifindex(node, first);
        if attach == "tcx" {
            node.run(&format!("tc qdisc add dev {first} clsact")).unwrap();
        }
        let before = epoch(node, index);
        let mut object = EbpfLoader::new().load(OBJECT).unwrap();
        let theirs: &mut SchedClassifier = object.program_mut(POD_EGRESS).unwrap().try_into().unwrap();
        theirs.load().unwrap();
        node.space()
            .enter(|| {
                for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
                    let options = NlOptions {
                        priority: 7,
                        handle: TcHandle::new(0, 1),
                        classid: None,
                    };
                    theirs.attach_with_options(first, direction, TcAttachOptions::Netlink(options))?;
                }
                Ok(())
            })
            .unwrap();
        // What comes later is served later.
        veth(node, "later");
        node.run("ip link set later master cni0").unwrap();
        wait_for(node, &[(first, ENDPOINT_FAST), ("later", ENDPOINT_FAST)]);
        assert_eq!(epoch(node, index), before, "its flows stay");
        let theirs = node.run(&format!("tc filter show dev {first} ingress")).unwrap();
        assert!(theirs.contains("pref 7 "), "{theirs}");
    }
}
