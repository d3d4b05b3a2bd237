//! The packets that are measured, and where each must end.

use std::net::Ipv4Addr;

use overlay_common::flow::{FLOW_ACTIVE, FLOW_NAT, FlowKey};
use overlay_common::maps::{POD_EGRESS, POD_INGRESS, UNDERLAY_INGRESS, VTEP_EGRESS, VTEP_INGRESS};
use overlay_common::reason::Reason;

use super::bed::{
    Bed, LOCAL_POD, POD_MAC, SERVICE, UNDERLAY_MAC, VTEP, VTEP_MAC, addr, peer_mac, peer_pod, peer_vtep,
};
use super::{Method, NOTHING};
use crate::packet::{Ethernet, Frame, Icmp, Ipv4, Mac, Tcp, Udp, VxlanFrame};

/// How many peers there are while measuring: what does not depend on their number is measured with the second.
pub(super) const PEER_COUNTS: [u16; 3] = [1, TYPICAL, 15_000];
const TYPICAL: u16 = 250;

/// One packet of one program.
pub(super) struct Case {
    pub(super) program: &'static str,
    pub(super) name: String,
    pub(super) frame: Vec<u8>,
    /// The device that the packet is on.
    pub(super) ifindex: u32,
    pub(super) fast_path: bool,
    /// The flow that the packet belongs to, if the program asks.
    pub(super) flow: Option<Flow>,
    /// Where each packet is counted; `None`: nowhere, it is not the overlay's.
    pub(super) reason: Option<Reason>,
    pub(super) method: Method,
}

/// A flow and what is known of it.
pub(super) struct Flow {
    pub(super) key: FlowKey,
    pub(super) known: Known,
}

/// An entry of a flow, with `FLOW_*` bits and when it was proved.
pub(super) enum Known {
    Nothing,
    Egress { validated: u64, state: u32 },
    Ingress { validated: u64, state: u32 },
}

/// Proved after any packet: always fresh.
const ALWAYS: u64 = u64::MAX;
/// Proved when the machine started: beyond the hard limit.
const LONG_AGO: u64 = 1;

/// Every case that is measured while there are `peers`.
pub(super) fn with_peers(bed: &Bed, peers: u16) -> Vec<Case> {
    let mut cases = peer_check(bed, peers);
    if peers == TYPICAL {
        cases.extend(from_pods(bed));
        cases.extend(to_vtep(bed));
        cases.extend(from_underlay(bed));
        cases.extend(to_pods(bed));
    }
    cases
}

/// What depends on the number of peers.
fn peer_check(bed: &Bed, peers: u16) -> Vec<Case> {
    let with = match peers {
        1 => "1 peer".to_owned(),
        1_000.. => format!("{},{:03} peers", peers / 1000, peers % 1000),
        _ => format!("{peers} peers"),
    };
    let accepted = |name: &str, fast_path, port| Case {
        program: UNDERLAY_INGRESS,
        name: format!("accepted, {name}, {with}"),
        fast_path,
        reason: Some(Reason::Accepted),
        ..from_peer(bed, port, Known::Nothing)
    };
    vec![
        accepted("fast path off", false, 5001),
        accepted("no entry yet", true, 5002),
        Case {
            name: format!("refused, unknown peer, {with}"),
            frame: tunnel(Ipv4Addr::new(172, 31, 0, 9), 5003),
            reason: Some(Reason::UnknownPeer),
            ..from_peer(bed, 5003, Known::Nothing)
        },
        Case {
            program: VTEP_EGRESS,
            name: format!("encapsulated by the subnet map, {with}"),
            frame: frame((VTEP_MAC, peer_mac(0)), LOCAL_POD, peer_pod(0), 4100, 64),
            reason: Some(Reason::Encapsulated),
            method: Method::Single,
            ..on(bed, bed.underlay)
        },
    ]
}

