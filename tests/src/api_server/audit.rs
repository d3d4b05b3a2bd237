//! What clients asked of the server, as its audit log says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::ApiServer;
use crate::holder::DIRECTORY;

pub(super) const POLICY: &str = "audit-policy.yaml";
pub(super) const LOG: &str = "audit.log";

/// Everything but what the harness and the server itself do.
const RULES: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
rules:
  - level: None
    userGroups: [\"system:masters\"]
  - level: None
    users: [\"system:anonymous\", \"system:apiserver\"]
  - level: Request
";

/// A request of an agent.
#[derive(Clone, Debug)]
pub struct Request {
    /// `get`, `list`, `watch`, `patch`, `create`.
    pub verb: String,
    /// `nodes`, `nodes/status`, `events`.
    pub resource: String,
    /// Name of the object; empty for lists.
    pub name: String,
    /// User: `system:serviceaccount:kube-flannel:overlay-agent`, `system:node:node-1`.
    pub user: String,
    /// Path and query.
    pub uri: String,
    /// Address that it came from.
    pub source: String,
    /// HTTP status of the answer; 0 while it goes on, as a watch does.
    pub code: u64,
    /// What was sent.
    pub body: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    /// The same in each entry about one request.
    #[serde(rename = "auditID")]
    audit_id: String,
    stage: String,
    verb: String,
    #[serde(rename = "requestURI")]
    request_uri: String,
    user: User,
    #[serde(default, rename = "sourceIPs")]
    source_ips: Vec<String>,
    object_ref: Option<ObjectRef>,
    response_status: Option<ResponseStatus>,
    request_object: Option<Value>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Default, Deserialize)]
struct ObjectRef {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u64,
}

impl Request {
    /// Whether it is `verb` on `resource` (`patch`, `nodes/status`).
    #[must_use]
    pub fn is(&self, verb: &str, resource: &str) -> bool {
        self.verb == verb && self.resource == resource
    }
}

impl From<Entry> for Request {
    fn from(entry: Entry) -> Self {
        let object = entry.object_ref.unwrap_or_default();
        let resource = if object.subresource.is_empty() {
            object.resource
        } else {
            format!("{}/{}", object.resource, object.subresource)
        };
        Self {
            verb: entry.verb,
            resource,
            name: object.name,
            user: entry.user.username,
            uri: entry.request_uri,
            source: entry.source_ips.into_iter().next().unwrap_or_default(),
            code: entry.response_status.map_or(0, |status| status.code),
            body: entry.request_object,
        }
    }
}

/// The requests in a log: each has an entry when it comes and one when it was answered, and some have more.
fn parse(log: &str) -> Result<Vec<Request>> {
    let mut requests: Vec<Request> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for line in log.lines() {
        let entry: Entry = serde_json::from_str(line).with_context(|| format!("audit log: {line}"))?;
        let (id, ends) = (entry.audit_id.clone(), entry.stage == "ResponseComplete");
        let request = Request::from(entry);
        match places.get(&id).and_then(|place| requests.get_mut(*place)) {
            // What is in between says less, and nothing of a watch that has only begun.
            Some(known) if ends => *known = request,
            Some(_) => {}
            None => {
                places.insert(id, requests.len());
                requests.push(request);
            }
        }
    }
    Ok(requests)
}

pub(super) fn write_policy(directory: &Path) -> Result<()> {
    let path = directory.join(POLICY);
    fs::write(&path, RULES).with_context(|| format!("cannot write {}", path.display()))
}

impl ApiServer {
    /// Every request since the server was first started, but those of administrators, in the order in which they came.
    ///
    /// # Errors
    ///
    /// When the server runs without [`audit`](super::ApiServerOptions::audit).
    pub fn requests(&self) -> Result<Vec<Request>> {
        let path = self.space.path_from_outside(&Path::new(DIRECTORY).join(LOG));
        let text = fs::read_to_string(&path)
            .with_context(|| format!("cannot read the audit log {}", path.display()))?;
        // The last line may be half written.
        let whole = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or("");
        parse(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, stage: &str, verb: &str, code: u16) -> String {
        let status = if code == 0 {
            String::new()
        } else {
            format!(r#","responseStatus":{{"metadata":{{}},"code":{code}}}"#)
        };
        format!(
            r#"{{"auditID":"{id}","stage":"{stage}","requestURI":"/api/v1/nodes/n/status","verb":"{verb}","user":{{"username":"u"}},"sourceIPs":["192.168.0.1"],"objectRef":{{"resource":"nodes","subresource":"status","name":"n"}}{status}}}"#
        )
    }

    #[test]
    fn a_request_counts_once_from_when_it_came() {
        let log = [
            line("a", "RequestReceived", "watch", 0),
            line("b", "RequestReceived", "patch", 0),
            line("b", "ResponseComplete", "patch", 200),
            line("c", "RequestReceived", "watch", 0),
            line("c", "ResponseStarted", "watch", 403),
            line("c", "ResponseComplete", "watch", 403),
        ];
        let requests = parse(&log.join("\n")).unwrap();
        let seen: Vec<_> = requests
            .iter()
            .map(|request| (request.verb.as_str(), request.code))
            .collect();
        assert_eq!(seen, [("watch", 0), ("patch", 200), ("watch", 403)]);
    }

    #[test]
    fn a_request_names_its_subresource() {
        let requests = parse(&line("a", "ResponseComplete", "patch", 200)).unwrap();
        let request = requests.first().unwrap();
        assert!(request.is("patch", "nodes/status"));
        assert_eq!((request.source.as_str(), request.code), ("192.168.0.1", 200));
    }
}
