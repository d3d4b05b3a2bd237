//! Aggregates of up to 64 KiB: whole through the overlay, cut up only where the wire demands it.

use overlay_testbed::traffic::{TcpTransfer, UdpTransfer};
use overlay_testbed::{Capture, Offloads, Testbed};

use crate::bed::*;

/// Datagrams that fit a pod's MTU exactly.
const DATAGRAM: u16 = 1422;
const DATAGRAMS: u64 = 4600;

/// Bulk TCP and segmented UDP both ways between the pods of node 1, which has an agent, and node 2.
fn transfer(testbed: &Testbed, bytes: u64) {
    let [ours, theirs] = [1, 2].map(|index| testbed.pod(index, 1).unwrap());
    for (from, to) in [(ours, theirs), (theirs, ours)] {
        TcpTransfer::new(to.address(), PORT, bytes)
            .run(from.space(), to.space())
            .unwrap();
        UdpTransfer::new(to.address(), PORT, DATAGRAMS, DATAGRAM)
            .segmented()
            .run(from.space(), to.space())
            .unwrap()
            .expect_perfect()
            .unwrap();
    }
}

/// Seen red with the VXLAN header counted as part of the inner L2 header (`BPF_F_ADJ_ROOM_ENCAP_L2(22)`) and without
/// `BPF_F_ADJ_ROOM_FIXED_GSO`.
fn bulk(offloads: Offloads, bytes: u64) {
    let builder = two_nodes().offloads(offloads);
    let (testbed, agent) = facing_flannel(builder, &slow_path());
    let [ours, theirs] = [1, 2].map(|index| testbed.node(index).unwrap());
    let before = Counters::of(ours);
    transfer(&testbed, bytes);
    let grown = before.growth(ours);
    // No `too_big`, no `encap_refused`, no refusal.
    grown.expect_only(&["accepted", "encapsulated"]);
    let out = grown.get("encapsulated");
    // The acknowledgements of the other direction are in the average.
    assert!(out.bytes / out.packets > 4000, "not whole: {out:?}");
    // Each peer's counters are in packets on the wire.
    let sent = grown.sent_to(theirs.address());
    assert!(sent.packets > bytes / 1398 + DATAGRAMS, "{sent:?}");
    let received = grown.received_from(theirs.address());
    assert!(
        received.bytes > bytes + DATAGRAMS * u64::from(DATAGRAM),
        "{received:?}"
    );

    // The wire, between the two nodes' devices: a shorter run, since every byte of it is kept.
    let mut wire = Capture::start(&testbed.fabric().unwrap(), "n1").unwrap();
    transfer(&testbed, 8 * MIB);
    let largest = |outgoing| {
        let packets = wire_packets(&mut wire);
        let sizes = packets
            .iter()
            .filter(|(out, _)| *out == outgoing)
            .map(|(_, size)| *size);
        sizes.max().unwrap()
    };
    let [from_ours, from_theirs] = [false, true].map(largest);
    if offloads.segmentation {
        assert!(
            from_ours > 60_000 && from_theirs > 60_000,
            "{from_ours}, {from_theirs}"
        );
    } else {
        assert!(
            from_ours <= 1514 && from_theirs <= 1514,
            "{from_ours}, {from_theirs}"
        );
    }
    agent.stop().unwrap();
}

/// Direction and size of the tunnel packets.
fn wire_packets(wire: &mut Capture) -> Vec<(bool, usize)> {
    let tunnel = wire.packets().unwrap().iter().filter(|packet| is_tunnel(packet));
    tunnel
        .map(|packet| (packet.outgoing, packet.bytes.len()))
        .collect()
}

#[test]
fn aggregates_cross_whole_where_the_wire_takes_them() {
    bulk(Offloads::DEFAULT, 256 * MIB);
}

#[test]
fn aggregates_are_cut_up_for_a_wire_without_segmentation_offload() {
    bulk(Offloads::WIRE, 256 * MIB);
}

#[test]
fn aggregates_are_cut_up_and_summed_for_a_wire_without_any_offload() {
    bulk(Offloads::CABLE, 64 * MIB);
}

#[test]
fn two_agents_carry_aggregates_too() {
    let testbed = two_nodes().offloads(Offloads::WIRE).build().unwrap();
    let agents = testbed.start_agents(&slow_path()).unwrap();
    resolve_neighbours(&testbed);
    let before: Vec<_> = testbed.nodes().map(Counters::of).collect();
    transfer(&testbed, 64 * MIB);
    for (node, before) in testbed.nodes().zip(&before) {
        before.growth(node).expect_only(&["accepted", "encapsulated"]);
    }
    for agent in agents {
        agent.stop().unwrap();
    }
}
