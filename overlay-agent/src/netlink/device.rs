//! Creating, changing and deleting our device.

use std::io::ErrorKind;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::errno::Errno;
use overlay_core::action::{KernelAction, VxlanDevice};
use overlay_core::model::MacAddr;
use overlay_core::ownership::DEVICE_MARK;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan};

use super::Netlink;
use super::error::RequestError;
use super::explain::explain;
use super::link::{KERNEL_VXLAN_PORT, Link};
use super::request::Change;

impl Netlink {
    pub(super) async fn create_device(&self, action: &KernelAction, device: &VxlanDevice) -> Result<()> {
        let request = RouteNetlinkMessage::NewLink(creation(device));
        match self
            .socket
            .change_one(Change::new(request, NLM_F_CREATE | NLM_F_EXCL))
            .await
        {
            Ok(()) => {}
            Err(error) if error.errno() == Some(Errno::EEXIST) => {
                return self.create_existing(action, device, &error).await;
            }
            Err(error) => return Err(explain(action, &device.name, &error)),
        }
        let link = self.link(action, &device.name).await?;
        self.remember(link.ifindex, device.mac);
        self.mark(action, &link).await?;
        refuse_router_advertisements(&device.name);
        Ok(())
    }

    /// The kernel says that the device exists: done before, or a conflict.
    async fn create_existing(
        &self,
        action: &KernelAction,
        device: &VxlanDevice,
        error: &RequestError,
    ) -> Result<()> {
        let named = self
            .socket
            .link_named(&device.name)
            .await
            .map_err(|e| explain(action, &device.name, &e))?;
        if let Some(link) = named {
            if !fits(&link, device) {
                bail!(
                    "{action}: {error}; there is another link of that name, {}: delete it if nothing needs it",
                    link.describe()
                );
            }
            if self.remembered(link.ifindex).is_some() && link.alias.is_none() {
                self.mark(action, &link).await?;
            }
            return Ok(());
        }
        let port = device.port.unwrap_or(KERNEL_VXLAN_PORT);
        let same = |link: &Link| {
            link.vxlan
                .as_ref()
                .is_some_and(|vxlan| vxlan.vni == device.vni && vxlan.port == port)
        };
        let others = self
            .socket
            .vxlan_links()
            .await
            .map_err(|e| explain(action, &device.name, &e))?;
        let others: Vec<_> = others
            .iter()
            .filter(|link| same(link))
            .map(Link::describe)
            .collect();
        if others.is_empty() {
            return Err(explain(action, &device.name, error));
        }
        bail!(
            "{action}: {error}; VNI {} on UDP port {port} is taken by {}: delete that device, or give one of them another VNI or port",
            device.vni,
            others.join(", "),
        )
    }

    /// Marks the device as made by this agent. A second request: the kernel ignores `IFLA_IFALIAS` in a creation.
    async fn mark(&self, action: &KernelAction, link: &Link) -> Result<()> {
        let message = LinkUnspec::new_with_index(link.ifindex)
            .alias(DEVICE_MARK)
            .build();
        let marked = self
            .socket
            .change_one(Change::new(RouteNetlinkMessage::SetLink(message), 0))
            .await;
        marked.with_context(|| {
            format!(
                "{action}: cannot mark `{}` as made by this agent; `cleanup` will leave it in place",
                link.name
            )
        })
    }

    pub(super) async fn delete_device(&self, action: &KernelAction, name: &str, ifindex: u32) -> Result<()> {
        let link = self
            .socket
            .link_indexed(ifindex)
            .await
            .map_err(|error| explain(action, name, &error))?;
        let Some(link) = link else { return Ok(()) };
        if link.name != name || link.vxlan.is_none() {
            bail!(
                "{action}: index {ifindex} is now {}: left in place",
                link.describe()
            );
        }
        let message = LinkUnspec::new_with_index(ifindex).build();
        match self
            .socket
            .change_one(Change::new(RouteNetlinkMessage::DelLink(message), 0))
            .await
        {
            Err(error) if error.errno() != Some(Errno::ENODEV) => Err(explain(action, name, &error)),
            Err(_) | Ok(()) => Ok(()),
        }
    }

    pub(super) async fn set_device_mtu(&self, action: &KernelAction, name: &str, mtu: u32) -> Result<()> {
        let link = self.link(action, name).await?;
        let message = LinkUnspec::new_with_index(link.ifindex).mtu(mtu).build();
        let changed = self
            .socket
            .change_one(Change::new(RouteNetlinkMessage::SetLink(message), 0))
            .await;
        changed.map_err(|error| explain(action, name, &error))
    }

