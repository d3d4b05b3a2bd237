//! What this node writes into its own annotations.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::read::usable_address;
use super::{Annotation, BACKEND, BackendData, BadValue, Keys};
use crate::model::MacAddr;

/// The own lease, as far as annotations say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnLease {
    /// VXLAN network identifier of the overlay.
    pub vni: u32,
    /// The IPv4 overlay.
    pub v4: Option<OwnFamily>,
    /// The IPv6 overlay.
    pub v6: Option<OwnFamily>,
}

/// One address family of the own lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnFamily {
    /// Underlay address of the VTEP.
    pub public_ip: IpAddr,
    /// MAC address of the VTEP device.
    pub vtep_mac: MacAddr,
}

/// What the annotations should say, compared with what they say.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Published {
    /// Annotations that differ, by key. Nothing is to be written when there are none.
    pub differences: Vec<Difference>,
    /// What people wrote and cannot be honoured; the node's own address is published instead.
    pub problems: Vec<BadValue>,
}

/// One annotation that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Its key.
    pub key: String,
    /// What it says now.
    pub was: Option<String>,
    /// What it should say.
    pub now: String,
}

impl Published {
    /// The strategic merge patch of the Node that makes the difference; `None` when there is none.
    #[must_use]
    pub fn patch(&self) -> Option<Value> {
        if self.differences.is_empty() {
            return None;
        }
        let annotations: BTreeMap<_, _> = self
            .differences
            .iter()
            .map(|difference| (difference.key.as_str(), difference.now.as_str()))
            .collect();
        Some(json!({ "metadata": { "annotations": annotations } }))
    }
}

/// Compares `annotations` with what flannel would write for `own`.
///
/// `public-ip-overwrite` is published as the node's address, as flannel does, when it is one: peers could not use
/// anything else. Nothing is ever removed.
#[must_use]
pub fn publish(annotations: &BTreeMap<String, String>, keys: &Keys, own: &OwnLease) -> Published {
    let mut published = Published::default();
    let mut wanted = BTreeMap::new();
    wanted.insert(keys.key(Annotation::KubeSubnetManager), "true".to_owned());
    wanted.insert(keys.key(Annotation::BackendType), BACKEND.to_owned());
    let families = [
        (
            own.v4,
            false,
            [
                Annotation::BackendData,
                Annotation::PublicIp,
                Annotation::PublicIpOverwrite,
            ],
        ),
        (
            own.v6,
            true,
            [
                Annotation::BackendV6Data,
                Annotation::PublicIpv6,
                Annotation::PublicIpv6Overwrite,
            ],
        ),
    ];
    for (family, v6, [data, address, overwrite]) in families {
        let Some(family) = family else { continue };
        let backend_data = BackendData {
            vni: Some(own.vni),
            vtep_mac: family.vtep_mac,
        };
        wanted.insert(keys.key(data), backend_data.to_string());
        let overwrite = keys.key(overwrite);
        let public_ip = match annotations.get(&overwrite).filter(|text| !text.is_empty()) {
            None => family.public_ip.to_string(),
            Some(text) if usable_address(text, v6).is_some() => text.clone(),
            Some(text) => {
                let expected = if v6 { IPV6 } else { IPV4 };
                published
                    .problems
                    .push(BadValue::new(overwrite, text, "", expected));
                family.public_ip.to_string()
            }
        };
        wanted.insert(keys.key(address), public_ip);
    }
    published.differences = wanted
        .into_iter()
        .filter(|(key, now)| annotations.get(key) != Some(now))
        .map(|(key, now)| Difference {
            was: annotations.get(&key).cloned(),
            key,
            now,
        })
        .collect();
    published
}

