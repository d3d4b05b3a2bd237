//! Being told that something changed.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;
use nix::errno::Errno;
use rtnetlink::MulticastGroup;
use rtnetlink::proto::sys::{SocketAddr, TokioSocket};
use tokio::task::unconstrained;

use super::Netlink;
use super::filter::{Filter, Watched};
use crate::rtnl::notifications::{DATAGRAM, receive, subscribe};

/// Groups that tell of links, addresses, routes, and neighbours (forwarding database entries among them).
const GROUPS: [MulticastGroup; 4] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Neigh,
];

/// Receive buffer in bytes: a plan for 1,000 peers causes 3,000 notifications.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Datagrams that one [`Events::changed`] merges at most, so that a stream of changes does not starve the caller.
const MERGE: usize = 10_000;

/// Pause between attempts to open a socket again.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Changes in the kernel that may concern our device. Made by [`Netlink::events`].
pub struct Events {
    netlink: Netlink,
    filter: Filter,
    /// `None` after an error, until another can be opened.
    socket: Option<TokioSocket>,
    buffer: Vec<u8>,
    /// Notifications were lost: the devices' indices are uncertain, and whoever waits must look at everything.
    lost: bool,
}

impl Netlink {
    /// Subscribes to changes of the device of this name (it need not exist), the underlay device, default routes, and
    /// VXLAN devices. Whatever happens after this call is reported, so observe after it.
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
            },
            socket: Some(
                subscribe(&GROUPS, RECEIVE_BUFFER)
                    .context("subscribing to changes of links, addresses, routes and neighbours")?,
            ),
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
    /// Waits until something changed that may concern us. Many changes may be one event; an event may be nothing new.
    /// Notifications that the kernel had to drop, and a socket that had to be opened again, are an event too.
    ///
    /// Dropping the future loses nothing.
    pub async fn changed(&mut self) {
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
            let received = receive(socket, &mut self.buffer).await;
            if self.take(received) {
                self.drain();
                return;
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
                self.lost = true;
                false
            }
            Err(error) => {
                log::warn!("the notification socket failed: {error}; opening another");
                self.socket = None;
                false
            }
        }
    }

    /// Merges what has already arrived into one event. Bounded, so tokio's cooperative budget need not end it early.
    fn drain(&mut self) {
        for _ in 0..MERGE {
            let Some(socket) = &self.socket else { return };
            let Some(received) = unconstrained(receive(socket, &mut self.buffer)).now_or_never() else {
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
