//! Which Node this agent runs on.

use anyhow::{Result, bail};
use kube::Client;
use kube::api::GetParams;
use kube::core::Request;
use serde::Deserialize;
use tokio::time::sleep;

use super::ask::{Asked, Refusal};
use super::retry::Retry;

/// Where the name comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// The operator says it.
    Known(String),
    /// The API server knows where the agent's pod runs.
    Pod {
        /// Namespace of the pod.
        namespace: String,
        /// Name of the pod.
        name: String,
    },
}

/// `--node` or `NODE_NAME`; without it `POD_NAME` and `POD_NAMESPACE` tell whom to ask. What is empty is not given, as in
/// flannel.
///
/// # Errors
///
/// When neither is there: which variables are missing, and how a manifest sets them.
pub fn source(node: Option<&str>, pod_name: Option<&str>, pod_namespace: Option<&str>) -> Result<Source> {
    let given = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    if let Some(node) = given(node) {
        return Ok(Source::Known(node));
    }
    match (given(pod_name), given(pod_namespace)) {
        (Some(name), Some(namespace)) => Ok(Source::Pod { namespace, name }),
        (name, namespace) => {
            let missing: Vec<_> = [
                ("POD_NAME", name.is_none()),
                ("POD_NAMESPACE", namespace.is_none()),
            ]
            .into_iter()
            .filter_map(|(variable, missing)| missing.then_some(variable))
            .collect();
            bail!(
                "this agent does not know its Node: NODE_NAME (or --node) is not set, and neither is {}. Set NODE_NAME from \
                 fieldRef spec.nodeName in the manifest, or POD_NAME from metadata.name and POD_NAMESPACE from \
                 metadata.namespace",
                missing.join(" and ")
            )
        }
    }
}

/// The name of the Node. Asks until the API server answers.
pub async fn resolve(client: &Client, source: Source) -> String {
    let (namespace, name) = match source {
        Source::Known(node) => return node,
        Source::Pod { namespace, name } => (namespace, name),
    };
    let mut retry = Retry::default();
    loop {
        let trouble = match get_pod(client, &namespace, &name).await {
            Ok(pod) => match pod.spec.node_name.filter(|node| !node.is_empty()) {
                Some(node) => {
                    retry.succeeded("looking for this agent's pod");
                    log::info!("pod {namespace}/{name} runs on Node {node}");
                    return node;
                }
                None => format!(
                    "node name not present in pod spec '{namespace}/{name}': is this the pod that the agent runs in \
                     (POD_NAMESPACE, POD_NAME)?"
                ),
            },
            Err(refusal) => format!("error retrieving pod spec for '{namespace}/{name}': {refusal}"),
        };
        let wait = retry.failed(
            log::Level::Error,
            format!("{trouble}; trying again, nothing is changed on this node until then. With NODE_NAME set no pod is needed"),
        );
        sleep(wait).await;
    }
}

#[derive(Deserialize)]
struct Pod {
    #[serde(default)]
    spec: PodSpec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    node_name: Option<String>,
}

async fn get_pod(client: &Client, namespace: &str, name: &str) -> Result<Pod, Refusal> {
    let asked = Asked {
        verb: "get",
        resource: "pods",
        kind: "Pod",
        name,
        namespace: Some(namespace),
    };
    let request = async {
        let request = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
        let request = request
            .get(name, &GetParams::default())
            .map_err(kube::Error::BuildRequest)?;
        client.request(request).await
    };
    asked.answer(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_given_is_taken() {
        let known = Source::Known("worker-1".to_owned());
        assert_eq!(source(Some("worker-1"), None, None).unwrap(), known);
        assert_eq!(
            source(Some("worker-1"), Some("agent-x"), Some("kube-flannel")).unwrap(),
            known
        );
    }

    #[test]
    fn otherwise_the_pod_tells() {
        for node in [None, Some("")] {
            assert_eq!(
                source(node, Some("agent-x"), Some("kube-flannel")).unwrap(),
                Source::Pod {
                    namespace: "kube-flannel".to_owned(),
                    name: "agent-x".to_owned()
                }
            );
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (name, namespace, missing) in [
            (None, None, "neither is POD_NAME and POD_NAMESPACE."),
            (Some("agent-x"), Some(""), "neither is POD_NAMESPACE."),
            (None, Some("kube-flannel"), "neither is POD_NAME."),
        ] {
            let text = source(None, name, namespace).unwrap_err().to_string();
            assert!(text.contains("NODE_NAME (or --node)"), "{text}");
            assert!(text.contains(missing), "{text}");
        }
    }

    #[test]
    fn a_pod_without_a_node_is_read() {
        let pod: Pod =
            serde_json::from_str(r#"{"metadata":{"name":"x"},"spec":{"nodeName":"w","x":1}}"#).unwrap();
        assert_eq!(pod.spec.node_name.as_deref(), Some("w"));
        let pod: Pod = serde_json::from_str(r#"{"metadata":{"name":"x"}}"#).unwrap();
        assert_eq!(pod.spec.node_name, None);
    }
}
