//! Links: looking them up, and what their messages say.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink has dozens of messages and attributes, and the library's enums grow"
)]

use nix::errno::Errno;
use overlay_core::model::MacAddr;
use overlay_core::observed::VxlanAttributes;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage,
};

use super::error::RequestError;
use super::socket::Socket;

/// Port of a VXLAN device that was created without one (Linux, `udp_port` of the vxlan module).
pub(super) const KERNEL_VXLAN_PORT: u16 = 8472;

/// What the agent wants to know of a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub(super) ifindex: u32,
    pub(super) name: String,
    pub(super) up: bool,
    /// Whether its packets begin with an Ethernet header (`ARPHRD_ETHER`).
    pub(super) ethernet: bool,
    /// In bytes.
    pub(super) mtu: u32,
    pub(super) mac: Option<MacAddr>,
    pub(super) alias: Option<String>,
    /// `IFLA_INFO_KIND`; `None` for physical devices and the loopback.
    pub(super) kind: Option<String>,
    pub(super) vxlan: Option<VxlanAttributes>,
}

impl Socket {
    /// The link of this name (or alternative name), if there is one.
    pub(super) async fn link_named(&self, name: &str) -> Result<Option<Link>, RequestError> {
        let mut request = question();
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.link(request).await
    }

    /// The link of this index, if there is one.
    pub(super) async fn link_indexed(&self, ifindex: u32) -> Result<Option<Link>, RequestError> {
        let mut request = question();
        request.header.index = ifindex;
        self.link(request).await
    }

    async fn link(&self, request: LinkMessage) -> Result<Option<Link>, RequestError> {
        match self.get(RouteNetlinkMessage::GetLink(request)).await {
            Ok(RouteNetlinkMessage::NewLink(message)) => Ok(Some(Link::from(message))),
            Ok(other) => Err(RequestError::lost(format!(
                "unexpected answer of the kernel: {other:?}"
            ))),
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All VXLAN devices.
    pub(super) async fn vxlan_links(&self) -> Result<Vec<Link>, RequestError> {
        let mut request = question();
        request
            .attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan)]));
        self.dump(RouteNetlinkMessage::GetLink(request), |entry| match entry? {
            RouteNetlinkMessage::NewLink(message) => {
                Ok(Some(Link::from(message)).filter(|link| link.vxlan.is_some()))
            }
            other => Err(RequestError::lost(format!(
                "unexpected message in a list of links: {other:?}"
            ))),
        })
        .await
    }

    /// Index and name of all links, as far as they can be read, by index.
    pub(super) async fn link_names_by_index(&self) -> Result<Vec<(u32, String)>, RequestError> {
        let links = self.dump(RouteNetlinkMessage::GetLink(question()), |entry| match entry {
            Ok(RouteNetlinkMessage::NewLink(message)) => {
                let link = Link::from(message);
                Ok(Some((link.ifindex, link.name)))
            }
            Ok(_) | Err(_) => Ok(None),
        });
        let mut links = links.await?;
        links.sort();
        Ok(links)
    }
}

/// A request for links, without their counters.
fn question() -> LinkMessage {
    let mut request = LinkMessage::default();
    request
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    request
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            ifindex: message.header.index,
            name: String::new(),
            up: message.header.flags.contains(LinkFlags::Up),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            mtu: 0,
            mac: None,
            alias: None,
            kind: None,
            vxlan: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(address) => {
                    link.mac = <[u8; 6]>::try_from(address).ok().map(MacAddr::new);
                }
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::LinkInfo(infos) => link.read_info(infos),
                _ => {}
            }
        }
        link
    }
}

impl Link {
    fn read_info(&mut self, infos: Vec<LinkInfo>) {
        for info in infos {
            match info {
                LinkInfo::Kind(kind) => self.kind = Some(kind.to_string()),
                LinkInfo::Data(InfoData::Vxlan(attributes)) => self.vxlan = Some(read_vxlan(attributes)),
                _ => {}
            }
        }
    }

    /// Name, kind and index, for messages.
    pub(super) fn describe(&self) -> String {
        let kind = self.kind.as_deref().unwrap_or("physical");
        match &self.vxlan {
            Some(vxlan) if vxlan.collect_metadata => {
                format!(
                    "{} (index {}, vxlan external, port {})",
                    self.name, self.ifindex, vxlan.port
                )
            }
            Some(vxlan) => {
                format!(
                    "{} (index {}, vxlan id {}, port {})",
                    self.name, self.ifindex, vxlan.vni, vxlan.port
                )
            }
            None => format!("{} (index {}, {kind})", self.name, self.ifindex),
        }
    }
}

fn read_vxlan(attributes: Vec<InfoVxlan>) -> VxlanAttributes {
    let mut vxlan = VxlanAttributes {
        vni: 0,
        port: 0,
        local: None,
        underlay_ifindex: None,
        learning: false,
        gbp: false,
        collect_metadata: false,
        group: None,
        l2miss: false,
    };
    for attribute in attributes {
        match attribute {
            InfoVxlan::Id(vni) => vxlan.vni = vni,
            InfoVxlan::Port(port) => vxlan.port = port,
            InfoVxlan::Local(address) => vxlan.local = Some(address.into()),
            InfoVxlan::Local6(address) => vxlan.local = Some(address.into()),
            InfoVxlan::Link(ifindex) => {
                vxlan.underlay_ifindex = Some(ifindex).filter(|&ifindex| ifindex != 0);
            }
            InfoVxlan::Learning(learning) => vxlan.learning = learning,
            InfoVxlan::Gbp => vxlan.gbp = true,
            InfoVxlan::CollectMetadata(metadata) => vxlan.collect_metadata = metadata,
            InfoVxlan::Group(address) => vxlan.group = Some(address.into()),
            InfoVxlan::Group6(address) => vxlan.group = Some(address.into()),
            InfoVxlan::L2Miss(l2miss) => vxlan.l2miss = l2miss,
            _ => {}
        }
    }
    vxlan
}
