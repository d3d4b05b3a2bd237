use std::sync::{Arc, Mutex};
use std::time::Duration;

use overlay_core::kube::{DEFAULT_PREFIX, Keys};
use overlay_core::model::MacAddr;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{advance, sleep};

use super::*;
use crate::control::state::DeviceState;
use crate::kube::fake_api::{FakeApi, Seen};
use crate::kube::publish::Lease;

const MAC: MacAddr = MacAddr::new([0x12, 0xc6, 0x65, 0x89, 0xb4, 0xe3]);
const MINUTE: Duration = Duration::from_secs(60);

/// A Node on a server, an agent that keeps its lease, and the watch between them.
struct World {
    api: FakeApi,
    node: Arc<Mutex<Value>>,
    own: watch::Sender<Option<NodeRecord>>,
    identity: watch::Sender<Identity>,
    state: watch::Sender<State>,
    progress: Arc<Mutex<Progress>>,
    task: JoinHandle<()>,
}

fn bare_node(uid: &str) -> Value {
    json!({
        "metadata": {"name": "worker-1", "uid": uid, "resourceVersion": "1", "annotations": {"other": "stays"}},
        "spec": {"podCIDR": "10.244.1.0/24"},
    })
}

fn up() -> State {
    State {
        device: Some(DeviceState {
            name: "flannel.1".to_owned(),
            mac: MAC,
            mtu: 1450,
            subnet: "10.244.1.0/24".parse().unwrap(),
            network: "10.244.0.0/16".parse().unwrap(),
            underlay: "eth0".to_owned(),
            address: [192, 168, 0, 1].into(),
        }),
        ..State::default()
    }
}

