//! Leases from the Nodes of a Kubernetes cluster.
//!
//! * The own lease is made of the own Node's podCIDR and of what this node knows of itself; every other one of what the
//!   Node's annotations say, as flannel reads them.
//! * What changes on a Node without changing its lease (heartbeats, conditions, labels) is not reported.
//! * A Node whose annotations break keeps its last good lease while its pod subnet stays the same; a message says so.
//!   A Node that is gone, that no longer takes part, or that has another pod subnet loses it.
//! * While the API server is away everything stays as it is. What has gone meanwhile is removed when the Nodes are listed
//!   again.

mod fold;
mod halves;

use std::future::Future;
use std::pin::pin;

use anyhow::Result;
use kube::Client;
use overlay_core::kube::Keys;
use overlay_core::model::LeaseEvent;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::watch;

use self::fold::{Fold, Note};
use super::LeaseSource;
use crate::kube::api_state::ApiState;
use crate::kube::identity::Identity;
use crate::kube::list_watch::{self, NodeEvent};
use crate::kube::record::NodeRecord;

/// Nodes that wait for the fold while the control loop is busy. The rest waits in the API server's connection.
const QUEUE: usize = 64;

/// The Nodes of a cluster, listed once and watched from then on.
pub struct KubeSource {
    /// The client of the API server.
    pub client: Client,
    /// The keys of the annotations.
    pub keys: Keys,
    /// Name of this node. Its own lease is made of its podCIDR and `identity`, not of its annotations.
    pub node: String,
    /// VNI of this node's overlay: a peer with another one cannot be reached.
    pub vni: u32,
    /// How peers reach this node.
    pub identity: watch::Receiver<Identity>,
    /// Every new record of the own Node; `None` until there is one, and again when it is deleted.
    pub own_node: watch::Sender<Option<NodeRecord>>,
    /// How the connection to the API server is.
    pub state: watch::Sender<ApiState>,
}

impl LeaseSource for KubeSource {
    async fn run(self, events: Sender<LeaseEvent>) -> Result<()> {
        let Self {
            client,
            keys,
            node,
            vni,
            mut identity,
            own_node,
            state,
        } = self;
        let fold = Fold::new(keys, vni, node, *identity.borrow_and_update());
        let (sender, nodes) = channel(QUEUE);
        let listening = list_watch::run(client, sender, state.clone());
        let folding = follow(fold, nodes, identity, own_node, state, events);
        both(listening, folding).await;
        Ok(())
    }
}

/// Runs both until the second one ends; the first one ends with it.
async fn both(first: impl Future<Output = ()>, second: impl Future<Output = ()>) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    tokio::select! {
        () = &mut second => return,
        () = &mut first => {}
    }
    second.await;
}

async fn follow(
    mut fold: Fold,
    mut nodes: Receiver<NodeEvent>,
    mut identity: watch::Receiver<Identity>,
    own_node: watch::Sender<Option<NodeRecord>>,
    state: watch::Sender<ApiState>,
    events: Sender<LeaseEvent>,
) {
    let mut identity_may_change = true;
    loop {
        let event = tokio::select! {
            node = nodes.recv() => match node {
                Some(node) => fold.take(node),
                None => return,
            },
            changed = identity.changed(), if identity_may_change => {
                identity_may_change = changed.is_ok();
                fold.identify(*identity.borrow_and_update())
            }
            () = events.closed() => return,
        };
        for Note { level, text } in fold.notes() {
            log::log!(level, "{text}");
        }
        if let Some(own) = fold.own_changed() {
            own_node.send_replace(own);
        }
        let Some(event) = event else { continue };
        let complete = matches!(event, LeaseEvent::Replace(_));
        if events.send(event).await.is_err() {
            return;
        }
        if complete {
            state.send_if_modified(|state| !std::mem::replace(&mut state.listed, true));
        }
    }
}

#[cfg(test)]
mod tests;
