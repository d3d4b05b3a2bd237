//! One Kubernetes Event: made, or renewed.

use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Request;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::notice::Notice;
use crate::kube::ask::{Asked, Refusal, RefusalKind};
use crate::kube::timestamp;

/// Where events about what has no namespace live.
const NAMESPACE: &str = "default";
/// Who reports.
const COMPONENT: &str = "overlay-agent";
/// The longest name of an object.
const LONGEST_NAME: usize = 253;

/// Reports on one node.
pub(super) struct Reporter {
    client: Client,
    node: String,
}

impl Reporter {
    pub(super) const fn new(client: Client, node: String) -> Self {
        Self { client, node }
    }

    /// Makes the event, or says that it still holds. Its name is made of what it says: a restarted agent renews the event of
    /// the one before it.
    pub(super) async fn report(&self, uid: &str, notice: &Notice, times: u32) -> Result<(), Refusal> {
        let name = name(&self.node, uid, notice);
        let now = timestamp::now();
        if times > 1 {
            match self.renew(&name, times, &now).await {
                Err(refusal) if refusal.kind == RefusalKind::NotFound => {}
                result => return result,
            }
        }
        match self
            .create(&event(&name, &self.node, uid, notice, &now), &name)
            .await
        {
            Err(refusal) if refusal.kind == RefusalKind::Conflict => self.renew(&name, times, &now).await,
            result => result,
        }
    }

    async fn create(&self, event: &Value, name: &str) -> Result<(), Refusal> {
        let request = async {
            let request = Request::new(format!("/api/v1/namespaces/{NAMESPACE}/events"));
            let request = request
                .create(&PostParams::default(), event.to_string().into_bytes())
                .map_err(kube::Error::BuildRequest)?;
            self.client.request::<IgnoredAny>(request).await
        };
        asked("create", name).answer(request).await.map(|_| ())
    }

    async fn renew(&self, name: &str, times: u32, now: &str) -> Result<(), Refusal> {
        let request = async {
            let body = json!({ "count": times.max(2), "lastTimestamp": now });
            let request = Request::new(format!("/api/v1/namespaces/{NAMESPACE}/events"));
            let request = request
                .patch(name, &PatchParams::default(), &Patch::Merge(body))
                .map_err(kube::Error::BuildRequest)?;
            self.client.request::<IgnoredAny>(request).await
        };
        asked("patch", name).answer(request).await.map(|_| ())
    }
}

const fn asked<'a>(verb: &'static str, name: &'a str) -> Asked<'a> {
    Asked {
        verb,
        resource: "events",
        kind: "Event",
        name,
        namespace: Some(NAMESPACE),
    }
}

/// A core/v1 Event.
fn event(name: &str, node: &str, uid: &str, notice: &Notice, now: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "involvedObject": { "apiVersion": "v1", "kind": "Node", "name": node, "uid": uid },
        "type": "Warning",
        "reason": notice.reason,
        "message": notice.message,
        "source": { "component": COMPONENT, "host": node },
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    })
}

/// `<node>.<16 hexadecimal digits>`, as client-go names events; the digits are of what the event says.
fn name(node: &str, uid: &str, notice: &Notice) -> String {
    let digits = fnv1a([uid, notice.reason, notice.message.as_str()]);
    let room = LONGEST_NAME - 17;
    // Node names are ASCII (RFC 1123), and so is every prefix of one.
    let stem = node.get(..room).unwrap_or(node).trim_end_matches(['.', '-']);
    format!("{stem}.{digits:016x}")
}

/// FNV-1a, 64 bits (draft-eastlake-fnv): the same in every version of the agent.
fn fnv1a<'a>(texts: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for text in texts {
        // A byte that no text contains keeps them apart.
        for byte in text.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(message: &str) -> Notice {
        Notice {
            reason: "Reason",
            message: message.to_owned(),
        }
    }

    #[test]
    fn an_event_is_named_by_what_it_says() {
        let first = name("worker-1", "uid", &notice("a"));
        assert_eq!(first, name("worker-1", "uid", &notice("a")));
        assert_ne!(first, name("worker-1", "uid", &notice("b")));
        assert_ne!(first, name("worker-1", "another", &notice("a")));
        assert!(first.starts_with("worker-1.") && first.len() == 25, "{first}");
    }

    #[test]
    fn a_long_node_name_is_cut() {
        let long = format!("{}-.b", "a".repeat(234));
        let name = name(&long, "uid", &notice("a"));
        assert!(name.len() <= LONGEST_NAME && name.starts_with("aaa"), "{name}");
        assert!(!name.contains("-.") && !name.contains(".."), "{name}");
    }

    #[test]
    fn fnv1a_is_fnv1a() {
        // draft-eastlake-fnv: FNV-1a of "a", continued with the byte 0xff.
        let a = 0xaf63_dc4c_8601_ec8c_u64;
        assert_eq!(fnv1a(["a"]), (a ^ 0xff).wrapping_mul(0x0100_0000_01b3));
    }
}
