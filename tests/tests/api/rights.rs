//! The documented rights (deploy/rbac.yaml) are what the agent needs: no more, and no less.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use anyhow::ensure;
use overlay_testbed::api_server::{NodeObject, RBAC, documents};
use overlay_testbed::{ApiServer, eventually};
use serde_json::{Value, json};

use crate::agent::{KubeAgent, READY, RETRIED};
use crate::bed::{absent, turn};
use crate::peers::{AT_ONCE, wait_peers};

const USER: &str = "system:serviceaccount:kube-flannel:overlay-agent";

/// How long a message must not be repeated.
const QUIET: Duration = Duration::from_secs(4);

/// A role that holds documented rules.
struct Role {
    path: &'static str,
    namespace: Option<&'static str>,
}

const CLUSTER: Role = Role {
    path: "/apis/rbac.authorization.k8s.io/v1/clusterroles/overlay-agent",
    namespace: None,
};
const POD: Role = Role {
    path: "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-flannel/roles/overlay-agent-node-name",
    namespace: Some("kube-flannel"),
};
const EVENTS: Role = Role {
    path: "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/overlay-agent-events",
    namespace: Some("default"),
};

impl Role {
    /// Takes one verb on one resource away; returns the role as it was.
    fn without(&self, server: &ApiServer, resource: &str, verb: &str) -> Value {
        let whole = server.client().get(self.path).unwrap();
        let mut less = whole.clone();
        let rules = less["rules"].as_array_mut().unwrap();
        let mut taken = 0;
        for rule in rules.iter_mut() {
            if rule["resources"].as_array().unwrap().contains(&json!(resource)) {
                let verbs = rule["verbs"].as_array_mut().unwrap();
                let before = verbs.len();
                verbs.retain(|other| other != verb);
                taken += before - verbs.len();
            }
        }
        // The server refuses a rule without verbs.
        rules.retain(|rule| rule["verbs"] != json!([]));
        assert_eq!(taken, 1, "{verb} {resource} is not documented in {}", self.path);
        self.replace(server, &less);
        self.wait(server, resource, verb, false);
        whole
    }

    fn restore(&self, server: &ApiServer, whole: &Value, resource: &str, verb: &str) {
        self.replace(server, whole);
        self.wait(server, resource, verb, true);
    }

    fn replace(&self, server: &ApiServer, role: &Value) {
        let mut role = role.clone();
        role["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("resourceVersion");
        server.client().put(self.path, &role).unwrap();
    }

    /// The server's authoriser follows roles with a little delay.
    fn wait(&self, server: &ApiServer, resource: &str, verb: &str, allowed: bool) {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": { "user": USER, "resourceAttributes": {
                "verb": verb, "resource": resource, "subresource": subresource,
                "namespace": self.namespace.unwrap_or_default(),
            } },
        });
        eventually(READY, "the role's effect", || {
            let answer = server
                .client()
                .post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review)?;
            ensure!(
                answer["status"]["allowed"].as_bool().unwrap_or_default() == allowed,
                "{answer}"
            );
            Ok(())
        })
        .unwrap();
    }
}

/// Verb and resource of every documented right.
fn documented() -> BTreeSet<(String, String)> {
    let objects = documents(RBAC).unwrap();
    let roles = objects
        .iter()
        .filter(|object| object["kind"].as_str().unwrap().ends_with("Role"));
    let mut rights = BTreeSet::new();
    for rule in roles.flat_map(|role| role["rules"].as_array().unwrap()) {
        assert_eq!(rule["apiGroups"], json!([""]), "{rule}");
        for resource in rule["resources"].as_array().unwrap() {
            for verb in rule["verbs"].as_array().unwrap() {
                rights.insert((
                    verb.as_str().unwrap().to_owned(),
                    resource.as_str().unwrap().to_owned(),
                ));
            }
        }
    }
    rights
}

/// A whole life, with a conflict to report, asks for nothing but what is documented, and for all of that.
///
/// Seen red with a right too many in deploy/rbac.yaml.
#[test]
fn the_documented_rights_suffice() {
    let mut bed = turn();
    let node = bed.bare_machine();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "agent-x", "namespace": "kube-flannel" },
        "spec": { "nodeName": node.name(), "containers": [{ "name": "agent", "image": "agent" }] },
    });
    bed.server.apply_object(&pod).unwrap();
    let cidr = format!("{}/24", node.lease().subnet);
    let object = NodeObject::new(node.name()).pod_cidr(&cidr);
    bed.server.create_node(&object).unwrap();
    let agent = KubeAgent::spawn_with(
        &node,
        &[("POD_NAME", "agent-x"), ("POD_NAMESPACE", "kube-flannel")],
        &[],
    );
    agent.wait_ready(READY);
    let mut twin = absent(1);
    twin.subnet = node.lease().subnet;
    bed.create_absent(&twin);
    eventually(READY, "the event", || {
        ensure!(
            bed.count(&node, "create", "events") > 0,
            "none yet; the log:\n{}",
            agent.log()
        );
        Ok(())
    })
    .unwrap();
    agent.stop();
    let kill = bed
        .server
        .client()
        .delete("/api/v1/namespaces/kube-flannel/pods/agent-x?gracePeriodSeconds=0");
    kill.unwrap();

    let requests = bed.requests(&node);
    let refused: Vec<_> = requests.iter().filter(|request| request.code >= 400).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    let asked: BTreeSet<_> = requests
        .iter()
        .map(|request| (request.verb.clone(), request.resource.clone()))
        .collect();
    let mut documented = documented();
    let renewal = ("patch".to_owned(), "events".to_owned());
    assert!(
        documented.remove(&renewal),
        "an event is renewed after half an hour"
    );
    assert_eq!(asked, documented);
    assert!(
        requests.iter().all(|request| request.user == USER),
        "{requests:#?}"
    );
}

