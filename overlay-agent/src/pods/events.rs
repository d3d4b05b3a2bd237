//! Being told that devices have come, changed or gone.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use futures_util::FutureExt as _;
use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::libc::{
    RTM_DELADDR, RTM_DELLINK, RTM_DELQDISC, RTM_DELROUTE, RTM_DELTFILTER, RTM_NEWADDR, RTM_NEWLINK,
    RTM_NEWQDISC, RTM_NEWROUTE, RTM_NEWTFILTER,
};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkBuffer;
use rtnetlink::proto::sys::{AsyncSocket as _, SocketAddr, TokioSocket};
use tokio::task::unconstrained;

use super::links::host_route;
use crate::rtnl::notifications::{DATAGRAM, receive, subscribe};
use crate::rtnl::socket_filter::host_routes_only;
use crate::rtnl::u32_at;

const AF_UNSPEC: u8 = 0;

/// `TCM_IFINDEX_MAGIC_BLOCK`: a filter of a block that several devices share, which are not named.
const SHARED_BLOCK: u32 = u32::MAX;

/// Offset of the interface index in `struct ifinfomsg` and `struct tcmsg`.
const IFINDEX: usize = 4;

const GROUPS: [MulticastGroup; 4] = [
    MulticastGroup::Link,
    MulticastGroup::Tc,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
];

/// Receive buffer in bytes: hundreds of pods may come or go as one burst.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Datagrams that are merged at most.
const MERGE: usize = 20_000;

/// Pause between attempts to open a socket again.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// What has happened since it was last taken.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Something may be different.
    pub(super) any: bool,
    /// Notifications were lost: nothing that was known is certain.
    pub(super) lost: bool,
    /// Devices that have ended.
    pub(super) gone: BTreeSet<u32>,
    /// Devices whose qdiscs or filters have changed.
    pub(super) traffic_control: BTreeSet<u32>,
}

/// A subscription.
pub(super) struct Events {
    /// `None` after an error, until another can be opened.
    socket: Option<TokioSocket>,
    buffer: Vec<u8>,
    /// The node's pod subnet: routes to elsewhere are of no interest.
    pub(super) subnet: Option<Ipv4Net>,
    /// The port that our own changes of filters come from: there is nothing to look at again.
    pub(super) own_port: Option<u32>,
    pub(super) news: News,
}

impl Events {
    /// Subscribes in the network namespace of the calling thread. Needs a tokio runtime.
    pub(super) fn subscribe() -> io::Result<Self> {
        Ok(Self {
            socket: Some(open()?),
            buffer: Vec::with_capacity(DATAGRAM),
            subnet: None,
            own_port: None,
            news: News::default(),
        })
    }

    /// Waits until there is news. Dropping the future loses nothing.
    pub(super) async fn changed(&mut self) {
        while !self.news.any && !self.news.lost {
            let Some(socket) = &self.socket else {
                match open() {
                    Ok(socket) => {
                        self.socket = Some(socket);
                        self.news.lost = true;
                    }
                    Err(error) => {
                        log::warn!(
                            "new pods are noticed late: cannot subscribe to changes of links: {error}; trying again in \
                             {REOPEN_PAUSE:?}"
                        );
                        tokio::time::sleep(REOPEN_PAUSE).await;
                    }
                }
                continue;
            };
            let received = receive(socket, &mut self.buffer).await;
            self.take(received);
        }
    }

    /// Takes what has already arrived. Bounded, so tokio's cooperative budget need not end it early.
    pub(super) fn drain(&mut self) -> News {
        for _ in 0..MERGE {
            let Some(socket) = &self.socket else { break };
            let Some(received) = unconstrained(receive(socket, &mut self.buffer)).now_or_never() else {
                break;
            };
            self.take(received);
        }
        std::mem::take(&mut self.news)
    }

    fn take(&mut self, received: io::Result<SocketAddr>) {
        match received {
            // Only the kernel speaks for the kernel.
            Ok(sender) if sender.port_number() == 0 => {
                self.news.read(&self.buffer, self.subnet.as_ref(), self.own_port);
            }
            Ok(_) => {}
            // Until its queue has been read to the end the kernel would go on dropping, without another word.
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => self.socket = None,
            Err(error) => {
                log::warn!("the socket for changes of links failed: {error}; opening another");
                self.socket = None;
            }
        }
    }
}

/// The routes to peers wake nobody here: one for each, in the moment in which the other loop needs the CPU.
fn open() -> io::Result<TokioSocket> {
    let socket = subscribe(&GROUPS, RECEIVE_BUFFER)?;
    host_routes_only(socket.socket_ref());
    Ok(socket)
}

