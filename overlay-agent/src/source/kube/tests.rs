//! Records in, events and notes out.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use log::Level;
use overlay_core::model::{FamilyLease, Lease};

use super::*;

const PREFIX: &str = "flannel.alpha.coreos.com/";

fn identity(last: u8) -> Identity {
    Identity {
        public_ip: [192, 168, 0, last].into(),
        vtep_mac: "02:00:00:00:00:aa".parse().unwrap(),
    }
}

fn fold() -> Fold {
    let keys = Keys::new("flannel.alpha.coreos.com").unwrap();
    Fold::new(keys, 1, "me".into(), identity(1))
}

/// A Node that takes part, with a number for its subnet and its address.
fn node(name: &str, number: u8) -> NodeRecord {
    let annotations = [
        ("kube-subnet-manager", "true".to_owned()),
        ("backend-type", "vxlan".to_owned()),
        (
            "backend-data",
            format!("{{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:00:{number:02x}\"}}"),
        ),
        ("public-ip", format!("192.168.0.{number}")),
    ];
    NodeRecord {
        metadata: ObjectMeta {
            name: Some(name.into()),
            uid: Some(format!("uid of {name}")),
            resource_version: Some("1".into()),
            creation_timestamp: Timestamp::from_second(1000 + i64::from(number)).ok().map(Time),
            annotations: Some(
                annotations
                    .into_iter()
                    .map(|(key, value)| (format!("{PREFIX}{key}"), value))
                    .collect(),
            ),
            ..ObjectMeta::default()
        },
        pod_cidr: Some(format!("10.244.{number}.0/24")),
        pod_cidrs: vec![format!("10.244.{number}.0/24")],
        ..NodeRecord::default()
    }
}

fn annotated(mut node: NodeRecord, key: &str, value: &str) -> NodeRecord {
    let annotations = node.metadata.annotations.get_or_insert_with(BTreeMap::new);
    annotations.insert(format!("{PREFIX}{key}"), value.into());
    node
}

fn family(number: u8) -> FamilyLease {
    FamilyLease {
        subnet: format!("10.244.{number}.0/24").parse().unwrap(),
        public_ip: [192, 168, 0, number].into(),
        vtep_mac: format!("02:00:00:00:00:{number:02x}").parse().unwrap(),
    }
}

fn lease(name: &str, number: u8) -> Lease {
    Lease {
        node: name.into(),
        origin: format!("Node {name}"),
        v4: Some(family(number)),
        v6: None,
    }
}

fn own_lease(subnet: &str, identity: Identity) -> Lease {
    Lease {
        node: "me".into(),
        origin: "Node me".into(),
        v4: Some(FamilyLease {
            subnet: subnet.parse().unwrap(),
            public_ip: identity.public_ip,
            vtep_mac: identity.vtep_mac,
        }),
        v6: None,
    }
}

fn list(fold: &mut Fold, nodes: impl IntoIterator<Item = NodeRecord>) -> Option<LeaseEvent> {
    assert_eq!(fold.take(NodeEvent::ListBegins), None);
    for node in nodes {
        assert_eq!(
            fold.take(NodeEvent::Listed(node)),
            None,
            "a list is reported as a whole"
        );
    }
    fold.take(NodeEvent::ListEnds)
}

fn apply(fold: &mut Fold, node: NodeRecord) -> Option<LeaseEvent> {
    fold.take(NodeEvent::Applied(node))
}

fn delete(fold: &mut Fold, name: &str) -> Option<LeaseEvent> {
    fold.take(NodeEvent::Deleted { name: name.into() })
}

fn remove(node: &str) -> Option<LeaseEvent> {
    Some(LeaseEvent::Remove { node: node.into() })
}

fn upsert(lease: Lease) -> Option<LeaseEvent> {
    Some(LeaseEvent::Upsert(lease))
}

fn texts(fold: &mut Fold) -> Vec<String> {
    fold.notes().into_iter().map(|note| note.text).collect()
}

/// With `me`, `a` and `b`, and nothing left to say.
fn listed() -> Fold {
    let mut fold = fold();
    list(&mut fold, [node("a", 2), node("b", 3), node("me", 9)]).unwrap();
    assert_eq!(texts(&mut fold), [""; 0]);
    fold
}

