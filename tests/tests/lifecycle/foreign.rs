//! Other people's objects, in the places where the agent works.

use overlay_testbed::Node;

use crate::bed::{DEVICE, PINS};

/// One object: how it is made, and how one sees that it is there.
struct Object {
    make: &'static [&'static str],
    look: &'static str,
    shows: &'static [&'static str],
    /// Whether it lives on the overlay device, with which it goes.
    on_device: bool,
}

const OBJECTS: &[Object] = &[
    Object {
        make: &[
            "ip link add foreign0 type vxlan id 77 dev eth0 dstport 8472 nolearning",
            "ip link set foreign0 up",
            "bridge fdb append 06:00:00:00:00:77 dst 172.16.77.1 dev foreign0 self permanent",
            "ip neigh add 10.244.77.0 lladdr 06:00:00:00:00:77 nud permanent dev foreign0",
            "ip route add 10.99.0.0/24 via 10.244.77.0 dev foreign0 onlink",
        ],
        look: "ip -d link show foreign0",
        shows: &["vxlan id 77", ",UP"],
        on_device: false,
    },
    Object {
        make: &[],
        look: "bridge fdb show dev foreign0",
        shows: &["06:00:00:00:00:77 dst 172.16.77.1 self permanent"],
        on_device: false,
    },
    Object {
        make: &[],
        look: "ip neigh show dev foreign0",
        shows: &["10.244.77.0 lladdr 06:00:00:00:00:77"],
        on_device: false,
    },
    Object {
        make: &[
            "ip route add 203.0.113.0/24 via 192.168.0.254 proto static",
            "ip rule add from 203.0.113.7 lookup 77",
        ],
        look: "ip route",
        shows: &[
            "203.0.113.0/24 via 192.168.0.254",
            "10.99.0.0/24 via 10.244.77.0 dev foreign0",
        ],
        on_device: false,
    },
    Object {
        make: &["ip route add 10.244.90.0/24 via 192.168.0.254 table 77"],
        look: "ip rule",
        shows: &["from 203.0.113.7 lookup 77"],
        on_device: false,
    },
    Object {
        make: &[],
        look: "ip route show table 77",
        shows: &["10.244.90.0/24 via 192.168.0.254"],
        on_device: false,
    },
    Object {
        make: &[
            "tc qdisc add dev eth0 clsact",
            "tc filter add dev eth0 ingress prio 7 protocol ip u32 match u32 0 0 flowid 1:7",
        ],
        look: "tc filter show dev eth0 ingress",
        shows: &["pref 7", "1:7"],
        on_device: false,
    },
    Object {
        make: &["ip address add 192.0.2.7/32 dev flannel.1"],
        look: "ip address show dev flannel.1",
        shows: &["192.0.2.7/32"],
        on_device: true,
    },
    Object {
        make: &[
            "ip route add 198.51.100.0/24 via 10.244.240.0 dev flannel.1 onlink proto static",
            "ip route add 10.244.241.0/24 via 10.244.241.0 dev flannel.1 onlink metric 7",
            "ip route add 10.244.242.0/24 via 10.244.242.0 dev flannel.1 onlink proto static",
            "ip route add 10.244.243.0/24 via 10.244.243.1 dev flannel.1 onlink",
        ],
        look: "ip route show dev flannel.1",
        shows: &[
            "198.51.100.0/24 via 10.244.240.0 proto static onlink",
            "10.244.241.0/24 via 10.244.241.0 metric 7 onlink",
            "10.244.242.0/24 via 10.244.242.0 proto static onlink",
            "10.244.243.0/24 via 10.244.243.1 onlink",
        ],
        on_device: true,
    },
    Object {
        make: &["ip neigh add 192.0.2.9 lladdr 06:00:00:00:00:99 nud permanent dev flannel.1"],
        look: "ip neigh show dev flannel.1",
        shows: &["192.0.2.9 lladdr 06:00:00:00:00:99 PERMANENT"],
        on_device: true,
    },
    Object {
        make: &["bridge fdb append 00:00:00:00:00:00 dst 172.16.77.2 dev flannel.1 self permanent"],
        look: "bridge fdb show dev flannel.1",
        shows: &["00:00:00:00:00:00 dst 172.16.77.2 self permanent"],
        on_device: true,
    },
    Object {
        make: &[
            "bpftool map create /sys/fs/bpf/overlay/foreign type array key 4 value 4 entries 1 name foreign",
            "mkdir /sys/fs/bpf/neighbour",
            "bpftool map create /sys/fs/bpf/neighbour/map type array key 4 value 4 entries 1 name foreign",
        ],
        look: "find /sys/fs/bpf",
        shows: &["/sys/fs/bpf/overlay/foreign", "/sys/fs/bpf/neighbour/map"],
        on_device: false,
    },
];

/// Makes all of them; the agent must have made its device.
pub(crate) fn plant(node: &Node) {
    assert_eq!((DEVICE, PINS), ("flannel.1", "/sys/fs/bpf/overlay"));
    for command in OBJECTS.iter().flat_map(|object| object.make) {
        node.run(command).unwrap();
    }
    assert_present(node, true);
}

/// Every one is there; `device` says whether those on the overlay device are to be.
pub(crate) fn assert_present(node: &Node, device: bool) {
    for object in OBJECTS.iter().filter(|object| device || !object.on_device) {
        let found = node.run(object.look).unwrap();
        let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
        for text in object.shows {
            assert!(
                found.contains(text),
                "{text:?} is gone; `{}` shows: {found}",
                object.look
            );
        }
    }
}
