//! A Node in protocol buffers (k8s.io/api/core/v1/generated.proto), read as far as a [`NodeRecord`] goes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use overlay_core::kube::can_matter;

use super::Malformed;
use super::fields::Fields;
use crate::kube::record::{NETWORK_UNAVAILABLE, NetworkCondition, NodeRecord};

/// Reads a Node, out of its envelope.
pub(super) fn node(message: &[u8]) -> Result<NodeRecord, Malformed> {
    let mut record = NodeRecord::default();
    for field in Fields::new(message) {
        let (number, value) = field?;
        match number {
            1 => record.metadata = metadata(value.bytes()?)?,
            2 => spec(value.bytes()?, &mut record)?,
            3 => record.network = status(value.bytes()?)?,
            _ => {}
        }
    }
    Ok(record)
}

/// `ObjectMeta`.
fn metadata(message: &[u8]) -> Result<ObjectMeta, Malformed> {
    let mut metadata = ObjectMeta::default();
    let mut annotations = BTreeMap::new();
    for field in Fields::new(message) {
        let (number, value) = field?;
        match number {
            1 => metadata.name = Some(value.text()?.to_owned()),
            5 => metadata.uid = Some(value.text()?.to_owned()),
            6 => metadata.resource_version = Some(value.text()?.to_owned()),
            8 => metadata.creation_timestamp = time(value.bytes()?)?,
            12 => {
                if let (key, Some(text)) = entry(value.bytes()?)? {
                    annotations.insert(key.to_owned(), text.to_owned());
                }
            }
            _ => {}
        }
    }
    metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    Ok(metadata)
}

/// An annotation; without its text when it cannot matter.
fn entry(message: &[u8]) -> Result<(&str, Option<&str>), Malformed> {
    let (mut key, mut text) = ("", "");
    for field in Fields::new(message) {
        let (number, value) = field?;
        match number {
            1 => key = value.text()?,
            2 if can_matter(key) => text = value.text()?,
            _ => {}
        }
    }
    Ok((key, can_matter(key).then_some(text)))
}

/// `metav1.Time`: seconds since 1970, UTC.
fn time(message: &[u8]) -> Result<Option<Time>, Malformed> {
    let mut seconds = 0_u64;
    for field in Fields::new(message) {
        if let (1, value) = field? {
            seconds = value.number()?;
        }
    }
    Ok(Timestamp::from_second(seconds.cast_signed()).ok().map(Time))
}

/// `NodeSpec`.
fn spec(message: &[u8], record: &mut NodeRecord) -> Result<(), Malformed> {
    for field in Fields::new(message) {
        let (number, value) = field?;
        match number {
            1 => record.pod_cidr = Some(value.text()?.to_owned()).filter(|cidr| !cidr.is_empty()),
            7 => record.pod_cidrs.push(value.text()?.to_owned()),
            _ => {}
        }
    }
    Ok(())
}

/// `NodeStatus`: the one condition that is of use.
fn status(message: &[u8]) -> Result<NetworkCondition, Malformed> {
    let mut network = NetworkCondition::Absent;
    for field in Fields::new(message) {
        let (4, value) = field? else { continue };
        let (mut kind, mut status, mut reason) = ("", "", None);
        for field in Fields::new(value.bytes()?) {
            let (number, value) = field?;
            match number {
                1 => kind = value.text()?,
                2 => status = value.text()?,
                5 => reason = Some(value.text()?).filter(|reason| !reason.is_empty()),
                _ => {}
            }
        }
        if kind == NETWORK_UNAVAILABLE {
            network = NetworkCondition::new(status, reason);
        }
    }
    Ok(network)
}

#[cfg(test)]
pub(super) mod example {
    //! A Node in both encodings.

    use super::super::fields::encode::{bytes, number, text};

    pub(in super::super) fn protobuf(name: &str) -> Vec<u8> {
        let annotation = |key: &str, value: &str| bytes(12, &[text(1, key), text(2, value)].concat());
        let metadata = [
            text(1, name),
            text(2, ""),
            text(5, "u-1"),
            text(6, "77"),
            bytes(8, &[number(1, 1_767_225_600), number(2, 0)].concat()),
            bytes(11, &[text(1, "label"), text(2, "x")].concat()),
            annotation("flannel.alpha.coreos.com/public-ip", "192.168.0.1"),
            annotation("node.alpha.kubernetes.io/ttl", "0"),
        ]
        .concat();
        let spec = [text(1, "10.244.1.0/24"), number(4, 0), text(7, "10.244.1.0/24")].concat();
        let condition = [
            text(1, "NetworkUnavailable"),
            text(2, "False"),
            bytes(3, &[]),
            text(5, "FlannelIsUp"),
        ]
        .concat();
        let image = bytes(8, &text(1, &"i".repeat(200)));
        let status = [bytes(4, &condition), image].concat();
        [bytes(1, &metadata), bytes(2, &spec), bytes(3, &status)].concat()
    }

    pub(in super::super) fn json(name: &str) -> String {
        format!(
            r#"{{"metadata":{{"name":"{name}","uid":"u-1","resourceVersion":"77","creationTimestamp":"2026-01-01T00:00:00Z","labels":{{"label":"x"}},"annotations":{{"flannel.alpha.coreos.com/public-ip":"192.168.0.1","node.alpha.kubernetes.io/ttl":"0"}}}},"spec":{{"podCIDR":"10.244.1.0/24","podCIDRs":["10.244.1.0/24"]}},"status":{{"conditions":[{{"type":"NetworkUnavailable","status":"False","reason":"FlannelIsUp"}}],"images":[{{"names":["a]}}b","\"{{"]}}]}}}}"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_say_the_same() {
        let from_protobuf = node(&example::protobuf("worker-1")).unwrap();
        let from_json: NodeRecord = serde_json::from_str(&example::json("worker-1")).unwrap();
        assert_eq!(from_protobuf, from_json);
        assert_eq!(from_protobuf.name(), "worker-1");
        assert_eq!(from_protobuf.created(), 1_767_225_600);
        assert_eq!(from_protobuf.annotations().len(), 1, "others are not kept");
        assert_eq!(from_protobuf.network, NetworkCondition::FlannelIsUp);
    }
}
