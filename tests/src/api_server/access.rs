//! Accounts, rights and kubeconfig files for agents.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{ApiServer, Refusal};

/// The documented rights of the agent: `deploy/rbac.yaml`.
pub const RBAC: &str = include_str!("../../../deploy/rbac.yaml");

/// The account that [`RBAC`] makes.
const ACCOUNT: (&str, &str) = ("kube-flannel", "overlay-agent");

/// How long tokens are valid, in seconds.
const TOKEN_SECONDS: u32 = 7200;

impl ApiServer {
    /// Creates or replaces the objects of a YAML file, as `kubectl apply` would.
    ///
    /// # Errors
    ///
    /// When a document is not YAML, its kind is not known here, or the server refuses it.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        documents(yaml)?
            .iter()
            .try_for_each(|object| self.apply_object(object))
    }

    /// Creates or replaces one object.
    ///
    /// # Errors
    ///
    /// When its kind is not known here or the server refuses it.
    pub fn apply_object(&self, object: &Value) -> Result<()> {
        let collection = collection(object)?;
        let name = text(object, "/metadata/name")?;
        match self.client.post(&collection, object) {
            Err(error) if refused_with(&error, 409) => {
                let path = format!("{collection}/{name}");
                self.client.put(&path, object).map(drop)
            }
            other => other.map(drop),
        }
    }

    /// kubeconfig for the account of [`RBAC`], which must be applied.
    ///
    /// # Errors
    ///
    /// When the account does not exist.
    pub fn agent_kubeconfig(&self) -> Result<String> {
        let (namespace, name) = ACCOUNT;
        self.service_account_kubeconfig(namespace, name)
    }

    /// kubeconfig with a fresh token of a service account (TokenRequest).
    ///
    /// # Errors
    ///
    /// When the account does not exist.
    pub fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<String> {
        let token = self.service_account_token(namespace, name)?;
        Ok(self.kubeconfig(&json!({ "token": token })))
    }

    /// A fresh token of a service account (TokenRequest).
    ///
    /// # Errors
    ///
    /// When the account does not exist.
    pub fn service_account_token(&self, namespace: &str, name: &str) -> Result<String> {
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": { "audiences": ["https://kubernetes.default.svc"], "expirationSeconds": TOKEN_SECONDS },
        });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let answer = self.client.post(&path, &request)?;
        text(&answer, "/status/token").map(ToOwned::to_owned)
    }

    /// kubeconfig with a client certificate of the node `name`: what kubelet has, restricted to its own Node.
    ///
    /// # Errors
    ///
    /// When the certificate cannot be signed.
    pub fn node_kubeconfig(&self, name: &str) -> Result<String> {
        let identity = self
            .credentials
            .client(&format!("system:node:{name}"), "system:nodes")?;
        Ok(self.kubeconfig(&json!({
            "client-certificate-data": base64(identity.certificate.as_bytes()),
            "client-key-data": base64(identity.key.as_bytes()),
        })))
    }

    /// The certificate authority's certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> String {
        self.credentials.ca_pem()
    }

    /// JSON is YAML, and kubeconfig is either.
    fn kubeconfig(&self, user: &Value) -> String {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "testbed", "cluster": {
                "server": self.url(),
                "certificate-authority-data": base64(self.ca_pem().as_bytes()),
            }}],
            "users": [{ "name": "agent", "user": user }],
            "contexts": [{ "name": "testbed", "context": { "cluster": "testbed", "user": "agent" } }],
            "current-context": "testbed",
        });
        format!("{config:#}\n")
    }
}

/// Whether `error` is the server's refusal with HTTP status `code`.
pub(super) fn refused_with(error: &anyhow::Error, code: u16) -> bool {
    error
        .downcast_ref::<Refusal>()
        .is_some_and(|refusal| refusal.code == code)
}

/// The documents of a YAML file; those without content are left out.
///
/// # Errors
///
/// When one of them is not YAML.
pub fn documents(yaml: &str) -> Result<Vec<Value>> {
    let parts = yaml.split("\n---\n");
    let parsed = parts.map(|part| {
        serde_saphyr::from_str::<Option<Value>>(part).with_context(|| format!("not YAML:\n{part}"))
    });
    parsed.filter_map(Result::transpose).collect()
}

/// The path of the collection that `object` belongs to.
fn collection(object: &Value) -> Result<String> {
    let (version, kind) = (text(object, "/apiVersion")?, text(object, "/kind")?);
    let root = if version.contains('/') {
        format!("/apis/{version}")
    } else {
        format!("/api/{version}")
    };
    let plural = match kind {
        "Namespace" => "namespaces",
        "Node" => "nodes",
        "Pod" => "pods",
        "ConfigMap" => "configmaps",
        "ServiceAccount" => "serviceaccounts",
        "ClusterRole" => "clusterroles",
        "ClusterRoleBinding" => "clusterrolebindings",
        "Role" => "roles",
        "RoleBinding" => "rolebindings",
        "DaemonSet" => "daemonsets",
        other => bail!("the testbed does not know the kind {other}"),
    };
    Ok(
        match object.pointer("/metadata/namespace").and_then(Value::as_str) {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
            None => format!("{root}/{plural}"),
        },
    )
}

fn text<'v>(value: &'v Value, pointer: &str) -> Result<&'v str> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.with_context(|| format!("no {pointer} in {value}"))
}

/// RFC 4648 with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4 {
            let index = usize::try_from(bits >> (18 - 6 * position) & 63).unwrap_or_default();
            let symbol = ALPHABET.get(index).copied().filter(|_| position <= group.len());
            text.push(char::from(symbol.unwrap_or(b'=')));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded() {
        for (bytes, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn every_document_of_the_rights_has_a_place() {
        let documents = documents(RBAC).unwrap();
        assert!(documents.len() > 3, "{documents:?}");
        for object in documents {
            assert!(collection(&object).unwrap().starts_with("/api"), "{object}");
        }
    }
}
