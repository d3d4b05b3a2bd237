//! `plan --kube-subnet-mgr`: asks the API server what `run` would learn from it. Writes nothing there.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use overlay_core::model::{LeaseEvent, MacAddr};
use overlay_core::net_conf::{NetConf, device_name};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::cli::args::NodeArgs;
use crate::kube::api_state::ApiState;
use crate::kube::identity::Identity;
use crate::kube::{client, mac, node_name, own_node};
use crate::netlink::{Kept, Netlink};
use crate::source::LeaseSource;
use crate::source::kube::KubeSource;

/// `run` would wait for as long as it takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the API server says.
pub(super) struct Seen {
    /// Name of the own Node.
    pub(super) node: String,
    /// `node-public-ip` of the own Node.
    pub(super) public_ip: Option<Ipv4Addr>,
    /// The complete list.
    pub(super) leases: LeaseEvent,
}

/// The leases of the cluster as they are now.
pub(super) async fn look(args: &NodeArgs, net_conf: &NetConf) -> Result<Seen> {
    let flannel = &args.flannel;
    let pod = &args.pod;
    let source = node_name::source(
        args.node.as_deref(),
        pod.name.as_deref(),
        pod.namespace.as_deref(),
    )?;
    let client = client::connect(flannel.api_url(), flannel.kubeconfig())?;
    let keys = flannel.kube_annotation_prefix.clone();
    let vni = net_conf.backend.vni;
    let seen = timeout(PATIENCE, async {
        let node = node_name::resolve(&client, source).await;
        let (record, public_ip) = own_node::get(&client, &node, &keys).await;
        let stored = own_node::stored_mac(&record, &keys, vni);
        let (_identity, identity) =
            watch::channel(identity(args, &device_name(vni), public_ip, stored).await?);
        let source = KubeSource {
            client: client.clone(),
            keys,
            node: node.clone(),
            vni,
            identity,
            own_node: watch::Sender::new(Some(record)),
            state: watch::Sender::new(ApiState::default()),
        };
        let (events, mut leases) = mpsc::channel(1);
        let first = async {
            while let Some(event) = leases.recv().await {
                if matches!(event, LeaseEvent::Replace(_)) {
                    return Ok(event);
                }
            }
            bail!("the list of Nodes ended before it was complete")
        };
        let leases = tokio::select! {
            biased;
            leases = first => leases?,
            ended = source.run(events) => {
                ended?;
                bail!("the list of Nodes ended before it was complete")
            }
        };
        Ok(Seen {
            node,
            public_ip,
            leases,
        })
    });
    seen.await.with_context(|| {
        format!(
            "no complete answer of the API server within {} s, see above",
            PATIENCE.as_secs()
        )
    })?
}

/// What `run` would publish about this node.
async fn identity(
    args: &NodeArgs,
    device: &str,
    public_ip: Option<Ipv4Addr>,
    stored: Option<MacAddr>,
) -> Result<Identity> {
    let netlink = Netlink::connect()?;
    let choice = args.flannel.interface_choice(public_ip, device);
    let kept = netlink.place_of(device).await?.map(Kept::Found);
    let underlay = netlink.stable_underlay(&choice, kept).await?;
    let (vtep_mac, _) = mac::choose(netlink.vtep_mac(device).await?, stored, mac::random()?);
    Ok(Identity {
        public_ip: public_ip
            .or(args.flannel.public_ip.0)
            .map_or(underlay.address, IpAddr::V4),
        vtep_mac,
    })
}