impl News {
    fn read(&mut self, datagram: &[u8], subnet: Option<&Ipv4Net>, own_port: Option<u32>) {
        let mut rest = datagram;
        while !rest.is_empty() {
            let Ok(message) = NetlinkBuffer::new_checked(rest) else {
                self.lost = true;
                return;
            };
            // The kernel names the port of the one whose request it was; 0 is nobody's.
            if own_port.is_none_or(|own| own != message.port_number()) {
                self.message(message.message_type(), message.payload(), subnet);
            }
            let length = usize::try_from(message.length())
                .unwrap_or(usize::MAX)
                .next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }

    fn message(&mut self, kind: u16, payload: &[u8], subnet: Option<&Ipv4Net>) {
        match kind {
            RTM_NEWLINK | RTM_NEWADDR | RTM_DELADDR => self.any = true,
            RTM_DELLINK => {
                self.any = true;
                // Of the bridge family it says that a port has left, which lives on.
                if payload.first() == Some(&AF_UNSPEC) {
                    self.gone.extend(u32_at(payload, IFINDEX));
                }
            }
            RTM_NEWQDISC | RTM_DELQDISC | RTM_NEWTFILTER | RTM_DELTFILTER => {
                self.any = true;
                let ifindex = u32_at(payload, IFINDEX);
                self.lost |= ifindex == Some(SHARED_BLOCK);
                self.traffic_control.extend(ifindex);
            }
            RTM_NEWROUTE | RTM_DELROUTE => {
                let pod = |address| subnet.is_some_and(|subnet| subnet.contains(&address));
                self.any |= match host_route(payload) {
                    Ok(route) => route.is_some_and(|(_, address)| pod(address)),
                    Err(_) => true,
                };
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN_PORT: u32 = 4711;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes
    }

    fn about(family: u8, ifindex: u8) -> [u8; 20] {
        let mut payload = [0; 20];
        payload[0] = family;
        payload[4..8].copy_from_slice(&u32::from(ifindex).to_ne_bytes());
        payload
    }

    fn route(bits: u8, destination: [u8; 4]) -> Vec<u8> {
        let mut payload = vec![2, bits, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0];
        payload.extend([8, 0, 1, 0].iter().chain(&destination));
        payload.extend([8, 0, 4, 0].iter().chain(&7_u32.to_ne_bytes()));
        payload
    }

    fn news(messages: &[Vec<u8>]) -> News {
        let mut news = News::default();
        news.read(
            &messages.concat(),
            Some(&"10.244.1.0/24".parse().unwrap()),
            Some(OWN_PORT),
        );
        news
    }

    #[test]
    fn the_end_of_a_device_is_told_from_leaving_a_bridge() {
        let bridge = u8::try_from(nix::libc::AF_BRIDGE).unwrap();
        let left = news(&[message(RTM_DELLINK, &about(bridge, 7))]);
        assert!(left.any && left.gone.is_empty());
        let ended = news(&[
            message(RTM_DELLINK, &about(0, 7)),
            message(RTM_DELLINK, &about(0, 8)),
        ]);
        assert_eq!(ended.gone, [7, 8].into());
    }

    #[test]
    fn only_host_routes_to_local_pods_matter() {
        assert!(news(&[message(RTM_NEWROUTE, &route(32, [10, 244, 1, 9]))]).any);
        for elsewhere in [route(24, [10, 244, 1, 0]), route(32, [10, 244, 2, 9])] {
            assert_eq!(news(&[message(RTM_NEWROUTE, &elsewhere)]), News::default());
        }
    }

    #[test]
    fn traffic_control_names_its_device() {
        for kind in [RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTFILTER, RTM_DELTFILTER] {
            let news = news(&[message(kind, &about(0, 7))]);
            assert!(news.any && !news.lost, "{kind}");
            assert_eq!(news.traffic_control, [7].into(), "{kind}");
        }
    }

    #[test]
    fn a_filter_of_a_shared_block_may_be_anybodys() {
        let mut shared = about(0, 0);
        shared[4..8].copy_from_slice(&SHARED_BLOCK.to_ne_bytes());
        assert!(news(&[message(RTM_NEWTFILTER, &shared)]).lost);
    }

    #[test]
    fn what_we_did_ourselves_is_no_news() {
        let mut own = message(RTM_NEWTFILTER, &about(0, 7));
        own[12..16].copy_from_slice(&OWN_PORT.to_ne_bytes());
        let theirs = message(RTM_NEWTFILTER, &about(0, 8));
        assert_eq!(news(&[own, theirs]).traffic_control, [8].into());
    }

    #[test]
    fn what_cannot_be_read_makes_everything_uncertain() {
        assert!(news(&[vec![1, 2, 3]]).lost);
    }
}
