//! The kernel side of the overlay that is reached by route netlink: links, addresses, routes, neighbours and the
//! forwarding database of our VXLAN device.
//!
//! ```text
//! observe   everything of one device, complete or an error     execute   one action, or many to a system call
//! underlay  the device that encapsulated packets leave by      events    something changed that may concern us
//! ```
//!
//! All of it works on the network namespace of the thread that calls [`Netlink::connect`] and [`Netlink::events`].

mod conflict;
mod connection;
mod device;
mod error;
mod events;
mod execute;
mod explain;
mod filter;
mod link;
mod observe;
mod packet;
mod request;
mod route;
mod route_mtu;
mod socket;
mod underlay;

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use overlay_core::model::MacAddr;

use self::socket::Socket;

pub use self::events::Events;
pub use self::underlay::Place;

/// A request socket. Clones share it; their requests take turns.
#[derive(Clone)]
pub struct Netlink {
    socket: Arc<Socket>,
    /// Index and intended MAC address of the device that this process created last.
    created: Arc<Mutex<Option<(u32, MacAddr)>>>,
}

impl Netlink {
    /// Opens a route netlink socket in the calling thread's network namespace. Must be called on a tokio runtime with
    /// I/O and time enabled.
    ///
    /// # Errors
    ///
    /// When no socket can be had.
    pub fn connect() -> Result<Self> {
        let socket = Socket::open().context("connecting to the kernel")?;
        Ok(Self {
            socket: Arc::new(socket),
            created: Arc::default(),
        })
    }

    fn remember(&self, ifindex: u32, mac: MacAddr) {
        *self.created.lock().unwrap_or_else(PoisonError::into_inner) = Some((ifindex, mac));
    }

    /// The MAC address that this process gave the device of this index, if it created it.
    fn remembered(&self, ifindex: u32) -> Option<MacAddr> {
        let created = *self.created.lock().unwrap_or_else(PoisonError::into_inner);
        created
            .filter(|&(created, _)| created == ifindex)
            .map(|(_, mac)| mac)
    }
}
