//! Nodes in, halves out.

use super::*;

const PREFIX: &str = "flannel.alpha.coreos.com/";
const DATA_V4: &str = r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}"#;
const DATA_V6: &str = r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:06"}"#;

/// A Node with annotations and podCIDRs.
#[derive(Clone)]
struct Node {
    annotations: BTreeMap<String, String>,
    pod_cidr: Option<String>,
    pod_cidrs: Vec<String>,
}

impl Node {
    fn v4() -> Self {
        let mut node = Self {
            annotations: BTreeMap::new(),
            pod_cidr: Some("10.244.1.0/24".into()),
            pod_cidrs: vec!["10.244.1.0/24".into()],
        };
        node.set("kube-subnet-manager", "true");
        node.set("backend-type", "vxlan");
        node.set("backend-data", DATA_V4);
        node.set("public-ip", "192.168.0.1");
        node
    }

    fn dual() -> Self {
        let mut node = Self::v4();
        node.pod_cidrs.push("fd00:1::/64".into());
        node.set("backend-v6-data", DATA_V6);
        node.set("public-ipv6", "fd00::1");
        node
    }

    fn set(&mut self, key: &str, value: &str) {
        self.annotations.insert(format!("{PREFIX}{key}"), value.into());
    }

    fn with(mut self, key: &str, value: &str) -> Self {
        self.set(key, value);
        self
    }

    fn without(mut self, key: &str) -> Self {
        self.annotations.remove(&format!("{PREFIX}{key}"));
        self
    }

    fn cidrs(mut self, one: Option<&str>, all: &[&str]) -> Self {
        self.pod_cidr = one.map(Into::into);
        self.pod_cidrs = all.iter().map(|cidr| (*cidr).to_owned()).collect();
        self
    }

    fn read(&self) -> Reading {
        let view = NodeView {
            annotations: &self.annotations,
            pod_cidr: self.pod_cidr.as_deref(),
            pod_cidrs: &self.pod_cidrs,
        };
        read(&view, &Keys::new("flannel.alpha.coreos.com").unwrap(), 1)
    }

    fn halves(&self) -> (Half, Half) {
        match self.read() {
            Reading::Part { v4, v6 } => (v4, v6),
            other @ (Reading::NoPart | Reading::OtherBackend(_)) => panic!("{other:?}"),
        }
    }
}

fn good_v4() -> Half {
    Half::Good(FamilyLease {
        subnet: "10.244.1.0/24".parse().unwrap(),
        public_ip: "192.168.0.1".parse().unwrap(),
        vtep_mac: "02:00:00:00:00:01".parse().unwrap(),
    })
}

fn good_v6() -> Half {
    Half::Good(FamilyLease {
        subnet: "fd00:1::/64".parse().unwrap(),
        public_ip: "fd00::1".parse().unwrap(),
        vtep_mac: "02:00:00:00:00:06".parse().unwrap(),
    })
}

fn messages(half: Half) -> Vec<String> {
    match half {
        Half::Bad { values, .. } => values.iter().map(ToString::to_string).collect(),
        other @ (Half::Absent | Half::Good(_)) => panic!("{other:?}"),
    }
}

#[test]
fn a_node_of_flannels_is_a_lease() {
    assert_eq!(Node::v4().halves(), (good_v4(), Half::Absent));
    assert_eq!(Node::dual().halves(), (good_v4(), good_v6()));
    let v6_only = Node::dual()
        .without("public-ip")
        .without("backend-data")
        .cidrs(Some("fd00:1::/64"), &["fd00:1::/64"]);
    assert_eq!(v6_only.halves(), (Half::Absent, good_v6()));
}

#[test]
fn the_gate_and_the_backend_decide_first() {
    for gate in ["false", "True", "1", ""] {
        let node = Node::v4().with("kube-subnet-manager", gate);
        assert_eq!(node.read(), Reading::NoPart, "{gate}");
    }
    assert_eq!(Node::v4().without("kube-subnet-manager").read(), Reading::NoPart);
    let Reading::OtherBackend(bad) = Node::v4().with("backend-type", "host-gw").read() else {
        panic!();
    };
    assert_eq!(
        bad.to_string(),
        "flannel.alpha.coreos.com/backend-type `host-gw` is not allowed: expected vxlan, the backend of this node"
    );
    let missing = Node::v4().without("backend-type").read();
    assert!(
        matches!(missing, Reading::OtherBackend(BadValue { value: None, .. })),
        "{missing:?}"
    );
}

