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
mod own;
mod packet;
mod request;
mod route;
mod route_mtu;
mod rules;
mod socket;
mod underlay;
mod vtep;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use overlay_core::action::KernelAction;
use overlay_core::model::MacAddr;

use self::socket::Socket;

pub use self::events::Events;
pub use self::underlay::{InterfaceChoice, InterfaceRegex, Kept, Place};

/// A request socket. Clones share it; their requests take turns.
#[derive(Clone)]
pub struct Netlink {
    socket: Arc<Socket>,
    memory: Arc<Mutex<Memory>>,
}

/// What this process knows of the devices that it looks after.
#[derive(Default)]
struct Memory {
    /// Index and intended MAC address of the device that was created last.
    created: Option<(u32, MacAddr)>,
    /// Index of the device that was looked at or changed last, and about how many routes are on it.
    routes: (u32, usize),
}

impl Netlink {
    /// Opens a route netlink socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// When no socket can be had.
    pub fn connect() -> Result<Self> {
        Ok(Self {
            socket: Arc::new(Socket::open().context("connecting to the kernel")?),
            memory: Arc::default(),
        })
    }

    /// A socket of its own, in the calling thread's network namespace, that knows what this one does. For looking, on
    /// another thread: what it changes itself is news to [`Netlink::events`].
    ///
    /// # Errors
    ///
    /// When no socket can be had.
    pub fn another(&self) -> Result<Self> {
        Ok(Self {
            memory: Arc::clone(&self.memory),
            ..Self::connect()?
        })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, ifindex: u32, mac: MacAddr) {
        self.memory().created = Some((ifindex, mac));
    }

    /// The MAC address that this process gave the device of this index, if it created it.
    fn remembered(&self, ifindex: u32) -> Option<MacAddr> {
        let created = self.memory().created;
        created
            .filter(|&(created, _)| created == ifindex)
            .map(|(_, mac)| mac)
    }

    /// About how many routes are on the device; none when it was never looked at.
    fn routes_on(&self, ifindex: u32) -> usize {
        let (device, routes) = self.memory().routes;
        if device == ifindex { routes } else { 0 }
    }

    fn set_routes_on(&self, ifindex: u32, routes: usize) {
        self.memory().routes = (ifindex, routes);
    }

    /// Takes note of an action that was carried out.
    fn count_route(&self, ifindex: u32, action: &KernelAction) {
        let before = self.routes_on(ifindex);
        if matches!(action, KernelAction::SetRoute { .. }) {
            self.set_routes_on(ifindex, before.saturating_add(1));
        } else if matches!(action, KernelAction::RemoveRoute { .. }) {
            self.set_routes_on(ifindex, before.saturating_sub(1));
        }
    }
}