    /// Sets the device up and makes sure that it still has its MAC address: peers send to that one, and udev or
    /// systemd-networkd may change it when a device appears (flannel #1155, #1795).
    pub(super) async fn set_device_up(&self, action: &KernelAction, name: &str) -> Result<()> {
        let before = self.link(action, name).await?;
        let message = LinkUnspec::new_with_index(before.ifindex).up().build();
        match self
            .socket
            .change_one(Change::new(RouteNetlinkMessage::SetLink(message), 0))
            .await
        {
            Ok(()) => {}
            Err(error) if error.errno() == Some(Errno::EADDRINUSE) => {
                return Err(self.explain_port_in_use(action, &before, &error).await);
            }
            Err(error) => return Err(explain(action, name, &error)),
        }
        let after = self.link(action, name).await?;
        let wanted = self.remembered(before.ifindex).or(before.mac);
        if wanted != after.mac {
            let text = |mac: Option<MacAddr>| mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string());
            bail!(
                "{action}: `{name}` had MAC address {}, and has {} now. Something on this node changed it, probably \
                 udev or systemd-networkd: give it a .link file that matches `{name}` with MACAddressPolicy=none",
                text(wanted),
                text(after.mac),
            );
        }
        Ok(())
    }

    async fn explain_port_in_use(
        &self,
        action: &KernelAction,
        link: &Link,
        error: &RequestError,
    ) -> anyhow::Error {
        let Some(port) = link.vxlan.as_ref().map(|vxlan| vxlan.port) else {
            return explain(action, &link.name, error);
        };
        match self.vxlan_devices_on_port(port, &link.name).await {
            Ok(others) if others.is_empty() => anyhow!(
                "{}: {action}: {error}; UDP port {port} is taken by another process: see `ss -ulnp`",
                link.name,
            ),
            Ok(others) => anyhow!(
                "{}: {action}: {error}; UDP port {port} is used by {}: a metadata-mode (`external`) VXLAN device \
                 and one with a VNI cannot share a port. Delete that device or give one of them another port",
                link.name,
                others.join(", "),
            ),
            Err(_) => explain(action, &link.name, error),
        }
    }

    /// Names of the VXLAN devices other than `except_name` that use this UDP port, metadata-mode (`external`) ones
    /// included, up or down.
    ///
    /// # Errors
    ///
    /// When the list of links cannot be read completely.
    pub async fn vxlan_devices_on_port(&self, port: u16, except_name: &str) -> Result<Vec<String>> {
        let links = self.socket.vxlan_links().await.context("listing VXLAN devices")?;
        let on_port = |link: &Link| link.vxlan.as_ref().is_some_and(|vxlan| vxlan.port == port);
        Ok(links
            .into_iter()
            .filter(|link| link.name != except_name && on_port(link))
            .map(|link| link.name)
            .collect())
    }

    /// Our device, which must be there.
    async fn link(&self, action: &KernelAction, name: &str) -> Result<Link> {
        let link = self
            .socket
            .link_named(name)
            .await
            .map_err(|error| explain(action, name, &error))?;
        link.ok_or_else(|| {
            anyhow!("{action}: there is no device `{name}`; it is created again by the next plan")
        })
    }
}

/// `RTM_NEWLINK` with exactly the attributes that flannel sends (v0.28.9, pkg/backend/vxlan/device.go); what is left
/// out, like the UDP checksum, has the kernel's default.
fn creation(device: &VxlanDevice) -> LinkMessage {
    let mut builder: LinkMessageBuilder<LinkVxlan> = LinkVxlan::new(&device.name, device.vni)
        .address(device.mac.octets().to_vec())
        .txqueuelen(0)
        .dev(device.underlay_ifindex)
        .ttl(0)
        .tos(0)
        .learning(device.learning)
        .proxy(false)
        .rsc(false)
        .l2miss(false)
        .l3miss(false)
        .udp_zero_csum6_tx(false)
        .udp_zero_csum6_rx(false);
    builder = match device.local {
        std::net::IpAddr::V4(local) => builder.local(local),
        std::net::IpAddr::V6(local) => builder.local6(local),
    };
    if device.mtu > 0 {
        builder = builder.mtu(device.mtu);
    }
    if device.gbp {
        builder = builder.gbp();
    }
    if let Some(port) = device.port {
        builder = builder.port(port);
    }
    builder.build()
}

/// Whether the link is what the creation would have made.
fn fits(link: &Link, device: &VxlanDevice) -> bool {
    link.mac == Some(device.mac)
        && link.vxlan.as_ref().is_some_and(|vxlan| {
            vxlan.vni == device.vni
                && device.port.is_none_or(|port| port == vxlan.port)
                && vxlan.local == Some(device.local)
                && vxlan.underlay_ifindex == Some(device.underlay_ifindex)
                && vxlan.learning == device.learning
                && vxlan.gbp == device.gbp
                && !vxlan.collect_metadata
                && vxlan.group.is_none()
        })
}

/// `accept_ra=0`, as flannel does; it goes on where it cannot, and so does this.
fn refuse_router_advertisements(name: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
    match std::fs::write(&path, "0") {
        Ok(()) => {}
        // No IPv6, or no access to the sysctls.
        Err(error) if error.kind() == ErrorKind::NotFound => log::debug!("{path}: {error}"),
        Err(error) => log::warn!("{path}: {error}: IPv6 router advertisements on `{name}` stay accepted"),
    }
}
