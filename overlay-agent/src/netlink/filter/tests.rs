use overlay_core::model::MacAddr;

use super::{
    Filter, RTM_DELLINK, RTM_DELNEIGH, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE, RTM_NEWRULE, Watched,
};
use crate::netlink::own::{Change, Notice, Sender};

fn filter() -> Filter {
    let watched = |name: &str, ifindex| Watched {
        name: name.to_owned(),
        ifindex: Some(ifindex),
    };
    Filter {
        device: watched("flannel.1", 7),
        underlay: Some(watched("eth0", 2)),
        own: Sender::default().listener(),
    }
}

fn datagram(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).unwrap();
    let mut bytes = [
        length.to_ne_bytes().as_slice(),
        &kind.to_ne_bytes(),
        &[0; 10],
        payload,
    ]
    .concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [length.to_ne_bytes().as_slice(), &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn link(kind: u16, family: u8, ifindex: u32, name: &str) -> Vec<u8> {
    let mut payload = [&[family, 0, 0, 0], ifindex.to_ne_bytes().as_slice(), &[0; 8]].concat();
    payload.extend(attribute(3, format!("{name}\0").as_bytes()));
    datagram(kind, &payload)
}

fn neighbour(ifindex: u32) -> Vec<u8> {
    datagram(
        RTM_NEWNEIGH,
        &[&[2, 0, 0, 0], ifindex.to_ne_bytes().as_slice(), &[0; 4]].concat(),
    )
}

#[test]
fn device_is_followed_through_its_life() {
    let mut filter = filter();
    assert!(filter.concerns(&neighbour(7)));
    assert!(!filter.concerns(&neighbour(2)), "neighbours of the underlay");
    assert!(filter.concerns(&link(RTM_DELLINK, 0, 7, "flannel.1")));
    assert!(
        !filter.concerns(&neighbour(7)),
        "the index is somebody else's now"
    );
    assert!(!filter.concerns(&link(RTM_NEWLINK, 0, 7, "veth0")));
    assert!(filter.concerns(&link(RTM_NEWLINK, 0, 9, "flannel.1")));
    assert!(filter.concerns(&neighbour(9)));
    assert!(filter.concerns(&link(RTM_NEWLINK, 0, 9, "renamed")));
    assert!(!filter.concerns(&neighbour(9)));
}

#[test]
fn leaving_a_bridge_is_not_a_deletion() {
    const AF_BRIDGE: u8 = 7;
    let mut filter = filter();
    assert!(filter.concerns(&link(RTM_DELLINK, AF_BRIDGE, 7, "flannel.1")));
    assert!(filter.concerns(&neighbour(7)));
}

#[test]
fn any_message_of_a_datagram_counts() {
    let mut filter = filter();
    let quiet = [neighbour(3), neighbour(4)].concat();
    assert!(!filter.concerns(&quiet));
    assert!(filter.concerns(&[neighbour(3), neighbour(7), neighbour(4)].concat()));
}

#[test]
fn what_cannot_be_read_may_concern_us() {
    let mut filter = filter();
    assert!(filter.concerns(&[1, 2, 3]), "no header");
    assert!(filter.concerns(&datagram(RTM_NEWNEIGH, &[2])), "no whole message");
    let mut route = vec![2, 24, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    route.extend([200, 0, 4, 0]);
    assert!(
        filter.concerns(&datagram(RTM_NEWROUTE, &route)),
        "an attribute beyond the end"
    );
    assert!(filter.concerns(&datagram(RTM_NEWRULE, &[2])), "no whole rule");
    assert!(
        !filter.concerns(&datagram(1_000, &[])),
        "a message of another kind"
    );
}

/// Lengths off the wire: no prefix and no flipped byte of a datagram may lead to a panic or an endless loop.
#[test]
fn truncated_and_damaged_datagrams_are_survived() {
    let mut hops = vec![2, 24, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    hops.extend(attribute(9, &[8, 0, 0, 0, 3, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0, 0]));
    for datagram in [
        link(RTM_NEWLINK, 0, 7, "flannel.1"),
        datagram(RTM_NEWROUTE, &hops),
        neighbour(7),
    ] {
        for end in 0..datagram.len() {
            filter().concerns(datagram.get(..end).unwrap());
        }
        for position in 0..datagram.len() {
            for value in [0, 1, 3, 4, 127, 255] {
                let mut damaged = datagram.clone();
                *damaged.get_mut(position).unwrap() = value;
                filter().concerns(&damaged);
            }
        }
    }
}

/// A notification about a forwarding entry of device 7: MAC, destination, more attributes; `nlmsg_pid`.
fn forwarding(kind: u16, flags: u8, destination: [u8; 4], more: &[u8], port: u32) -> Vec<u8> {
    let mut payload = [
        &[7, 0, 0, 0],
        7_u32.to_ne_bytes().as_slice(),
        &0x80_u16.to_ne_bytes(),
        &[flags, 0],
    ]
    .concat();
    payload.extend(attribute(2, &[2, 0, 0, 0, 0, 5]));
    payload.extend(attribute(1, &destination));
    payload.extend(attribute(3, &[0; 16]));
    payload.extend(more);
    let mut bytes = datagram(kind, &payload);
    bytes
        .get_mut(12..16)
        .unwrap()
        .copy_from_slice(&port.to_ne_bytes());
    bytes
}

#[test]
fn what_was_noted_is_no_news_once_and_nothing_like_it_is() {
    const SELF: u8 = 2;
    let own = [192, 168, 0, 5];
    let sender = Sender::default();
    let mut filter = Filter {
        own: sender.listener(),
        ..filter()
    };
    let noted = Notice {
        ifindex: 7,
        change: Change::FdbSet {
            mac: MacAddr::new([2, 0, 0, 0, 0, 5]),
            destination: own.into(),
        },
    };
    sender.sending(77, [noted].into_iter());
    let vni = attribute(7, &1_u32.to_ne_bytes());
    for (what, other) in [
        ("removed", forwarding(RTM_DELNEIGH, SELF, own, &[], 0)),
        (
            "elsewhere",
            forwarding(RTM_NEWNEIGH, SELF, [192, 168, 0, 6], &[], 0),
        ),
        ("with a VNI", forwarding(RTM_NEWNEIGH, SELF, own, &vni, 0)),
        ("learned", forwarding(RTM_NEWNEIGH, SELF | 0x10, own, &[], 0)),
        (
            "by a request of somebody else",
            forwarding(RTM_NEWNEIGH, SELF, own, &[], 78),
        ),
    ] {
        assert!(filter.concerns(&other), "{what}");
    }
    let ours = forwarding(RTM_NEWNEIGH, SELF, own, &[], 0);
    assert!(!filter.concerns(&ours));
    assert!(filter.concerns(&ours), "a second one");
}

#[test]
fn what_names_our_port_is_no_news_but_links_are_followed() {
    let sender = Sender::default();
    let mut filter = Filter {
        own: sender.listener(),
        ..filter()
    };
    sender.sending(77, [].into_iter());
    let by = |port: u32, mut bytes: Vec<u8>| {
        bytes
            .get_mut(12..16)
            .unwrap()
            .copy_from_slice(&port.to_ne_bytes());
        bytes
    };
    assert!(!filter.concerns(&by(77, neighbour(7))));
    assert!(filter.concerns(&by(78, neighbour(7))));
    assert!(filter.concerns(&by(0, neighbour(7))));
    assert!(filter.concerns(&by(77, link(RTM_DELLINK, 0, 7, "flannel.1"))));
    assert!(!filter.concerns(&by(78, neighbour(7))), "it is gone");
}
