//! Which device and address the overlay is on, and that it stays there.

use anyhow::{Context as _, Result, ensure};
use overlay_common::config::FLAG_ROUTES_BY_PORT;
use overlay_testbed::{Agent, Node, eventually};

use crate::bed::{
    DEVICE, PINS, Peers, SOON, command, ifindex, options, start, testbed, verb, wait_for_peers, with_leases,
};

/// `local` and `dev` of the overlay device.
fn place(node: &Node) -> Result<(String, String)> {
    let link = node.run(&format!("ip -d link show {DEVICE}"))?;
    let after = |word: &str| {
        let mut words = link.split_whitespace().skip_while(|found| *found != word);
        words.nth(1).unwrap_or_default().to_owned()
    };
    Ok((after("local"), after("dev")))
}

fn wait_for_plan(node: &Node) {
    eventually(SOON, "an empty plan", || {
        let plan = verb(node, "plan", &[]).success()?;
        ensure!(plan.starts_with("nothing to do"), "{plan}");
        Ok(())
    })
    .unwrap();
}

fn routes_by_port(node: &Node) -> Result<bool> {
    let config = node.ebpf_config()?;
    let flags = config["flags"].as_u64().context("no flags")?;
    Ok(flags & u64::from(FLAG_ROUTES_BY_PORT) != 0)
}

fn moved(agent: &Agent) -> usize {
    agent.log().matches("the underlay is now").count()
}

// Seen red with facts that never say so, and with facts that look only at rules, or only at the sysctl.
#[test]
fn where_ports_choose_routes_the_programs_know() {
    let testbed = testbed(1);
    let (node, leases) = with_leases(&testbed, 2);
    let agent = start(node, &leases);
    assert!(!routes_by_port(node).unwrap());
    for (change, expected) in [
        (
            "ip rule add ipproto udp sport 40000-41000 lookup main priority 102",
            true,
        ),
        ("ip rule delete priority 102", false),
        ("ip rule add fwmark 7 lookup main priority 103", false),
        ("sysctl -w net.ipv4.fib_multipath_hash_policy=1", true),
        ("sysctl -w net.ipv4.fib_multipath_hash_policy=0", false),
    ] {
        node.run(change).unwrap();
        eventually(SOON, change, || {
            let found = routes_by_port(node)?;
            ensure!(found == expected, "by port: {found}");
            Ok(())
        })
        .unwrap();
    }
    agent.stop().unwrap();
}

// Seen red with the choice made anew in each pass.
#[test]
fn the_overlay_stays_where_it_is() {
    let testbed = testbed(1);
    let (node, leases) = with_leases(&testbed, 2);
    node.run("ip route add default via 192.168.0.254 metric 100")
        .unwrap();
    node.run("ip route delete default via 192.168.0.254 metric 0")
        .unwrap();
    let agent = start(node, &leases);
    let (index, at) = (ifindex(node), place(node).unwrap());
    assert_eq!(at, ("192.168.0.1".to_owned(), "eth0".to_owned()));

    for change in [
        // A better address.
        "ip address change 192.168.0.1/24 dev eth0 valid_lft 1000 preferred_lft 1000",
        "ip address add 172.31.0.1/24 dev eth0",
        // A better default route.
        "ip link add vpn0 type bridge",
        "ip address add 172.30.0.1/24 dev vpn0",
        "ip link set vpn0 up",
        "ip route add default dev vpn0",
    ] {
        node.run(change).unwrap();
    }
    // More than a resync.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    wait_for_plan(node);
    assert_eq!((ifindex(node), place(node).unwrap()), (index, at.clone()));
    assert_eq!(moved(&agent), 0, "{}", agent.log());
    agent.stop().unwrap();

    let agent = node.start_agent(&options()).unwrap();
    wait_for_plan(node);
    wait_for_peers(node, &leases);
    assert_eq!((ifindex(node), place(node).unwrap()), (index, at));

    // Nothing holds it there any longer. With the address goes the route by its gateway.
    node.run("ip address delete 192.168.0.1/24 dev eth0").unwrap();
    let there = ("172.30.0.1".to_owned(), "vpn0".to_owned());
    eventually(SOON, "the overlay on the other device", || {
        let found = place(node)?;
        ensure!(found == there, "{found:?}");
        Ok(())
    })
    .unwrap();
    wait_for_peers(node, &leases);
    assert_eq!(moved(&agent), 1, "{}", agent.log());
    agent.stop().unwrap();
}

// Seen red with every underlay taken for one with Ethernet headers.
#[test]
fn without_ethernet_headers_the_kernel_carries_everything() {
    let testbed = testbed(1);
    let (node, leases) = with_leases(&testbed, 2);
    let agent = start(node, &leases);
    agent.stop().unwrap();
    node.run("ip tuntap add tun9 mode tun").unwrap();
    node.run("ip address add 172.30.0.1/24 dev tun9").unwrap();
    node.run("ip link set tun9 up").unwrap();

    let on_tunnel = options().with_arguments(&["--iface", "tun9"]);
    let agent = node.start_agent(&on_tunnel).unwrap();
    agent.wait_log("tun9 is not an Ethernet device", SOON).unwrap();
    assert_eq!(
        Peers::of_kernel(node).unwrap(),
        Peers::wanted(&leases, node.name()).kernel_only()
    );
    assert_eq!(place(node).unwrap().1, "tun9");
    assert!(node.run(&format!("ls {PINS}")).is_err(), "the programs are gone");
    agent.stop().unwrap();
    assert!(command(node, &["cleanup"]).contains("link delete flannel.1"));
}