/// Without one rule the agent says once which one, changes nothing it cannot finish, and goes on by itself when it is added.
///
/// Seen red with an agent that repeats its message at every attempt.
fn missing(role: &Role, resource: &str, verb: &str) {
    let mut bed = turn();
    let node = bed.machine();
    bed.create_absent(&absent(1));
    let whole = role.without(&bed.server, resource, verb);
    let mut agent = KubeAgent::spawn(&node, &[]);
    let (resource_words, verb_words) = (format!("resources: [\"{resource}\"]"), format!("\"{verb}\""));
    let words = [
        "not allowed (403)",
        "rbac.yaml",
        resource_words.as_str(),
        verb_words.as_str(),
    ];
    agent.wait_line(&words, READY);
    sleep(QUIET);
    assert!(agent.runs(), "{}", agent.log());
    assert_eq!(agent.lines(&words).len(), 1, "{}", agent.log());
    assert_eq!(agent.health("/readyz").unwrap().status, 503);
    assert_eq!(agent.health("/healthz").unwrap().status, 200);

    role.restore(&bed.server, &whole, resource, verb);
    agent.wait_ready(RETRIED);
    wait_peers(&node, &[absent(1)], AT_ONCE);
    agent.stop();
}

#[test]
fn without_get_nodes_the_agent_says_so() {
    missing(&CLUSTER, "nodes", "get");
}

#[test]
fn without_list_nodes_the_agent_says_so() {
    missing(&CLUSTER, "nodes", "list");
}

/// Peers may be programmed by then, but no change would be seen: the agent is not ready.
#[test]
fn without_watch_nodes_the_agent_says_so() {
    let mut bed = turn();
    let node = bed.machine();
    bed.create_absent(&absent(1));
    let whole = CLUSTER.without(&bed.server, "nodes", "watch");
    let agent = KubeAgent::spawn(&node, &[]);
    let words = [
        "cannot watch Nodes",
        "not allowed (403)",
        "rbac.yaml",
        "\"watch\"",
    ];
    agent.wait_line(&words, READY);
    sleep(QUIET);
    assert_eq!(agent.lines(&words).len(), 1, "{}", agent.log());
    assert_eq!(bed.count(&node, "list", "nodes"), 1, "{:#?}", bed.requests(&node));

    CLUSTER.restore(&bed.server, &whole, "nodes", "watch");
    agent.wait_ready(RETRIED);
    eventually(RETRIED, "the watch", || {
        ensure!(bed.count(&node, "watch", "nodes") > 0, "none yet");
        Ok(())
    })
    .unwrap();
    bed.create_absent(&absent(2));
    wait_peers(&node, &[absent(1), absent(2)], AT_ONCE);
    agent.stop();
}

#[test]
fn without_patch_of_nodes_status_the_agent_says_so() {
    missing(&CLUSTER, "nodes/status", "patch");
}

/// Only an agent without `NODE_NAME` looks for its pod.
#[test]
fn without_get_pods_the_agent_says_so() {
    let mut bed = turn();
    let node = bed.machine();
    let whole = POD.without(&bed.server, "pods", "get");
    let agent = KubeAgent::spawn_with(
        &node,
        &[("POD_NAME", "agent-y"), ("POD_NAMESPACE", "kube-flannel")],
        &[],
    );
    let words = [
        "not allowed (403)",
        "kube-flannel",
        "resources: [\"pods\"]",
        "verbs: [\"get\"]",
    ];
    agent.wait_line(&words, READY);
    sleep(QUIET);
    assert_eq!(agent.lines(&words).len(), 1, "{}", agent.log());
    POD.restore(&bed.server, &whole, "pods", "get");
    agent.stop();
}

/// Events are a comfort: without the rule there is one warning, and everything works.
#[test]
fn without_events_everything_else_works() {
    let mut bed = turn();
    let node = bed.machine();
    let whole = EVENTS.without(&bed.server, "events", "create");
    let agent = KubeAgent::start(&node);
    let mut twin = absent(1);
    twin.subnet = node.lease().subnet;
    bed.create_absent(&twin);
    bed.create_absent(&absent(2));
    let words = ["not allowed (403)", "resources: [\"events\"]", "\"create\""];
    agent.wait_line(&words, READY);
    wait_peers(&node, &[absent(2)], AT_ONCE);
    sleep(QUIET);
    assert_eq!(agent.lines(&words).len(), 1, "{}", agent.log());
    agent.ready().unwrap();
    EVENTS.restore(&bed.server, &whole, "events", "create");
    agent.stop();
}
