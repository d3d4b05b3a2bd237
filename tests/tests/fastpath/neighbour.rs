//! The neighbour on the underlay that packets of the fast path go to. Most of them carry its address as it was when their
//! tick began: that must neither hide the traffic from the neighbour's state machine nor outlive a change.

use std::thread;
use std::time::Duration;

use overlay_common::reason::Reason;
use overlay_testbed::Capture;
use overlay_testbed::packet::Mac;

use crate::bed::*;
use crate::talk::{Talk as _, UdpTalk, at, make_fast};
use crate::wire::{SHORT, contains, mac_of};

/// Longer than a tick of any kernel.
const TICK: Duration = Duration::from_millis(11);
const PACKETS: u64 = 50;

/// A bed whose flows are not probed meanwhile: a probe goes through the stack.
fn start() -> (Bed, UdpTalk) {
    let bed = Bed::start(&["--flow-revalidate=8s"]);
    let [client, server] = [bed.pod(1, 1), bed.pod(2, 1)];
    let (from, to) = (at(client.address(), 4000), at(server.address(), 5353));
    let mut talk = UdpTalk::open((client.space(), from), to, (server.space(), to));
    make_fast(&bed, &mut talk);
    (bed, talk)
}

/// What node 1 has of node 2 on the underlay from now on: `lladdr ... nud ...`.
fn set_neighbour(bed: &Bed, mac: Mac, state: &str) {
    let (node, peer) = (bed.node(1), bed.node(2).address());
    let device = node.underlay();
    let digits = mac.0.map(|byte| format!("{byte:02x}")).join(":");
    node.run(&format!(
        "ip neigh replace {peer} lladdr {digits} dev {device} nud {state}"
    ))
    .unwrap();
}

fn neighbour(bed: &Bed) -> String {
    let peer = bed.node(2).address();
    bed.node(1).run(&format!("ip neigh show {peer}")).unwrap()
}

/// Nothing but these packets left node 1, and past the stack.
fn expect_fast(bed: &Bed, before: &[Counters]) {
    let grown = &bed.growth(before)[0];
    assert_eq!(
        [Reason::EgressFast, Reason::Encapsulated].map(|reason| grown.packets(reason)),
        [PACKETS, 0],
        "{grown:?}"
    );
}

/// Seen red with the address of the last answer for every packet: the entry stayed as it was, never asked for again.
#[test]
fn a_neighbour_is_confirmed_by_traffic_past_the_stack() {
    let (bed, mut talk) = start();
    let peer = bed.node(2);
    set_neighbour(&bed, mac_of(peer.space(), peer.underlay()), "stale");
    let stale = neighbour(&bed);
    assert!(stale.contains("STALE"), "{stale}");
    let before = bed.counters();
    talk.exchanges(usize::try_from(PACKETS).unwrap());
    expect_fast(&bed, &before);
    // To be asked whether it is still there, or it has answered already.
    let used = neighbour(&bed);
    assert!(
        ["DELAY", "PROBE", "REACHABLE"]
            .iter()
            .any(|state| used.contains(state)),
        "{used}"
    );
    bed.end();
}

/// Seen red without the comparison of ticks.
#[test]
fn a_neighbour_that_has_another_address_is_followed_within_a_tick() {
    let (bed, mut talk) = start();
    let node = bed.node(1);
    let mut wire = Capture::start(node.space(), node.underlay()).unwrap();
    talk.exchange().unwrap();
    // Nobody's: what is sent there is lost.
    let other = Mac([2, 0, 0x5e, 0, 0, 1]);
    set_neighbour(&bed, other, "permanent");
    thread::sleep(TICK);
    let before = bed.counters();
    let messages: Vec<_> = (0..PACKETS).map(|_| talk.ask().unwrap()).collect();
    expect_fast(&bed, &before);
    for message in messages {
        let sent = wire
            .wait_for(1, SHORT, |packet| packet.outgoing && contains(packet, &message))
            .unwrap();
        assert_eq!(sent[0].bytes[..6], other.0);
    }
    bed.end();
}
