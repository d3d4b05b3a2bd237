//! Creating, changing and deleting Nodes.

use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::access::refused_with;
use super::client::{create, merge};
use super::{ApiServer, NodeObject};

const NODES: &str = "/api/v1/nodes";

/// How many requests are on their way at once: enough to keep the server busy.
const AT_ONCE: usize = 32;

impl ApiServer {
    /// Creates a Node.
    ///
    /// # Errors
    ///
    /// A [`Refusal`](super::Refusal), as when it exists.
    pub fn create_node(&self, node: &NodeObject) -> Result<()> {
        self.client.post(NODES, &node.to_json()).map(drop)
    }

    /// Creates many Nodes, several at a time.
    ///
    /// # Errors
    ///
    /// The first refusal.
    pub fn create_nodes(&self, nodes: impl IntoIterator<Item = NodeObject>) -> Result<()> {
        let nodes: Vec<NodeObject> = nodes.into_iter().collect();
        let client = self.client.kube();
        self.client.block_on(several(nodes, move |node| {
            let body = node.to_json().to_string().into_bytes();
            create(client.clone(), NODES.to_owned(), body)
        }))
    }

    /// Applies a JSON merge patch to each of many Nodes, several at a time.
    ///
    /// # Errors
    ///
    /// The first refusal.
    pub fn patch_nodes(&self, patches: Vec<(String, Value)>) -> Result<()> {
        let client = self.client.kube();
        self.client.block_on(several(patches, move |(name, patch)| {
            let body = patch.to_string().into_bytes();
            merge(client.clone(), format!("{NODES}/{name}"), body)
        }))
    }

    /// Deletes all Nodes.
    ///
    /// # Errors
    ///
    /// A refusal.
    pub fn delete_all_nodes(&self) -> Result<()> {
        self.client.delete(NODES)
    }

    /// The Node as the server has it.
    ///
    /// # Errors
    ///
    /// A [`Refusal`](super::Refusal), as when there is none.
    pub fn node(&self, name: &str) -> Result<Value> {
        self.client.get(&format!("{NODES}/{name}"))
    }

    /// Applies a JSON merge patch to a Node: `null` removes a key.
    ///
    /// # Errors
    ///
    /// A [`Refusal`](super::Refusal), as when there is none.
    pub fn patch_node(&self, name: &str, patch: &Value) -> Result<()> {
        self.client
            .merge_patch(&format!("{NODES}/{name}"), patch)
            .map(drop)
    }

    /// Sets annotations of a Node by their whole keys, or removes those without value.
    ///
    /// # Errors
    ///
    /// A [`Refusal`](super::Refusal), as when there is no such Node.
    pub fn annotate_node(&self, name: &str, annotations: &[(&str, Option<&str>)]) -> Result<()> {
        let annotations: serde_json::Map<String, Value> = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        self.patch_node(name, &json!({ "metadata": { "annotations": annotations } }))
    }

    /// Gives a Node its podCIDR. The server lets nobody change one that is there: delete and create the Node for that.
    ///
    /// # Errors
    ///
    /// A [`Refusal`](super::Refusal), as when the Node has another one.
    pub fn set_pod_cidr(&self, name: &str, cidr: &str) -> Result<()> {
        self.patch_node(name, &json!({ "spec": { "podCIDR": cidr, "podCIDRs": [cidr] } }))
    }

    /// Value of an annotation, by its whole key.
    ///
    /// # Errors
    ///
    /// A [`Refusal`](super::Refusal), as when there is no such Node.
    pub fn annotation(&self, name: &str, key: &str) -> Result<Option<String>> {
        let node = self.node(name)?;
        let annotations = node.pointer("/metadata/annotations");
        Ok(annotations
            .and_then(|all| all.get(key)?.as_str())
            .map(ToOwned::to_owned))
    }

    /// The condition `NetworkUnavailable` of a Node, if it has one.
    ///
    /// # Errors
    ///
    /// A [`Refusal`](super::Refusal), as when there is no such Node.
    pub fn network_unavailable(&self, name: &str) -> Result<Option<Value>> {
        let node = self.node(name)?;
        let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
        let found = conditions.into_iter().flatten().find(|condition| {
            condition
                .get("type")
                .is_some_and(|kind| kind == "NetworkUnavailable")
        });
        Ok(found.cloned())
    }

    /// Deletes a Node; one that is not there is gone already.
    ///
    /// # Errors
    ///
    /// Any other refusal.
    pub fn delete_node(&self, name: &str) -> Result<()> {
        match self.client.delete(&format!("{NODES}/{name}")) {
            Err(error) if refused_with(&error, 404) => Ok(()),
            other => other,
        }
    }
}

/// Does `work` for each item, [`AT_ONCE`] at a time.
async fn several<I, F>(items: Vec<I>, work: impl Fn(I) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for item in items {
        let place = Arc::clone(&places).acquire_owned().await?;
        let task = work(item);
        tasks.spawn(async move {
            let result = task.await;
            drop(place);
            result
        });
        while let Some(done) = tasks.try_join_next() {
            done.context("a task panicked")??;
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.context("a task panicked")??;
    }
    Ok(())
}
