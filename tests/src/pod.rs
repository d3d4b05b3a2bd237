//! Pods: a namespace behind the node's bridge, as flannel's CNI plugin leaves it.

use std::env;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::exec::COMMAND_TIMEOUT;
use crate::space::Space;

/// Bridge that the pods of a node are on.
pub const BRIDGE: &str = "cni0";
/// The overlay's network: every node's pod subnet lies in it.
pub const NETWORK: &str = "10.244.0.0/16";

/// Who connects pods to their node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PodPlumbing {
    /// `ip` commands that leave what the CNI plugins leave.
    #[default]
    ByHand,
    /// The CNI plugins `bridge` and `host-local`, called as flannel's meta-plugin calls them (Debian's
    /// `containernetworking-plugins`; `CNI_PATH` names another directory).
    CniPlugins,
}

/// A pod.
#[derive(Clone, Debug)]
pub struct Pod {
    name: String,
    index: u8,
    address: Ipv4Addr,
    host_veth: String,
    space: Space,
}

impl Pod {
    /// Name of the pod and of its namespace on the node: `pod-1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of the pod on its node, from 1.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Address of the pod's `eth0`.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The node's end of the pod's veth pair.
    #[must_use]
    pub fn host_veth(&self) -> &str {
        &self.host_veth
    }

    /// The pod's namespace.
    #[must_use]
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// See [`Space::run`].
    ///
    /// # Errors
    ///
    /// Those of [`Space::run`].
    pub fn run(&self, command: &str) -> Result<String> {
        self.space.run(command)
    }
}

/// What pods on one node have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PodNetwork {
    /// First address of the node's /24.
    pub(crate) subnet: Ipv4Addr,
    pub(crate) mtu: u32,
    pub(crate) plumbing: PodPlumbing,
}

impl PodNetwork {
    fn host(self, last: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.subnet.octets();
        Ipv4Addr::new(a, b, c, last)
    }

    /// The bridge as the CNI plugin makes it with a node's first pod.
    fn bridge(self, node: &Space) -> Result<()> {
        let (gateway, broadcast, mtu) = (self.host(1), self.host(255), self.mtu);
        node.ip_batch(
            &[],
            &[
                format!("link add {BRIDGE} mtu {mtu} type bridge"),
                format!("addr add {gateway}/24 brd {broadcast} dev {BRIDGE}"),
                format!("link set {BRIDGE} up"),
            ],
        )?;
        // The plugin pins the bridge's MAC, which would otherwise change with every pod.
        let mac = node.enter(|| {
            // The machine's /sys shows another namespace; this file is the thread's.
            nix::ifaddrs::getifaddrs()?
                .filter(|interface| interface.interface_name == BRIDGE)
                .find_map(|interface| Some(interface.address?.as_link_addr()?.to_string()))
                .context("the new bridge has no address")
        })?;
        node.run(&format!("ip link set {BRIDGE} address {mac}")).map(drop)
    }

    /// Adds pod `index` (from 1) to `node`.
    pub(crate) fn add(self, node: &Space, index: u8) -> Result<Pod> {
        if !(1..=250).contains(&index) {
            bail!("pod {index}: a node has room for pods 1 to 250");
        }
        let name = format!("pod-{index}");
        node.run(&format!("ip netns add {name}"))?;
        let space = node.named(&name)?;
        let host_veth = match self.plumbing {
            PodPlumbing::ByHand => self.plug_by_hand(node, &name, index)?,
            PodPlumbing::CniPlugins => self.plug_by_cni(node, &name)?,
        };
        Ok(Pod {
            name,
            index,
            address: self.host(index + 1),
            host_veth,
            space,
        })
    }

    fn plug_by_hand(self, node: &Space, name: &str, index: u8) -> Result<String> {
        if index == 1 {
            self.bridge(node)?;
        }
        let (mtu, address, gateway, broadcast) =
            (self.mtu, self.host(index + 1), self.host(1), self.host(255));
        let veth = format!("veth{index:08x}");
        node.ip_batch(
            &[],
            &[
                format!("link add {veth} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}"),
                format!("link set {veth} master {BRIDGE} up"),
                format!("link set {veth} type bridge_slave hairpin on"),
            ],
        )?;
        node.ip_batch(
            &["-n", name],
            &[
                "link set lo up".to_owned(),
                format!("addr add {address}/24 brd {broadcast} dev eth0"),
                "link set eth0 up".to_owned(),
                format!("route add {NETWORK} via {gateway}"),
                format!("route add default via {gateway}"),
            ],
        )?;
        Ok(veth)
    }

    /// Calls the plugins with the configuration that flannel's meta-plugin hands on.
    fn plug_by_cni(self, node: &Space, name: &str) -> Result<String> {
        let directory = cni_directory()?;
        let subnet = self.subnet;
        let configuration = json!({
            "cniVersion": "0.3.1", "name": "cbr0", "type": "bridge", "bridge": BRIDGE, "mtu": self.mtu,
            "isGateway": true, "isDefaultGateway": true, "hairpinMode": true, "ipMasq": false,
            "ipam": {
                "type": "host-local", "dataDir": "/run/cni", "routes": [{ "dst": NETWORK }],
                "ranges": [[{ "subnet": format!("{subnet}/24") }]],
            },
        });
        let words = [
            "env".to_owned(),
            "CNI_COMMAND=ADD".to_owned(),
            format!("CNI_CONTAINERID={name}"),
            format!("CNI_NETNS=/run/netns/{name}"),
            "CNI_IFNAME=eth0".to_owned(),
            format!("CNI_PATH={}", directory.display()),
            directory.join("bridge").display().to_string(),
        ];
        let answer = node
            .output_args(&words, Some(&configuration.to_string()), COMMAND_TIMEOUT)?
            .success()?;
        let answer: serde_json::Value =
            serde_json::from_str(&answer).context("the bridge plugin's answer")?;
        let interfaces = answer
            .get("interfaces")
            .and_then(|list| list.as_array())
            .cloned()
            .unwrap_or_default();
        interfaces
            .iter()
            .filter_map(|interface| interface.get("name")?.as_str())
            .find(|interface| interface.starts_with("veth"))
            .map(str::to_owned)
            .with_context(|| format!("the bridge plugin names no veth device: {answer}"))
    }
}

fn cni_directory() -> Result<PathBuf> {
    let named = env::var_os("CNI_PATH").map(PathBuf::from);
    let usual = ["/usr/lib/cni", "/opt/cni/bin"].map(PathBuf::from);
    named
        .into_iter()
        .chain(usual)
        .find(|directory| has_plugins(directory))
        .context("no CNI plugins `bridge` and `host-local` (Debian package containernetworking-plugins)")
}

fn has_plugins(directory: &Path) -> bool {
    ["bridge", "host-local"]
        .iter()
        .all(|plugin| directory.join(plugin).exists())
}
