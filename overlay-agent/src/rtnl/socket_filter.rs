//! Notifications that the kernel does not queue at all: nobody is woken by what is of no interest.
//!
//! Classic BPF on the socket (socket(7), `SO_ATTACH_FILTER`). The kernel sends one message in each notification, so the
//! header is where the datagram begins. Who reads must judge for themselves all the same: a filter comes later than its
//! socket, and only saves work.

use std::os::fd::AsFd;

use nix::libc::{
    BPF_ABS, BPF_B, BPF_H, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, RTM_DELNEIGH, RTM_DELROUTE,
    RTM_NEWNEIGH, RTM_NEWROUTE,
};
use socket2::{SockFilter, SockRef};

/// Loads a byte, half a word or a word from an offset.
const LOAD_BYTE: u16 = code(BPF_LD | BPF_B | BPF_ABS);
const LOAD_HALF: u16 = code(BPF_LD | BPF_H | BPF_ABS);
const LOAD_WORD: u16 = code(BPF_LD | BPF_W | BPF_ABS);
const JUMP_IF_EQUAL: u16 = code(BPF_JMP | BPF_JEQ | BPF_K);
const RETURN: u16 = code(BPF_RET | BPF_K);

/// Offset of `nlmsg_type`.
const TYPE: u32 = 4;
/// Offset of `nlmsg_pid`.
const PORT: u32 = 12;
/// Offset of `rtm_dst_len`: behind the header of 16 bytes and the family.
const ROUTE_PREFIX_LENGTH: u32 = 17;

/// The whole message.
const ACCEPT: u32 = u32::MAX;
const DROP: u32 = 0;

/// Of IPv4 routes only those to single addresses.
pub(crate) fn host_routes_only(socket: &impl AsFd) {
    attach(
        socket,
        &[
            SockFilter::new(LOAD_HALF, 0, 0, TYPE),
            equals(kind(RTM_NEWROUTE), 1, 0),
            equals(kind(RTM_DELROUTE), 0, 2),
            SockFilter::new(LOAD_BYTE, 0, 0, ROUTE_PREFIX_LENGTH),
            equals(32, 0, 1),
            end(ACCEPT),
            end(DROP),
        ],
    );
}

/// Of routes and neighbours (forwarding entries among them) only those that do not name `port` as their cause.
pub(crate) fn others_changes_only(socket: &impl AsFd, port: u32) {
    attach(
        socket,
        &[
            SockFilter::new(LOAD_HALF, 0, 0, TYPE),
            equals(kind(RTM_NEWROUTE), 3, 0),
            equals(kind(RTM_DELROUTE), 2, 0),
            equals(kind(RTM_NEWNEIGH), 1, 0),
            equals(kind(RTM_DELNEIGH), 0, 3),
            SockFilter::new(LOAD_WORD, 0, 0, PORT),
            equals(port.to_be(), 0, 1),
            end(DROP),
            end(ACCEPT),
        ],
    );
}

fn attach(socket: &impl AsFd, program: &[SockFilter]) {
    if let Err(error) = SockRef::from(socket).attach_filter(program) {
        log::debug!("no filter on a socket for notifications, each is looked at: {error}");
    }
}

/// A message type as it is loaded: loads are in network byte order, netlink is in the host's.
fn kind(kind: u16) -> u32 {
    kind.to_be().into()
}

/// Skips so many instructions if it is `value`, or if it is not.
fn equals(value: u32, if_so: u8, if_not: u8) -> SockFilter {
    SockFilter::new(JUMP_IF_EQUAL, if_so, if_not, value)
}

fn end(length: u32) -> SockFilter {
    SockFilter::new(RETURN, 0, 0, length)
}

/// An operation as the kernel has it: in 16 bits.
const fn code(operation: u32) -> u16 {
    let [low, high, rest @ ..] = operation.to_le_bytes();
    assert!(matches!(rest, [0, 0]));
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use nix::libc::MSG_DONTWAIT;
    use rtnetlink::sys::Socket;
    use rtnetlink::sys::protocols::NETLINK_USERSOCK;

    use super::*;

    const PORT_OF_OURS: u32 = 0x0102_0304;

    /// Whether a message from another socket gets through.
    fn passes(filter: impl Fn(&Socket), message: &[u8]) -> bool {
        let mut receiver = Socket::new(NETLINK_USERSOCK).unwrap();
        let address = receiver.bind_auto().unwrap();
        filter(&receiver);
        let sender = Socket::new(NETLINK_USERSOCK).unwrap();
        sender.send_to(message, &address, 0).unwrap();
        receiver.recv(&mut Vec::with_capacity(64), MSG_DONTWAIT).is_ok()
    }

    fn message(kind: u16, port: u32, prefix_length: u8) -> Vec<u8> {
        let header = 28_u32.to_ne_bytes().into_iter().chain(kind.to_ne_bytes());
        let rest = [0; 6].into_iter().chain(port.to_ne_bytes());
        let route = [2, prefix_length, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0];
        header.chain(rest).chain(route).collect()
    }

    #[test]
    fn routes_to_subnets_are_not_queued() {
        let passes = |kind, bits| passes(host_routes_only, &message(kind, 0, bits));
        for kind in [RTM_NEWROUTE, RTM_DELROUTE] {
            assert!(passes(kind, 32));
            assert!(!passes(kind, 24) && !passes(kind, 0));
        }
        // Links, addresses, filters.
        for kind in [16, 17, 20, 21, 36, 44] {
            assert!(passes(kind, 24), "{kind}");
        }
    }

    #[test]
    fn own_changes_are_not_queued() {
        let passes = |kind, port| {
            let filter = |socket: &_| others_changes_only(socket, PORT_OF_OURS);
            passes(filter, &message(kind, port, 24))
        };
        for kind in [RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWNEIGH, RTM_DELNEIGH] {
            assert!(!passes(kind, PORT_OF_OURS), "{kind}");
            assert!(
                passes(kind, 0) && passes(kind, PORT_OF_OURS.swap_bytes()),
                "{kind}"
            );
        }
        for kind in [16, 17, 20, 21] {
            assert!(passes(kind, PORT_OF_OURS), "{kind}");
        }
    }

    /// Ports change when a socket is opened again.
    #[test]
    fn a_filter_takes_the_place_of_another() {
        let both = |socket: &_| {
            others_changes_only(socket, PORT_OF_OURS);
            others_changes_only(socket, 7);
        };
        assert!(passes(both, &message(RTM_NEWROUTE, PORT_OF_OURS, 24)));
        assert!(!passes(both, &message(RTM_NEWROUTE, 7, 24)));
    }
}