#[test]
fn the_first_list_is_reported_as_a_whole_the_oldest_node_first() {
    let mut fold = fold();
    let event = list(&mut fold, [node("a", 7), node("b", 3), node("me", 9)]);
    let leases = vec![
        lease("b", 3),
        lease("a", 7),
        own_lease("10.244.9.0/24", identity(1)),
    ];
    assert_eq!(event, Some(LeaseEvent::Replace(leases)));
    assert_eq!(texts(&mut fold), [""; 0]);
    let own = fold.own_changed().unwrap().unwrap();
    assert_eq!(own.name(), "me");
    assert!(fold.own_changed().is_none());
}

#[test]
fn an_empty_cluster_is_a_list_too() {
    let mut fold = fold();
    assert_eq!(list(&mut fold, []), Some(LeaseEvent::Replace(vec![])));
    assert_eq!(fold.own_changed(), Some(None));
    assert!(texts(&mut fold)[0].contains("Node me, this agent's own, does not exist"));
}

#[test]
fn what_does_not_change_the_lease_is_not_reported() {
    let mut fold = listed();
    let mut heartbeat = node("a", 2);
    heartbeat.metadata.resource_version = Some("2".into());
    assert_eq!(apply(&mut fold, heartbeat), None);
    let labelled = annotated(node("a", 2), "public-ip-overwrite", "192.168.0.2");
    assert_eq!(apply(&mut fold, labelled), None);
    assert_eq!(list(&mut fold, [node("me", 9), node("b", 3), node("a", 2)]), None);
    assert_eq!(texts(&mut fold), [""; 0]);
}

#[test]
fn changes_are_reported_one_by_one() {
    let mut fold = listed();
    assert_eq!(apply(&mut fold, node("c", 4)), upsert(lease("c", 4)));
    assert_eq!(apply(&mut fold, node("c", 4)), None);
    let moved = annotated(node("c", 4), "public-ip", "192.168.0.5");
    let mut expected = lease("c", 4);
    expected.v4.as_mut().unwrap().public_ip = [192, 168, 0, 5].into();
    assert_eq!(apply(&mut fold, moved), upsert(expected));
    assert_eq!(delete(&mut fold, "c"), remove("c"));
    assert_eq!(delete(&mut fold, "c"), None);
    assert_eq!(apply(&mut fold, node("c", 4)), upsert(lease("c", 4)));
}

#[test]
fn a_node_that_no_longer_takes_part_is_removed() {
    let mut fold = listed();
    let mut bare = node("a", 2);
    bare.metadata.annotations = None;
    assert_eq!(apply(&mut fold, bare.clone()), remove("a"));
    assert_eq!(apply(&mut fold, bare), None);
    assert_eq!(delete(&mut fold, "a"), None, "it has no lease any more");
    let closed = annotated(node("b", 3), "kube-subnet-manager", "false");
    assert_eq!(apply(&mut fold, closed), remove("b"));
    assert_eq!(apply(&mut fold, node("b", 3)), upsert(lease("b", 3)));
    let other = annotated(node("b", 3), "backend-type", "host-gw");
    assert_eq!(apply(&mut fold, other), remove("b"));
    assert!(texts(&mut fold)[0].starts_with("Node b is left out: "));
}

#[test]
fn another_pod_subnet_is_followed() {
    let mut fold = listed();
    let mut moved = node("a", 2);
    moved.pod_cidr = Some("10.244.40.0/24".into());
    moved.pod_cidrs = vec!["10.244.40.0/24".into()];
    let mut expected = lease("a", 2);
    expected.v4.as_mut().unwrap().subnet = "10.244.40.0/24".parse().unwrap();
    assert_eq!(apply(&mut fold, moved), upsert(expected));
}

#[test]
fn a_broken_node_keeps_its_last_good_lease_and_is_named_once() {
    let mut fold = listed();
    let broken = annotated(node("a", 2), "public-ip", "10.0.0");
    assert_eq!(apply(&mut fold, broken.clone()), None);
    assert_eq!(
        texts(&mut fold),
        [
            "Node a: flannel.alpha.coreos.com/public-ip `10.0.0` is not allowed: expected the IPv4 address of the node's VTEP \
             in the underlay, like 192.168.0.1; its last good IPv4 lease stays in force: 10.244.2.0/24 via 192.168.0.2, \
             02:00:00:00:00:02"
        ]
    );
    assert_eq!(apply(&mut fold, broken.clone()), None);
    assert_eq!(
        list(&mut fold, [broken.clone(), node("b", 3), node("me", 9)]),
        None
    );
    assert_eq!(texts(&mut fold), [""; 0], "it was said");
    let worse = annotated(broken, "backend-data", "{}");
    assert_eq!(apply(&mut fold, worse), None);
    assert_eq!(texts(&mut fold).len(), 1, "it says something else");
    assert_eq!(apply(&mut fold, node("a", 2)), None);
    assert_eq!(texts(&mut fold), ["Node a: what was wrong is repaired"]);
}