fn from_pods(bed: &Bed) -> Vec<Case> {
    let data = |port, to, known| Case {
        program: POD_INGRESS,
        frame: frame((POD_MAC, [2, 0, 0, 0, 0xb0, 1]), LOCAL_POD, to, port, 64),
        flow: Some(Flow {
            key: key(LOCAL_POD, port, to, 53),
            known,
        }),
        reason: Some(Reason::PodMiss),
        ..on(bed, bed.pod)
    };
    let to = peer_pod(0);
    let egress = |validated, state| Known::Egress { validated, state };
    let pod = |name: &str, case: Case| Case {
        name: name.to_owned(),
        ..case
    };
    let hit = |name: &str, case: Case| Case {
        name: name.to_owned(),
        reason: Some(Reason::EgressFast),
        method: Method::Single,
        ..case
    };
    let odd = |frame: Frame| Case {
        program: POD_INGRESS,
        frame: frame.bytes(),
        reason: Some(Reason::PodIneligible),
        ..on(bed, bed.pod)
    };
    let eth = Ethernet::new(Mac(POD_MAC), Mac([2, 0, 0, 0, 0xb0, 1]));
    let ip = Ipv4::new(LOCAL_POD, to);
    let syn = Tcp {
        flags: Tcp::SYN,
        ..Tcp::new(4009, 80, b"")
    };
    vec![
        pod("no entry, no try due", data(4001, to, Known::Nothing)),
        pod(
            "to a pod of this node",
            data(4002, Ipv4Addr::new(10, 200, 0, 6), Known::Nothing),
        ),
        pod(
            "entry expired, no try due",
            data(4003, to, egress(LONG_AGO, FLOW_ACTIVE)),
        ),
        pod("one direction known so far", data(4004, to, egress(ALWAYS, 0))),
        pod(
            "never eligible: ICMP",
            odd(Frame::icmp(
                eth.clone(),
                ip.clone(),
                Icmp::echo_request(7, 1, &[1; 56]),
            )),
        ),
        pod("never eligible: TCP SYN", odd(Frame::tcp(eth, ip, syn))),
        pod(
            "fast path off",
            Case {
                fast_path: false,
                reason: None,
                ..data(4005, to, Known::Nothing)
            },
        ),
        hit("hit, UDP, 64 bytes", data(4006, to, egress(ALWAYS, FLOW_ACTIVE))),
        hit(
            "hit with NAT, UDP, 64 bytes",
            data(4007, SERVICE, egress(ALWAYS, FLOW_ACTIVE | FLOW_NAT)),
        ),
    ]
}

fn to_vtep(bed: &Bed) -> Vec<Case> {
    let left = |name: &str, frame: Vec<u8>, reason| Case {
        program: VTEP_EGRESS,
        name: name.to_owned(),
        frame,
        reason: Some(reason),
        ..on(bed, bed.underlay)
    };
    let to = |to: Ipv4Addr, mac, len| frame((VTEP_MAC, mac), LOCAL_POD, to, 4200, len);
    let mut arp = to(peer_pod(0), peer_mac(0), 64);
    if let Some(ethertype) = arp.get_mut(12..14) {
        ethertype.copy_from_slice(&crate::packet::ETHERTYPE_ARP.to_be_bytes());
    }
    vec![
        left("left to the kernel: not IPv4", arp, Reason::EgressNotIp),
        left(
            "left to the kernel: no peer's subnet",
            to(Ipv4Addr::new(10, 210, 0, 7), peer_mac(0), 64),
            Reason::NoSubnet,
        ),
        left(
            "left to the kernel: another next hop",
            to(peer_pod(0), peer_mac(1), 64),
            Reason::OtherNextHop,
        ),
        left(
            "left to the kernel: too big",
            to(peer_pod(0), peer_mac(0), 1440),
            Reason::TooBig,
        ),
        left(
            "left to the kernel: neighbour unknown",
            to(peer_pod(1), peer_mac(1), 64),
            Reason::NoNeighbour,
        ),
    ]
}

