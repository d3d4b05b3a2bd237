//! `run --kube-subnet-mgr`: what only the Kubernetes mode does. [`super::run`] calls both, in this order.

mod tasks;

use std::net::Ipv4Addr;

use anyhow::Result;
use kube::Client;
use overlay_core::kube::Keys;
use overlay_core::model::{LeaseEvent, Settings};
use overlay_core::net_conf::device_name;
use tokio::sync::{mpsc, watch};

use self::tasks::Tasks;
use crate::cli::args::NodeArgs;
use crate::control::state::State;
use crate::kube::api_state::ApiState;
use crate::kube::condition::NetworkAvailable;
use crate::kube::publication::{Progress, Publication, note};
use crate::kube::publish::Lease;
use crate::kube::record::NodeRecord;
use crate::kube::{client, events, identity, node_name, own_node, upkeep};
use crate::netlink::{InterfaceChoice, Netlink};
use crate::source::LeaseSource;
use crate::source::kube::KubeSource;
use crate::subnet_env;

/// What the API server tells before this node's kernel is looked at.
pub(super) struct Prepared {
    /// Name of the own Node.
    pub(super) node: String,
    /// `node-public-ip` of the own Node: counts as `--public-ip`, and more than that.
    pub(super) public_ip: Option<Ipv4Addr>,
    client: Client,
    record: NodeRecord,
}

/// What the Kubernetes mode works with.
pub(super) struct Inputs {
    /// The flags.
    pub(super) args: NodeArgs,
    /// With the name of the own Node, and its public IP if an operator gave one.
    pub(super) settings: Settings,
    /// For the underlay (`stable_underlay`) and the device as it is, until [`Inputs::state`] says both.
    pub(super) netlink: Netlink,
    /// How the underlay device is found.
    pub(super) iface: InterfaceChoice,
    /// How the control loop stands.
    pub(super) state: watch::Receiver<State>,
    /// For `/readyz`.
    pub(super) publication: watch::Sender<Publication>,
    /// For `/readyz`.
    pub(super) api: watch::Sender<ApiState>,
    /// Where the source sends leases to.
    pub(super) leases: mpsc::Sender<LeaseEvent>,
}

/// Connects to the API server, and finds the own Node. May wait for both; signals and health are served meanwhile.
///
/// # Errors
///
/// When waiting cannot help: exit status 1.
pub(super) async fn prepare(args: &NodeArgs) -> Result<Prepared> {
    let flannel = &args.flannel;
    let pod = &args.pod;
    let source = node_name::source(
        args.node.as_deref(),
        pod.name.as_deref(),
        pod.namespace.as_deref(),
    )?;
    let client = client::connect(flannel.api_url(), flannel.kubeconfig())?;
    let node = node_name::resolve(&client, source).await;
    let (record, public_ip) = own_node::get(&client, &node, &flannel.kube_annotation_prefix).await;
    Ok(Prepared {
        node,
        public_ip,
        client,
        record,
    })
}

/// Watches Nodes, publishes this one and writes subnet.env, for as long as the agent runs. Runs beside the control loop.
///
/// # Errors
///
/// When it cannot go on at all: the agent ends with status 1.
pub(super) async fn start(prepared: Prepared, inputs: Inputs) -> Result<()> {
    let Prepared {
        node,
        public_ip: node_public_ip,
        client,
        record,
    } = prepared;
    let Inputs {
        args,
        settings,
        netlink,
        iface,
        state,
        publication,
        api,
        leases,
    } = inputs;
    let keys: Keys = args.flannel.kube_annotation_prefix.clone();
    let vni = settings.net_conf.backend.vni;
    let public_ip = settings.public_ip;
    let stored = own_node::stored_mac(&record, &keys, vni);
    let at_start = identity::at_start(&netlink, &iface, &device_name(vni), public_ip, stored).await?;
    let (identities, identity) = watch::channel(at_start);
    let (own_node, own) = watch::channel(Some(record));
    let status = upkeep::Inputs {
        own: own.clone(),
        identity: identity.clone(),
        state: state.clone(),
    };

    let mut tasks = Tasks::default();
    let source = KubeSource {
        client: client.clone(),
        keys: keys.clone(),
        node: node.clone(),
        vni,
        identity,
        own_node,
        state: api,
    };
    tasks.fallible("the watch of Nodes", source.run(leases));
    tasks.add(
        "following the underlay",
        identity::follow(identities, public_ip, state.clone()),
    );
    let lease = Lease {
        keys: keys.clone(),
        vni,
    };
    let progress = noting(&publication, |all| &mut all.lease);
    tasks.add(
        "publishing the lease",
        upkeep::keep(
            lease.clone(),
            client.clone(),
            node.clone(),
            status.clone(),
            progress,
        ),
    );
    let mut progress = noting(&publication, |all| &mut all.condition);
    if args.flannel.set_node_network_unavailable {
        tasks.add(
            "publishing the condition",
            upkeep::keep(
                NetworkAvailable { lease },
                client.clone(),
                node.clone(),
                status,
                progress,
            ),
        );
    } else {
        progress(Progress::Done);
    }
    let progress = noting(&publication, |all| &mut all.subnet_file);
    let path = args.flannel.subnet_file_or_default().to_owned();
    tasks.add(
        "writing subnet.env",
        subnet_env::keep(path, args.flannel.ip_masq, state.clone(), progress),
    );
    tasks.add(
        "reporting conflicts",
        events::report(client, node, own.clone(), state.clone()),
    );
    tasks.add(
        "watching node-public-ip",
        own_node::watch_public_ip(own, keys, node_public_ip),
    );
    announce_readiness(state, publication.subscribe(), &mut tasks).await
}

/// Where a task notes how far it is.
fn noting<F>(publication: &watch::Sender<Publication>, part: F) -> impl FnMut(Progress) + use<F>
where
    F: Fn(&mut Publication) -> &mut Progress + Copy,
{
    let publication = publication.clone();
    move |progress| note(&publication, part, progress)
}

/// Says once that the overlay works and is published, then waits for a task that ends.
async fn announce_readiness(
    mut state: watch::Receiver<State>,
    mut publication: watch::Receiver<Publication>,
    tasks: &mut Tasks,
) -> Result<()> {
    let ready = async {
        while !(state.borrow_and_update().ready && publication.borrow_and_update().missing().is_none()) {
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                changed = publication.changed() => if changed.is_err() { return },
            }
        }
        log::info!("flannel is ready");
    };
    tokio::select! {
        () = ready => tasks.ended().await,
        ended = tasks.ended() => ended,
    }
}
