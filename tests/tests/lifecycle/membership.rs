//! Nodes join and leave while others talk.

use overlay_testbed::eventually;

use crate::bed::{SOON, Traffic, absent, assert_reach, options, testbed, wait_for_peers};

// Seen red with the device recreated by every plan.
#[test]
fn joining_and_leaving_costs_the_others_nothing() {
    let mut testbed = testbed(3);
    let agents = testbed.start_agents(&options()).unwrap();
    let leases = testbed.leases();
    for (from, to) in [(1, 3), (2, 3)] {
        assert_reach(&testbed, from, to);
    }
    let traffic = [
        Traffic::start(&testbed, 1, 2),
        Traffic::start(&testbed, 2, 3),
        Traffic::start(&testbed, 3, 1),
    ];
    for _ in 0..2 {
        testbed.add_node().unwrap();
        let index = testbed.nodes().last().unwrap().index();
        let mut with_new = leases.clone();
        with_new.join(testbed.node(index).unwrap().lease());
        for number in 1..=20 {
            with_new.join(absent(number));
        }
        testbed.publish(&with_new).unwrap();
        let new = testbed.node(index).unwrap().start_agent(&options()).unwrap();
        for node in 1..=3 {
            wait_for_peers(testbed.node(node).unwrap(), &with_new);
            eventually(SOON, "reach of the new node", || {
                // In this direction: its ARP request corrects what the others remember of a former holder of its
                // underlay address.
                let (client, server) = (testbed.pod(index, 1)?, testbed.pod(node, 1)?);
                overlay_testbed::traffic::ping(
                    client.space(),
                    server.address(),
                    &overlay_testbed::traffic::PingOptions::default(),
                )?
                .expect_lossless()
                .map(drop)
            })
            .unwrap();
        }
        // Gone as by a power cut, and only then off the list.
        drop(new);
        testbed.remove_node(index).unwrap();
        testbed.publish(&leases).unwrap();
        for node in 1..=3 {
            wait_for_peers(testbed.node(node).unwrap(), &leases);
        }
    }
    traffic.into_iter().for_each(Traffic::stop);
    for agent in agents {
        agent.stop().unwrap();
    }
}
