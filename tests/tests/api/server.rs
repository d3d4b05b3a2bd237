//! The harness itself: what the other tests take for granted.

use overlay_testbed::api_server::{NodeObject, Refusal, Weight};
use overlay_testbed::detached::processes_of;
use overlay_testbed::{ApiServer, ApiServerOptions, Testbed};

/// A server of its own that answers from etcd: 410 as soon as a version is compacted away, the same data after a power cut, many
/// Nodes at once, and nobody is left afterwards.
#[test]
fn the_server_is_a_real_one() {
    let testbed = Testbed::builder().nodes(1).pods_per_node(0).build().unwrap();
    let options = ApiServerOptions {
        watch_cache: false,
        ..ApiServerOptions::default()
    };
    let mut server = ApiServer::start(&testbed, &options).unwrap();
    let node = |index: u32| {
        NodeObject::new(&format!("n-{index}"))
            .pod_cidr(&format!("10.0.{index}.0/24"))
            .lease("10.0.0.1", 1, "02:00:00:00:00:01")
            .weight(Weight::Real)
    };
    server.create_nodes((0..100).map(node)).unwrap();
    let again = server.create_node(&node(1)).unwrap_err();
    assert_eq!(
        again.downcast_ref::<Refusal>().map(|refusal| refusal.code),
        Some(409),
        "{again:#}"
    );

    let before = server.node("n-1").unwrap();
    server.kill_all().unwrap();
    assert!(server.node("n-1").is_err());
    server.resume().unwrap();
    assert_eq!(server.node("n-1").unwrap(), before);

    server.delete_node("n-1").unwrap();
    server.compact().unwrap();
    let version = before["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("/api/v1/nodes?watch=1&resourceVersion={version}&timeoutSeconds=1");
    let answer = server.client().get_text(&path);
    let text = answer.unwrap_or_else(|error| format!("{error:#}"));
    assert!(text.contains("410"), "{text}");

    let run = testbed.run().to_owned();
    drop(server);
    let left = processes_of(&run).unwrap();
    assert!(
        !left
            .iter()
            .any(|process| process.contains("etcd") || process.contains("kube-apiserver")),
        "{left:?}"
    );
}