#[test]
fn a_broken_node_with_another_subnet_or_uid_loses_its_lease() {
    let mut fold = listed();
    let mut moved = annotated(node("a", 2), "public-ip", "10.0.0");
    moved.pod_cidrs = vec!["10.244.40.0/24".into()];
    assert_eq!(apply(&mut fold, moved), remove("a"));
    assert!(texts(&mut fold)[0].ends_with("it has no IPv4 lease until that is repaired"));
    let mut recreated = annotated(node("b", 3), "public-ip", "10.0.0");
    recreated.metadata.uid = Some("another".into());
    assert_eq!(apply(&mut fold, recreated), remove("b"));
}

#[test]
fn one_bad_node_does_not_affect_the_others() {
    let mut fold = fold();
    let bad = annotated(node("a", 2), "backend-data", "\u{0}{[");
    let event = list(&mut fold, [bad, node("b", 3), node("me", 9)]);
    let leases = vec![lease("b", 3), own_lease("10.244.9.0/24", identity(1))];
    assert_eq!(event, Some(LeaseEvent::Replace(leases)));
    let [note] = &fold.notes()[..] else { panic!() };
    assert_eq!(note.level, Level::Error);
    assert!(note.text.starts_with("Node a: "), "{}", note.text);
}

#[test]
fn what_has_gone_while_nobody_looked_is_removed() {
    let mut fold = listed();
    let event = list(&mut fold, [node("a", 2), node("me", 9)]);
    let leases = vec![lease("a", 2), own_lease("10.244.9.0/24", identity(1))];
    assert_eq!(event, Some(LeaseEvent::Replace(leases)));
}

#[test]
fn a_list_that_breaks_off_is_not_reported_and_not_forgotten() {
    let mut fold = listed();
    assert_eq!(fold.take(NodeEvent::ListBegins), None);
    assert_eq!(fold.take(NodeEvent::Listed(node("c", 4))), None);
    assert_eq!(
        fold.identify(identity(8)),
        None,
        "nothing is reported in the middle"
    );
    let event = list(
        &mut fold,
        [node("a", 2), node("b", 3), node("c", 4), node("me", 9)],
    );
    let leases = vec![
        lease("a", 2),
        lease("b", 3),
        lease("c", 4),
        own_lease("10.244.9.0/24", identity(8)),
    ];
    assert_eq!(event, Some(LeaseEvent::Replace(leases)));
}

#[test]
fn the_own_lease_waits_for_its_subnet_and_says_so_once() {
    let mut fold = fold();
    let mut bare = node("me", 9);
    bare.metadata.annotations = None;
    bare.pod_cidr = None;
    bare.pod_cidrs.clear();
    assert_eq!(list(&mut fold, [bare.clone()]), Some(LeaseEvent::Replace(vec![])));
    assert!(texts(&mut fold)[0].contains("has no IPv4 podCIDR yet: waiting for it"));
    assert_eq!(apply(&mut fold, bare.clone()), None);
    assert_eq!(texts(&mut fold), [""; 0]);
    assert!(
        fold.own_changed().unwrap().is_some(),
        "the record goes out nevertheless"
    );
    bare.pod_cidr = Some("10.244.9.0/24".into());
    assert_eq!(
        apply(&mut fold, bare),
        upsert(own_lease("10.244.9.0/24", identity(1)))
    );
}

#[test]
fn the_own_lease_is_not_made_of_annotations() {
    let mut fold = listed();
    let other = annotated(node("me", 9), "backend-data", "{}");
    assert_eq!(apply(&mut fold, other), None);
    assert_eq!(texts(&mut fold), [""; 0]);
    assert_eq!(
        fold.identify(identity(7)),
        upsert(own_lease("10.244.9.0/24", identity(7)))
    );
    assert_eq!(fold.identify(identity(7)), None);
    assert_eq!(delete(&mut fold, "me"), remove("me"));
    assert_eq!(fold.own_changed(), Some(None));
    assert_eq!(fold.identify(identity(8)), None);
}
