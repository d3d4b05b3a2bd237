//! The network between the nodes.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};

use crate::holder::Holder;
use crate::space::Space;

/// Name of the underlay device on every node.
pub const DEVICE: &str = "eth0";

/// How the nodes are connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Underlay {
    /// One L2 segment, 192.168.0.0/24, with a router at .254 that is the default route.
    #[default]
    Switch,
    /// Two L2 segments, 192.168.1.0/24 with the odd nodes and 192.168.2.0/24 with the even ones, and a router
    /// between them at .254 of each, which is the default route.
    Routed,
    /// Two nodes on one veth pair, 192.168.0.0/24, nothing between them: for benchmarks.
    Direct,
}

/// What the underlay's devices leave to the "hardware".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offloads {
    /// Whether large packets cross the wire whole (TSO, UDP segmentation, tunnel segmentation).
    pub segmentation: bool,
    /// Whether checksums are left open on the wire (`CHECKSUM_PARTIAL`). When off, a capture shows valid ones.
    pub checksums: bool,
    /// Whether receivers aggregate. A veth device does so only when its peer has segmentation offload off.
    pub gro: bool,
}

impl Offloads {
    /// As veth devices come: large packets cross whole, without checksums.
    pub const DEFAULT: Self = Self {
        segmentation: true,
        checksums: true,
        gro: false,
    };
    /// As between two network cards: the sender cuts packets up, the receiver puts them together again.
    pub const WIRE: Self = Self {
        segmentation: false,
        checksums: true,
        gro: true,
    };
    /// Every packet as it would be on a cable, with valid checksums: for captures.
    pub const CABLE: Self = Self {
        segmentation: false,
        checksums: false,
        gro: false,
    };

    /// The `ethtool` command for `device`, whose receive side aggregates if `gro`.
    fn command(self, device: &str, gro: bool) -> String {
        let switch = |on| if on { "on" } else { "off" };
        let segmentation = switch(self.segmentation && self.checksums);
        let (checksums, gro) = (switch(self.checksums), switch(gro));
        format!(
            "ethtool -K {device} tx {checksums} tso {segmentation} tx-udp-segmentation {segmentation} \
             tx-udp_tnl-segmentation {segmentation} tx-udp_tnl-csum-segmentation {segmentation} gro {gro}"
        )
    }
}

impl Default for Offloads {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The built underlay.
#[derive(Debug)]
pub(crate) struct Fabric {
    pub(crate) kind: Underlay,
    pub(crate) mtu: u32,
    pub(crate) offloads: Offloads,
    /// The namespace with bridges and router; none for [`Underlay::Direct`].
    pub(crate) holder: Option<Holder>,
}

impl Fabric {
    pub(crate) fn build(kind: Underlay, mtu: u32, offloads: Offloads, run: &str) -> Result<Self> {
        let segments: &[u8] = match kind {
            Underlay::Switch => &[0],
            Underlay::Routed => &[1, 2],
            Underlay::Direct => &[],
        };
        if segments.is_empty() {
            return Ok(Self {
                kind,
                mtu,
                offloads,
                holder: None,
            });
        }
        let holder = Holder::spawn("fabric", run)?;
        let space = holder.space()?;
        space.sysctl("ipv4/ip_forward", "1")?;
        let mut lines = Vec::new();
        for segment in segments {
            lines.push(format!("link add br{segment} mtu {mtu} type bridge"));
            lines.push(format!("addr add 192.168.{segment}.254/24 dev br{segment}"));
            lines.push(format!("link set br{segment} up"));
        }
        space.ip_batch(&[], &lines)?;
        Ok(Self {
            kind,
            mtu,
            offloads,
            holder: Some(holder),
        })
    }

    /// The underlay's namespace with its bridges, for captures "on the switch".
    pub(crate) fn space(&self) -> Result<Space> {
        match &self.holder {
            Some(holder) => holder.space(),
            None => bail!("a direct underlay has no namespace of its own"),
        }
    }

    fn segment(&self, index: u8) -> u8 {
        match self.kind {
            Underlay::Switch | Underlay::Direct => 0,
            Underlay::Routed => 2 - index % 2,
        }
    }

    /// Underlay address of node `index`.
    pub(crate) fn address(&self, index: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, self.segment(index), index)
    }

    /// Name of the port of node `index` in the underlay's namespace.
    pub(crate) fn port(index: u8) -> String {
        format!("n{index}")
    }

    /// Gives `node` its underlay device. `first` is node 1, for the direct underlay.
    pub(crate) fn attach(&self, index: u8, node: &Holder, first: Option<&Holder>) -> Result<()> {
        let space = node.wiring()?;
        let mtu = self.mtu;
        let pid = node.identity().pid;
        match (&self.holder, index) {
            (Some(fabric), _) => {
                let port = Self::port(index);
                let wiring = fabric.wiring()?;
                wiring.ip_batch(
                    &[],
                    &[
                        format!(
                            "link add {port} mtu {mtu} type veth peer name {DEVICE} mtu {mtu} netns /proc/{pid}/ns/net"
                        ),
                        format!("link set {port} master br{} up", self.segment(index)),
                    ],
                )?;
                wiring.run(&self.offloads.command(&port, false))?;
            }
            // The pair comes with the second node.
            (None, 1) => return Ok(()),
            (None, 2) => {
                let Some(first) = first else {
                    bail!("a direct underlay needs node 1 before node 2")
                };
                let target = first.identity().pid;
                space.ip_batch(
                    &[],
                    &[format!(
                        "link add {DEVICE} mtu {mtu} type veth peer name {DEVICE} mtu {mtu} netns /proc/{target}/ns/net"
                    )],
                )?;
                self.configure(1, &first.wiring()?)?;
            }
            (None, _) => bail!("a direct underlay connects two nodes, not {index}"),
        }
        self.configure(index, &space)
    }

    fn configure(&self, index: u8, space: &Space) -> Result<()> {
        let segment = self.segment(index);
        let default = match self.kind {
            Underlay::Switch | Underlay::Routed => format!("route add default via 192.168.{segment}.254"),
            Underlay::Direct => format!("route add default dev {DEVICE}"),
        };
        space.ip_batch(
            &[],
            &[
                format!(
                    "addr add {}/24 brd 192.168.{segment}.255 dev {DEVICE}",
                    self.address(index)
                ),
                format!("link set {DEVICE} up"),
                default,
            ],
        )?;
        space
            .run(&self.offloads.command(DEVICE, self.offloads.gro))
            .map(drop)
    }
}