fn from_underlay(bed: &Bed) -> Vec<Case> {
    let eth = || Ethernet::new(Mac([2, 0xbb, 0, 0, 0, 2]), Mac(UNDERLAY_MAC));
    let ip = || Ipv4::new(peer_vtep(0), VTEP);
    let foreign = |name: &str, frame: Frame| Case {
        program: UNDERLAY_INGRESS,
        name: format!("not the overlay's: {name}"),
        frame: frame.bytes(),
        ..on(bed, bed.underlay)
    };
    let ingress = |validated, state| Known::Ingress { validated, state };
    let hit = |name: &str, port, state| Case {
        name: name.to_owned(),
        reason: Some(Reason::IngressFast),
        method: Method::Single,
        ..from_peer(bed, port, ingress(ALWAYS, state))
    };
    vec![
        foreign(
            "TCP",
            Frame::tcp(eth(), ip(), Tcp::new(40_000, 6443, &[0x55; 64])),
        ),
        foreign(
            "UDP to another port",
            Frame::udp(eth(), ip(), Udp::new(40_000, 53, &[0x55; 64])),
        ),
        Case {
            name: "accepted, entry expired".to_owned(),
            ..from_peer(bed, 5004, ingress(LONG_AGO, FLOW_ACTIVE))
        },
        hit("hit, UDP, 64 bytes", 5005, FLOW_ACTIVE),
        hit("hit with NAT, UDP, 64 bytes", 5006, FLOW_ACTIVE | FLOW_NAT),
    ]
}

/// What goes to a pod through the stack, and the program that does next to nothing, in both ways of measuring.
fn to_pods(bed: &Bed) -> Vec<Case> {
    let into_pod = frame(([2, 0, 0, 0, 0xb0, 1], POD_MAC), peer_pod(0), LOCAL_POD, 5007, 64);
    let nothing = |name: String, method| Case {
        program: VTEP_INGRESS,
        name,
        frame: into_pod.clone(),
        method,
        ..on(bed, bed.underlay)
    };
    vec![
        Case {
            program: POD_EGRESS,
            name: "no ticket".to_owned(),
            frame: into_pod.clone(),
            ..on(bed, bed.pod)
        },
        nothing(NOTHING.to_owned(), Method::Repeated),
        nothing(NOTHING.to_owned(), Method::Single),
    ]
}

/// A packet on a device, of no flow, which is not the overlay's.
fn on(_bed: &Bed, ifindex: u32) -> Case {
    Case {
        program: VTEP_INGRESS,
        name: String::new(),
        frame: Vec::new(),
        ifindex,
        fast_path: true,
        flow: None,
        reason: None,
        method: Method::Repeated,
    }
}

/// A tunnel packet of the first peer from port 53 to `port` of a pod, which is accepted.
fn from_peer(bed: &Bed, port: u16, known: Known) -> Case {
    Case {
        program: UNDERLAY_INGRESS,
        frame: tunnel(peer_vtep(0), port),
        flow: Some(Flow {
            key: key(peer_pod(0), 53, LOCAL_POD, port),
            known,
        }),
        reason: Some(Reason::Accepted),
        ..on(bed, bed.underlay)
    }
}

fn tunnel(from: Ipv4Addr, port: u16) -> Vec<u8> {
    let inner = Frame::udp(
        Ethernet::new(Mac(peer_mac(0)), Mac(VTEP_MAC)),
        Ipv4::new(peer_pod(0), LOCAL_POD),
        Udp::new(53, port, &[0x55; 64]),
    );
    VxlanFrame::new(
        Ethernet::new(Mac([2, 0xbb, 0, 0, 0, 2]), Mac(UNDERLAY_MAC)),
        Ipv4::new(from, VTEP),
        inner.bytes(),
    )
    .bytes()
}

/// A datagram from `port` to port 53.
fn frame(
    (from_mac, to_mac): ([u8; 6], [u8; 6]),
    from: Ipv4Addr,
    to: Ipv4Addr,
    port: u16,
    len: usize,
) -> Vec<u8> {
    Frame::udp(
        Ethernet::new(Mac(from_mac), Mac(to_mac)),
        Ipv4::new(from, to),
        Udp::new(port, 53, &vec![0x55; len]),
    )
    .bytes()
}

fn key(from: Ipv4Addr, from_port: u16, to: Ipv4Addr, to_port: u16) -> FlowKey {
    FlowKey::new(
        addr(from),
        from_port.to_be_bytes(),
        addr(to),
        to_port.to_be_bytes(),
        crate::packet::PROTOCOL_UDP,
    )
}