#[test]
fn the_pod_subnet_is_chosen_as_flannel_does() {
    for (one, all) in [
        (Some("10.244.1.0/24"), &[][..]),
        (None, &["10.244.1.0/24"]),
        (Some("10.9.9.0/24"), &["10.244.1.0/24"]),
        (Some("fd00:1::/64"), &["fd00:1::/64", "10.244.1.0/24"]),
        (None, &["10.244.1.7/24"]),
        (None, &["10.244.1.0/24", "10.244.2.0/24"]),
    ] {
        let (v4, _) = Node::v4().cidrs(one, all).halves();
        assert_eq!(v4, good_v4(), "{one:?} {all:?}");
    }
    for (one, all, message) in [
        (
            None,
            &[][..],
            "spec.podCIDR is missing: expected an IPv4 subnet with room for pods, like 10.244.1.0/24",
        ),
        (
            None,
            &["fd00::/64"],
            "spec.podCIDRs `fd00::/64`: none of this family; expected an IPv4 subnet with room for pods, like 10.244.1.0/24",
        ),
        (
            None,
            &["10.0.0.0/24", "fd00::/64", "10.1.0.0/24"],
            "spec.podCIDRs `10.0.0.0/24,fd00::/64,10.1.0.0/24`: 3 subnets; expected one subnet, or one of each family",
        ),
        (
            Some("10.244.1.1/32"),
            &[],
            "spec.podCIDR `10.244.1.1/32` is not allowed: expected an IPv4 subnet with room for pods, like 10.244.1.0/24",
        ),
        (
            None,
            &["0.0.0.0/0"],
            "spec.podCIDRs `0.0.0.0/0` is not allowed: expected an IPv4 subnet with room for pods, like 10.244.1.0/24",
        ),
        (
            None,
            &["10.244.1.0"],
            "spec.podCIDRs `10.244.1.0` is not allowed: expected an IPv4 subnet with room for pods, like 10.244.1.0/24",
        ),
    ] {
        let (v4, _) = Node::v4().cidrs(one, all).halves();
        assert_eq!(messages(v4), [message]);
    }
}

#[test]
fn everything_that_is_wrong_is_named_with_key_and_value() {
    let node = Node::v4()
        .with("public-ip", "10.0.0")
        .with("backend-data", "{}")
        .cidrs(None, &[]);
    let (v4, _) = node.halves();
    let messages = messages(v4);
    assert_eq!(messages.len(), 3);
    assert!(
        messages[1].starts_with("flannel.alpha.coreos.com/public-ip `10.0.0` is not allowed"),
        "{messages:?}"
    );
    assert!(
        messages[2].starts_with("flannel.alpha.coreos.com/backend-data `{}`: VtepMAC is missing"),
        "{messages:?}"
    );
}

#[test]
fn a_broken_half_still_says_its_subnet() {
    let subnet = |node: Node| match node.halves().0 {
        Half::Bad { subnet, .. } => subnet,
        other @ (Half::Absent | Half::Good(_)) => panic!("{other:?}"),
    };
    let node = Node::v4().with("public-ip", "10.0.0");
    assert_eq!(subnet(node.clone()), Some("10.244.1.0/24".parse().unwrap()));
    assert_eq!(subnet(node.cidrs(None, &[])), None);
}

#[test]
fn addresses_that_no_vtep_has_are_refused() {
    for address in [
        "",
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "192.168.0.1/24",
        "192.168.0.01",
        "fd00::1",
    ] {
        let (v4, _) = Node::v4().with("public-ip", address).halves();
        assert_eq!(messages(v4).len(), 1, "{address}");
    }
    for address in ["::", "::1", "ff02::1", "::ffff:192.168.0.1", "192.168.0.1"] {
        let (v4, v6) = Node::dual().with("public-ipv6", address).halves();
        assert_eq!(messages(v6).len(), 1, "{address}");
        assert_eq!(v4, good_v4());
    }
}

/// flannel drops a dual-stack node as a whole when one of its families is broken.
#[test]
fn one_broken_family_does_not_take_the_other_away() {
    let broken_v6 = Node::dual().with("backend-v6-data", "{}");
    let (v4, v6) = broken_v6.halves();
    assert_eq!((v4, messages(v6).len()), (good_v4(), 1));
    let broken_v4 = Node::dual().with("backend-data", "{}");
    let (v4, v6) = broken_v4.halves();
    assert_eq!((messages(v4).len(), v6), (1, good_v6()));
    let no_v6_subnet = Node::dual().cidrs(None, &["10.244.1.0/24"]);
    let (v4, v6) = no_v6_subnet.halves();
    assert_eq!((v4, messages(v6).len()), (good_v4(), 1));
    let stale_null = Node::v4().with("backend-v6-data", "null").with("public-ipv6", "");
    assert_eq!(stale_null.halves(), (good_v4(), Half::Absent));
}

#[test]
fn a_peer_with_another_vni_is_not_used() {
    let (v4, _) = Node::v4()
        .with("backend-data", r#"{"VNI":7,"VtepMAC":"02:00:00:00:00:01"}"#)
        .halves();
    let [message] = &messages(v4)[..] else { panic!() };
    assert!(
        message.contains("VNI 7, and this node's overlay has VNI 1"),
        "{message}"
    );
    let old = Node::v4().with("backend-data", r#"{"VtepMAC":"02:00:00:00:00:01"}"#);
    assert_eq!(
        old.halves().0,
        good_v4(),
        "flannel before 0.16 does not say its VNI"
    );
}

#[test]
fn another_prefix_is_another_overlay() {
    let node = Node::v4();
    let view = NodeView {
        annotations: &node.annotations,
        pod_cidr: None,
        pod_cidrs: &node.pod_cidrs,
    };
    let keys = Keys::new("flannel.alpha.coreos.com/blue").unwrap();
    assert_eq!(read(&view, &keys, 1), Reading::NoPart);
}
