use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use overlay_core::desired::{Problem, Who};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::*;
use crate::kube::fake_api::{FakeApi, Seen};

const EVENTS: &str = "/api/v1/namespaces/default/events";

fn who(node: &str) -> Who {
    Who {
        node: node.to_owned(),
        origin: format!("Node {node}"),
    }
}

fn conflict(peer: &str, holder: &str) -> State {
    State {
        problems: vec![Problem::MacTaken {
            peer: who(peer),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            holder: who(holder),
        }],
        ..State::default()
    }
}

fn node() -> NodeRecord {
    serde_json::from_value(json!({"metadata": {"name": "worker-1", "uid": "uid-1"}})).unwrap()
}

/// The events on a server, by name.
type Events = Arc<Mutex<BTreeMap<String, Value>>>;

/// A server with events, and an agent on worker-1.
fn world(
    start: State,
) -> (
    FakeApi,
    Events,
    watch::Sender<State>,
    watch::Sender<Option<NodeRecord>>,
) {
    let events = Arc::new(Mutex::new(BTreeMap::<String, Value>::new()));
    let stored = Arc::clone(&events);
    let api = FakeApi::new(move |seen: &Seen| {
        let mut stored = stored.lock().unwrap();
        let (verb, path) = seen.line.split_once(' ').unwrap();
        match verb {
            "POST" => {
                assert_eq!(path, EVENTS);
                let name = seen.body["metadata"]["name"].as_str().unwrap().to_owned();
                if stored.contains_key(&name) {
                    return (409, Value::Null);
                }
                stored.insert(name, seen.body.clone());
                (201, seen.body.clone())
            }
            "PATCH" => match stored.get_mut(path.rsplit('/').next().unwrap()) {
                Some(event) => {
                    event["count"] = seen.body["count"].clone();
                    (200, event.clone())
                }
                None => (404, Value::Null),
            },
            other => panic!("{other}"),
        }
    });
    let (state, state_receiver) = watch::channel(start);
    let (own, own_receiver) = watch::channel(Some(node()));
    tokio::spawn(report(
        api.client(),
        "worker-1".to_owned(),
        own_receiver,
        state_receiver,
    ));
    (api, events, state, own)
}

async fn after(api: &FakeApi, time: Duration) -> Vec<String> {
    sleep(time).await;
    api.take_seen().into_iter().map(|seen| seen.line).collect()
}

#[tokio::test(start_paused = true)]
async fn a_conflict_becomes_one_event_on_the_own_node() {
    let (api, events, state, _own) = world(State::default());
    assert!(after(&api, Duration::from_secs(1)).await.is_empty());
    state.send_replace(conflict("worker-2", "worker-1"));
    assert_eq!(
        after(&api, Duration::from_secs(1)).await,
        [format!("POST {EVENTS}")]
    );
    // Passes repeat themselves.
    for _ in 0..10 {
        state.send_replace(conflict("worker-2", "worker-1"));
        assert!(after(&api, Duration::from_secs(60)).await.is_empty());
    }
    let events: Vec<_> = events.lock().unwrap().values().cloned().collect();
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!(
        event["involvedObject"],
        json!({"apiVersion": "v1", "kind": "Node", "name": "worker-1", "uid": "uid-1"})
    );
    assert_eq!(
        (&event["type"], &event["reason"]),
        (&json!("Warning"), &json!("DuplicateVtepMAC"))
    );
    let message = event["message"].as_str().unwrap();
    assert!(message.contains("nodes worker-1 and worker-2"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_of_others_is_theirs() {
    let (api, _events, state, _own) = world(State::default());
    state.send_replace(conflict("worker-2", "worker-3"));
    assert!(after(&api, Duration::from_secs(3600)).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_while_it_holds_and_a_restart_does_not_make_another() {
    let (api, events, _state, _own) = world(conflict("worker-2", "worker-1"));
    let seen = after(&api, Duration::from_secs(95 * 60)).await;
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert_eq!(events.lock().unwrap().values().next().unwrap()["count"], 4);
    // The agent is restarted, the event is still there.
    let again = Reporter::new(api.client(), "worker-1".to_owned());
    let notice = notices("worker-1", &conflict("worker-2", "worker-1").problems)
        .pop_first()
        .unwrap();
    again.report("uid-1", &notice, 1).await.unwrap();
    assert_eq!(events.lock().unwrap().len(), 1);
    // And when the server has forgotten it, it is made again.
    events.lock().unwrap().clear();
    again.report("uid-1", &notice, 5).await.unwrap();
    assert_eq!(events.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_rule_is_no_storm() {
    let (api, _events, state, _own) = world(State::default());
    api.refuse([403; 10_000]);
    state.send_replace(conflict("worker-2", "worker-1"));
    let attempts = after(&api, Duration::from_secs(3600)).await.len();
    assert!((50..=150).contains(&attempts), "{attempts} in an hour");
}

#[tokio::test(start_paused = true)]
async fn without_a_node_there_is_nothing_to_report_on() {
    let (api, _events, state, own) = world(State::default());
    own.send_replace(None);
    state.send_replace(conflict("worker-2", "worker-1"));
    assert!(after(&api, Duration::from_secs(60)).await.is_empty());
    own.send_replace(Some(node()));
    assert_eq!(after(&api, Duration::from_secs(1)).await.len(), 1);
}
