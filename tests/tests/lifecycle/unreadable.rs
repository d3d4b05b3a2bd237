//! An eBPF side that cannot be read does not keep the kernel side from being looked after.

use std::thread::sleep;
use std::time::Duration;

use anyhow::ensure;
use overlay_testbed::eventually;

use crate::bed::{PINS, Peers, SOON, options, start, testbed, wait_for_peers, with_absent, with_leases};

// Seen red with the error of the observation ending the pass.
#[test]
fn peers_are_programmed_in_the_kernel_all_the_same() {
    let testbed = testbed(1);
    let (node, leases) = with_leases(&testbed, 2);
    let agent = start(node, &leases);
    agent.stop().unwrap();

    let pin = format!("{PINS}/links/vtep_egress");
    node.run(&format!("rm {pin}")).unwrap();
    node.run(&format!("mkdir {pin}")).unwrap();
    let more = with_absent(&testbed, 4);
    node.write_leases(&more).unwrap();
    let agent = node.spawn_agent(&options()).unwrap();
    let wanted = Peers::wanted(&more, node.name()).kernel_only();
    eventually(SOON, "the peers in the kernel's tables", || {
        let found = Peers::of_kernel(node)?;
        ensure!(
            found == wanted,
            "found {found:#?}, wanted {wanted:#?}; {}",
            agent.log()
        );
        Ok(())
    })
    .unwrap();
    // Several passes.
    sleep(Duration::from_millis(2500));
    let log = agent.log();
    let said: Vec<_> = log
        .lines()
        .filter(|line| line.contains("cannot read the eBPF side in /sys/fs/bpf/overlay"))
        .collect();
    assert_eq!(said.len(), 1, "{log}");
    for part in [
        " error ",
        "links/vtep_egress",
        "earlier run",
        "overlay-agent cleanup",
    ] {
        assert!(said[0].contains(part), "{part:?}: {}", said[0]);
    }

    node.run(&format!("rmdir {pin}")).unwrap();
    agent.wait_log("can be read again", SOON).unwrap();
    wait_for_peers(node, &more);
    agent.stop().unwrap();
}