const IPV4: &str = "the IPv4 address under which other nodes reach this one, like 192.168.0.1";
const IPV6: &str = "the IPv6 address under which other nodes reach this one, like fd00::1";

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> OwnLease {
        OwnLease {
            vni: 1,
            v4: Some(OwnFamily {
                public_ip: "192.168.0.1".parse().unwrap(),
                vtep_mac: "12:c6:65:89:b4:e3".parse().unwrap(),
            }),
            v6: None,
        }
    }

    fn keys() -> Keys {
        Keys::new("flannel.alpha.coreos.com").unwrap()
    }

    fn apply(annotations: &mut BTreeMap<String, String>, published: &Published) {
        for difference in &published.differences {
            annotations.insert(difference.key.clone(), difference.now.clone());
        }
    }

    #[test]
    fn a_new_node_gets_all_of_flannels_annotations_and_then_nothing_more() {
        let mut annotations = BTreeMap::from([("other".to_owned(), "stays".to_owned())]);
        let published = publish(&annotations, &keys(), &own());
        let expected = r#"{"metadata":{"annotations":{"flannel.alpha.coreos.com/backend-data":"{\"VNI\":1,\"VtepMAC\":\"12:c6:65:89:b4:e3\"}","flannel.alpha.coreos.com/backend-type":"vxlan","flannel.alpha.coreos.com/kube-subnet-manager":"true","flannel.alpha.coreos.com/public-ip":"192.168.0.1"}}}"#;
        assert_eq!(published.patch().unwrap().to_string(), expected);
        apply(&mut annotations, &published);
        assert_eq!(publish(&annotations, &keys(), &own()).patch(), None);
    }

    #[test]
    fn only_what_differs_is_written() {
        let mut annotations = BTreeMap::new();
        apply(&mut annotations, &publish(&BTreeMap::new(), &keys(), &own()));
        let key = keys().key(Annotation::PublicIp);
        annotations.insert(key.clone(), "192.168.0.9".to_owned());
        let published = publish(&annotations, &keys(), &own());
        let difference = Difference {
            key,
            was: Some("192.168.0.9".to_owned()),
            now: "192.168.0.1".to_owned(),
        };
        assert_eq!(published.differences, [difference]);
    }

    #[test]
    fn an_overwrite_is_published_if_peers_can_use_it() {
        let overwrite = keys().key(Annotation::PublicIpOverwrite);
        for (text, expected, problems) in [
            ("203.0.113.7", "203.0.113.7", 0),
            ("", "192.168.0.1", 0),
            ("nonsense", "192.168.0.1", 1),
            ("127.0.0.1", "192.168.0.1", 1),
            ("fd00::1", "192.168.0.1", 1),
        ] {
            let mut annotations = BTreeMap::from([(overwrite.clone(), text.to_owned())]);
            let published = publish(&annotations, &keys(), &own());
            assert_eq!(published.problems.len(), problems, "{text}");
            apply(&mut annotations, &published);
            assert_eq!(annotations[&keys().key(Annotation::PublicIp)], expected, "{text}");
            assert_eq!(publish(&annotations, &keys(), &own()).patch(), None, "{text}");
        }
    }

    #[test]
    fn both_families_are_written_when_the_node_has_both() {
        let lease = OwnLease {
            v6: Some(OwnFamily {
                public_ip: "fd00::1".parse().unwrap(),
                vtep_mac: "12:c6:65:89:b4:e4".parse().unwrap(),
            }),
            ..own()
        };
        let key = keys().key(Annotation::PublicIpv6Overwrite);
        let annotations = BTreeMap::from([(key, "2001:db8::7".to_owned())]);
        let published = publish(&annotations, &keys(), &lease);
        let now = |annotation| {
            let key = keys().key(annotation);
            let found = published.differences.iter().find(|found| found.key == key);
            found.map(|difference| difference.now.as_str())
        };
        assert_eq!(now(Annotation::PublicIpv6), Some("2001:db8::7"));
        let data = r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e4"}"#;
        assert_eq!(now(Annotation::BackendV6Data), Some(data));
        assert_eq!(now(Annotation::PublicIp), Some("192.168.0.1"));
    }
}
