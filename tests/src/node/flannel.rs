//! What flannel's VXLAN backend leaves on a node, made by hand with iproute2 (flannel v0.28: pkg/backend/vxlan).

use anyhow::Result;

use super::Node;
use crate::leases::Lease;

/// The VXLAN device's settings, from flannel's net-conf.json.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlannelDevice {
    /// VXLAN network identifier; the device is `flannel.<VNI>`.
    pub vni: u32,
    /// UDP port. flannel leaves it to the kernel, whose default this is.
    pub port: u16,
    /// Whether the device carries Group Based Policy marks.
    pub gbp: bool,
    /// Whether outer UDP checksums are written (the kernel's default since flannel does not say).
    pub checksums: bool,
}

impl Default for FlannelDevice {
    fn default() -> Self {
        Self {
            vni: 1,
            port: 8472,
            gbp: false,
            checksums: true,
        }
    }
}

impl FlannelDevice {
    /// Name of the device.
    #[must_use]
    pub fn name(&self) -> String {
        format!("flannel.{}", self.vni)
    }
}

impl Node {
    /// Makes the node what flannel with its default settings would: the device and one entry per peer.
    ///
    /// The node's own lease among `leases` is left out.
    ///
    /// # Errors
    ///
    /// When a command fails.
    pub fn configure_like_flannel(&self, leases: &[Lease]) -> Result<()> {
        self.add_flannel_device(FlannelDevice::default())?;
        self.add_flannel_peers(FlannelDevice::default(), leases)
    }

    /// Makes the VXLAN device as flannel does.
    ///
    /// # Errors
    ///
    /// When a command fails, for example because the device exists.
    pub fn add_flannel_device(&self, device: FlannelDevice) -> Result<()> {
        let name = device.name();
        let (own, mtu, address) = (self.lease(), self.pod_network.mtu, self.address());
        let gbp = if device.gbp { " gbp" } else { "" };
        let checksums = if device.checksums { "udpcsum" } else { "noudpcsum" };
        let (mac, underlay, vni, port) = (own.vtep_mac, self.underlay(), device.vni, device.port);
        self.space().ip_batch(
            &[],
            &[
                format!(
                    "link add {name} address {mac} mtu {mtu} txqueuelen 0 type vxlan id {vni} local {address} \
                     dev {underlay} dstport {port} nolearning {checksums}{gbp}"
                ),
                format!("addr add {}/32 dev {name}", own.subnet),
                format!("link set {name} up"),
            ],
        )
    }

    /// Makes the three entries of each peer as flannel does, in its order: neighbour, forwarding entry, route.
    ///
    /// # Errors
    ///
    /// When a command fails.
    pub fn add_flannel_peers(&self, device: FlannelDevice, leases: &[Lease]) -> Result<()> {
        let name = device.name();
        for Lease {
            subnet,
            public_ip,
            vtep_mac,
            ..
        } in leases.iter().filter(|lease| lease.node != self.name)
        {
            self.run(&format!(
                "ip neigh replace {subnet} lladdr {vtep_mac} nud permanent dev {name}"
            ))?;
            self.run(&format!(
                "bridge fdb replace {vtep_mac} dst {public_ip} dev {name} self permanent"
            ))?;
            self.run(&format!(
                "ip route replace {subnet}/24 via {subnet} dev {name} onlink"
            ))?;
        }
        Ok(())
    }
}
