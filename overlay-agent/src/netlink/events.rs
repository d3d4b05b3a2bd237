//! Being told that something changed.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc::MSG_DONTWAIT;
use rtnetlink::MulticastGroup;
use rtnetlink::proto::sys::{AsyncSocket as _, SocketAddr, TokioSocket};

use super::Netlink;
use super::filter::{Filter, Watched};
use crate::rtnl::notifications::{DATAGRAM, receive, subscribe};
use crate::rtnl::socket_filter::others_changes_only;

/// Groups that tell of links, addresses, routes, rules, and neighbours (forwarding database entries among them).
const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Neigh,
];

/// Receive buffer in bytes: some 10,000 notifications. The requests of a plan give way to their being read, but removing
/// a device with thousands of entries does not.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Datagrams that one [`Events::changed`] merges at most, so that a stream of changes does not starve the caller.
const MERGE: usize = 10_000;

/// Datagrams that are read in one turn.
const TURN: usize = 256;

/// Pause between attempts to open a socket again.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Changes in the kernel that may concern our device. Made by [`Netlink::events`].
pub struct Events {
    netlink: Netlink,
    filter: Filter,
    /// `None` after an error, until another can be opened.
    socket: Option<TokioSocket>,
    /// The port of which the kernel tells this socket nothing but what the notes are for.
    silenced: Option<u32>,
    buffer: Vec<u8>,
    /// Notifications were lost: the devices' indices are uncertain, and whoever waits must look at everything.
    lost: bool,
}

impl Netlink {
    /// Subscribes to changes of the device of this name (it need not exist), the underlay device, default routes,
    /// rules that look at source ports, and VXLAN devices. Whatever happens after this call is reported, so observe after it.
    ///
    /// # Errors
    ///
    /// When no socket can be had, or the devices cannot be looked up.
    pub async fn events(&self, device: &str, underlay: Option<&str>) -> Result<Events> {
        let mut events = Events {
            netlink: self.clone(),
            filter: Filter {
                device: Watched::named(device),
                underlay: underlay.map(Watched::named),
                own: self.socket.own().listener(),
            },
            socket: Some(
                subscribe(&GROUPS, RECEIVE_BUFFER)
                    .context("subscribing to changes of links, addresses, routes, rules and neighbours")?,
            ),
            silenced: None,
            buffer: Vec::with_capacity(DATAGRAM),
            lost: false,
        };
        events.look_up().await?;
        Ok(events)
    }

    async fn index_of(&self, name: &str) -> Result<Option<u32>> {
        let link = self
            .socket
            .link_named(name)
            .await
            .with_context(|| format!("looking up the interface `{name}`"))?;
        Ok(link.map(|link| link.ifindex))
    }
}

impl Events {
    /// Waits until something changed that may concern us, other than by the requests of this [`Netlink`]. Many changes may be one event; an event may be nothing new.
    /// Notifications that the kernel had to drop, and a socket that had to be opened again, are an event too.
    ///
    /// Dropping the future loses nothing.
    pub async fn changed(&mut self) {
        let mut taken: usize = 0;
        loop {
            if self.lost {
                match self.look_up().await {
                    Ok(()) => {
                        self.lost = false;
                        return;
                    }
                    Err(error) => {
                        log::warn!("after lost notifications: {error:#}; trying again in {REOPEN_PAUSE:?}");
                        tokio::time::sleep(REOPEN_PAUSE).await;
                        continue;
                    }
                }
            }
            let Some(socket) = &self.socket else {
                match subscribe(&GROUPS, RECEIVE_BUFFER) {
                    Ok(socket) => {
                        self.socket = Some(socket);
                        self.silenced = None;
                        self.lost = true;
                    }
                    Err(error) => {
                        log::warn!(
                            "cannot subscribe to changes in the kernel: {error}; trying again in {REOPEN_PAUSE:?}"
                        );
                        tokio::time::sleep(REOPEN_PAUSE).await;
                    }
                }
                continue;
            };
            let port = self.filter.own.port();
            if let Some(port) = port.filter(|_| port != self.silenced) {
                others_changes_only(socket.socket_ref(), port);
            }
            self.silenced = port;
            let answered = self.filter.own.answered();
            let received = match queued(socket, &mut self.buffer) {
                Some(received) => received,
                None => {
                    self.filter.own.settle(answered);
                    receive(socket, &mut self.buffer).await
                }
            };
            if self.take(received) {
                self.drain();
                return;
            }
            // A stream of our own notifications must not keep other tasks waiting.
            taken += 1;
            if taken.is_multiple_of(TURN) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Watches another underlay device from now on.
    ///
    /// # Errors
    ///
    /// When the device cannot be looked up.
    pub async fn set_underlay(&mut self, name: &str) -> Result<()> {
        if self
            .filter
            .underlay
            .as_ref()
            .is_some_and(|underlay| underlay.name == name)
        {
            return Ok(());
        }
        let ifindex = self.netlink.index_of(name).await?;
        self.filter.underlay = Some(Watched {
            name: name.to_owned(),
            ifindex,
        });
        Ok(())
    }

    /// Handles what was received; whether it may concern us.
    fn take(&mut self, received: io::Result<SocketAddr>) -> bool {
        match received {
            // Only the kernel speaks for the kernel.
            Ok(sender) => sender.port_number() == 0 && self.filter.concerns(&self.buffer),
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                log::debug!("the kernel dropped notifications: looking at everything");
                self.filter.own.lost();
                // Until its queue has been read to the end the kernel would go on dropping, without another word.
                self.socket = None;
                false
            }
            Err(error) => {
                log::warn!("the notification socket failed: {error}; opening another");
                self.socket = None;
                false
            }
        }
    }

    /// Merges what has already arrived into one event. Bounded.
    fn drain(&mut self) {
        for _ in 0..MERGE {
            let Some(socket) = &self.socket else { return };
            let answered = self.filter.own.answered();
            let Some(received) = queued(socket, &mut self.buffer) else {
                self.filter.own.settle(answered);
                return;
            };
            self.take(received);
        }
    }

    async fn look_up(&mut self) -> Result<()> {
        self.filter.device.ifindex = self.netlink.index_of(&self.filter.device.name).await?;
        if let Some(underlay) = &mut self.filter.underlay {
            underlay.ifindex = self.netlink.index_of(&underlay.name).await?;
        }
        Ok(())
    }
}

/// The next datagram of the queue; `None` when it is empty. Asks the kernel, and not the runtime, which may not know yet.
fn queued(socket: &TokioSocket, buffer: &mut Vec<u8>) -> Option<io::Result<SocketAddr>> {
    buffer.clear();
    match socket.socket_ref().recv_from(buffer, MSG_DONTWAIT) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        received => Some(received.map(|(_, sender)| sender)),
    }
}