fn bump(node: &mut Value) {
    let version: u64 = node["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    node["metadata"]["resourceVersion"] = json!((version + 1).to_string());
}

fn set(node: &mut Value, key: &str, value: &str) {
    node["metadata"]["annotations"][key] = json!(value);
    bump(node);
}

fn record(node: &Value) -> NodeRecord {
    serde_json::from_value(node.clone()).unwrap()
}

impl World {
    fn new() -> Self {
        let node = Arc::new(Mutex::new(bare_node("uid-1")));
        let stored = Arc::clone(&node);
        let api = FakeApi::new(move |seen: &Seen| {
            let mut node = stored.lock().unwrap();
            for (key, value) in seen.body["metadata"]["annotations"].as_object().unwrap() {
                set(&mut node, key, value.as_str().unwrap());
            }
            (200, node.clone())
        });
        let (own, own_receiver) = watch::channel(Some(record(&node.lock().unwrap())));
        let (identity, identity_receiver) = watch::channel(Identity {
            public_ip: [192, 168, 0, 1].into(),
            vtep_mac: MAC,
        });
        let (state, state_receiver) = watch::channel(State::default());
        let inputs = Inputs {
            own: own_receiver,
            identity: identity_receiver,
            state: state_receiver,
        };
        let lease = Lease {
            keys: Keys::new(DEFAULT_PREFIX).unwrap(),
            vni: 1,
        };
        let progress = Arc::new(Mutex::new(Progress::default()));
        let noted = Arc::clone(&progress);
        let note = move |now| *noted.lock().unwrap() = now;
        let task = tokio::spawn(keep(lease, api.client(), "worker-1".to_owned(), inputs, note));
        Self {
            api,
            node,
            own,
            identity,
            state,
            progress,
            task,
        }
    }

    /// The watch tells what the server has.
    fn echo(&self) {
        self.own.send_replace(Some(record(&self.node.lock().unwrap())));
    }

    /// Somebody else writes an annotation, and the watch tells.
    fn interfere(&self, key: &str, value: &str) {
        set(
            &mut self.node.lock().unwrap(),
            &format!("{DEFAULT_PREFIX}/{key}"),
            value,
        );
        self.echo();
    }

    /// The requests of the next `time`.
    async fn requests(&self, time: Duration) -> Vec<Seen> {
        sleep(time).await;
        self.api.take_seen()
    }

    fn progress(&self) -> Progress {
        self.progress.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn is_written_once_the_device_is_up_and_then_left_alone() {
    let world = World::new();
    assert!(world.requests(MINUTE).await.is_empty(), "the device is not up");
    assert!(matches!(world.progress(), Progress::Waiting(why) if why.contains("not up")));
    world.state.send_replace(up());
    let seen = world.requests(MINUTE).await;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].line, "PATCH /api/v1/nodes/worker-1/status");
    assert_eq!(
        seen[0].body["metadata"]["annotations"].as_object().unwrap().len(),
        4
    );
    assert_eq!(world.progress(), Progress::Done);
    // The kubelet's heartbeats bring the Node again and again; what the watch told before the write comes late.
    for version in ["1", "2", "77"] {
        let mut node = world.node.lock().unwrap().clone();
        if version != "77" {
            node = bare_node("uid-1");
        }
        node["metadata"]["resourceVersion"] = json!(version);
        world.own.send_replace(Some(record(&node)));
        assert!(world.requests(MINUTE).await.is_empty(), "{version}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_identity_is_written_at_once() {
    let world = World::new();
    world.state.send_replace(up());
    world.requests(MINUTE).await;
    world.echo();
    for last in 2..6 {
        world
            .identity
            .send_modify(|identity| identity.public_ip = [192, 168, 0, last].into());
        let seen = world.requests(Duration::from_millis(1)).await;
        assert_eq!(seen.len(), 1, "{last}");
        world.echo();
    }
}

/// Seen red without `Corrections`: 600 requests.
#[tokio::test(start_paused = true)]
async fn two_writers_do_not_fight_at_the_speed_of_the_server() {
    let world = World::new();
    world.state.send_replace(up());
    world.requests(MINUTE).await;
    world.echo();
    world.interfere("public-ip", "10.0.0.1");
    assert_eq!(
        world.requests(Duration::from_millis(1)).await.len(),
        1,
        "the first time at once"
    );
    let mut corrections = 0;
    for _ in 0..600 {
        world.interfere("public-ip", "10.0.0.1");
        corrections += world.requests(Duration::from_secs(1)).await.len();
    }
    assert!((3..=10).contains(&corrections), "{corrections} in 10 minutes");
    assert!(matches!(world.progress(), Progress::Waiting(why) if why.contains("somebody else")));
    // In the end the agent's word stands.
    let seen = world.requests(MINUTE * 6).await;
    assert_eq!(seen.len(), 1);
    assert_eq!(
        world.node.lock().unwrap()["metadata"]["annotations"][format!("{DEFAULT_PREFIX}/public-ip")],
        "192.168.0.1"
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_registers_anew_gets_everything_again_at_once() {
    let world = World::new();
    world.state.send_replace(up());
    world.requests(MINUTE).await;
    for uid in ["uid-2", "uid-3", "uid-4"] {
        world.own.send_replace(None);
        assert!(world.requests(MINUTE).await.is_empty(), "there is no Node");
        assert!(matches!(world.progress(), Progress::Waiting(why) if why.contains("does not exist")));
        *world.node.lock().unwrap() = bare_node(uid);
        world.echo();
        let seen = world.requests(Duration::from_millis(1)).await;
        assert_eq!(seen.len(), 1, "{uid}");
        assert_eq!(world.progress(), Progress::Done);
    }
}

/// Seen red with a constant wait of a second: 600 requests.
#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_later_and_later() {
    for status in [403, 404, 409, 422, 500, 503] {
        let world = World::new();
        world.api.refuse([status; 1000]);
        world.state.send_replace(up());
        let attempts = world.requests(MINUTE * 10).await.len();
        assert!((10..=30).contains(&attempts), "{status}: {attempts}");
        let Progress::Waiting(why) = world.progress() else {
            panic!("{status}: done")
        };
        assert!(why.contains("cannot patch Node worker-1 (status)"), "{why}");
        if status == 403 {
            assert!(
                why.contains("nodes/status") && why.contains("verbs: [\"patch\"]"),
                "{why}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_over_is_made_good() {
    let world = World::new();
    world.api.refuse([503, 503]);
    world.state.send_replace(up());
    assert_eq!(world.requests(MINUTE).await.len(), 3);
    assert_eq!(world.progress(), Progress::Done);
}

#[tokio::test(start_paused = true)]
async fn ends_with_what_it_depends_on() {
    let World {
        own,
        identity,
        state,
        task,
        ..
    } = World::new();
    advance(MINUTE).await;
    drop((own, identity, state));
    task.await.unwrap();
}
