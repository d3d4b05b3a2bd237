//! A stock flannel 0.28.9 node by hand: what flanneld does to the kernel and to its Node object with the shipped
//! settings (VXLAN, Kubernetes subnet manager), step by step, with iproute2. Sources: flannel's pkg/backend/vxlan,
//! pkg/subnet/kube and pkg/ip at v0.28.9.
//!
//! It has no connection of its own to an API server. Whoever drives it writes [`FlannelNode::annotations`] to the Node
//! and calls [`FlannelNode::add_peer`] and [`FlannelNode::remove_peer`] when other Nodes come and go. What flannel gets
//! wrong is done here, too: nothing is reconciled at the start, and a peer's old forwarding entry stays when its MAC
//! changes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::leases::Lease;
use crate::node::Node;
use crate::packet::Mac;
use crate::pod::NETWORK;

pub mod annotations;
mod device;

pub use annotations::lease_of;
pub use device::{DEVICE, Fate};

/// Where flannel leaves what its CNI plugin reads, as the node sees it.
pub const SUBNET_ENV: &str = "/run/flannel/subnet.env";

/// A node on which flanneld has started. Dropping it is ending flanneld: everything stays.
#[derive(Debug)]
pub struct FlannelNode {
    node: Node,
    mac: Mac,
    fate: Fate,
}

impl FlannelNode {
    /// What flanneld does at its start, up to its peers: the device (a compatible one is kept), its address, the packet
    /// filter's rules, subnet.env. `stored` are the annotations that the Node has, from which it takes its old MAC when
    /// it has to make the device.
    ///
    /// # Errors
    ///
    /// When a command fails, or the device ends up with another MAC than flannel wanted.
    pub fn start(node: &Node, stored: &BTreeMap<String, String>) -> Result<Self> {
        let wanted = annotations::restore_mac(stored).map_or_else(device::random_mac, Ok)?;
        let mtu = device::underlay_mtu(node)? - device::OVERHEAD;
        let (mac, fate) = device::ensure(node, wanted, mtu)?;
        device::configure(node)?;
        let got = device::mac(node)?;
        // udev's MACAddressPolicy (flannel #1795).
        ensure!(got == mac, "{DEVICE}'s mac address wanted: {mac}, but got: {got}");
        masquerade(node)?;
        write_subnet_env(node, mtu)?;
        Ok(Self {
            node: node.clone(),
            mac,
            fate,
        })
    }

    /// What it writes to its Node (a strategic merge patch of these annotations alone).
    #[must_use]
    pub fn annotations(&self) -> BTreeMap<String, String> {
        annotations::of(&self.lease())
    }

    /// Its lease.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease {
            vtep_mac: self.mac,
            ..self.node.lease()
        }
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// What became of the device at the start.
    #[must_use]
    pub fn device(&self) -> &Fate {
        &self.fate
    }

    /// A Node was added, or its annotations have changed: neighbour, forwarding entry, route, in this order.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an entry.
    pub fn add_peer(&self, peer: &Lease) -> Result<()> {
        // It knows itself by the subnet, not by the name (LeaseWatcher.Update).
        if peer.subnet == self.node.lease().subnet {
            return Ok(());
        }
        let Lease {
            subnet,
            public_ip,
            vtep_mac,
            ..
        } = peer;
        for command in [
            format!("ip neigh replace {subnet} lladdr {vtep_mac} nud permanent dev {DEVICE}"),
            format!("bridge fdb replace {vtep_mac} dst {public_ip} dev {DEVICE} self permanent"),
            format!("ip route replace {subnet}/24 via {subnet} dev {DEVICE} onlink proto boot"),
        ] {
            self.node.run(&command)?;
        }
        Ok(())
    }

    /// A Node was deleted. What is missing already is not an error, it only costs flannel time.
    ///
    /// # Errors
    ///
    /// When a command cannot be run at all.
    pub fn remove_peer(&self, peer: &Lease) -> Result<()> {
        let Lease {
            subnet,
            public_ip,
            vtep_mac,
            ..
        } = peer;
        for command in [
            format!("ip neigh del {subnet} lladdr {vtep_mac} dev {DEVICE}"),
            format!("bridge fdb del {vtep_mac} dst {public_ip} dev {DEVICE} self"),
            format!("ip route del {subnet}/24 via {subnet} dev {DEVICE} onlink"),
        ] {
            self.node.space().output(&command)?;
        }
        Ok(())
    }
}

/// The rules of `--ip-masq`. flannel flushes and fills its chains at each start; they are the same rules each time.
fn masquerade(node: &Node) -> Result<()> {
    let there = node.space().output("iptables -t nat -n -L FLANNEL-POSTRTG")?;
    if there.status.success() {
        return Ok(());
    }
    node.flannel_masquerade()
}

fn write_subnet_env(node: &Node, mtu: u32) -> Result<()> {
    let [a, b, c, _] = node.lease().subnet.octets();
    let text = format!(
        "FLANNEL_NETWORK={NETWORK}\nFLANNEL_SUBNET={a}.{b}.{c}.1/24\nFLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=true\n"
    );
    let file = node.space().path_from_outside(Path::new(SUBNET_ENV));
    let directory = file.parent().context("subnet.env is in a directory")?;
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(&file, text))
        .with_context(|| format!("cannot write {SUBNET_ENV} of {}", node.name()))
}
