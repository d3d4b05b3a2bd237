//! What is read of a Node: a real one is 15 KB, most of it the list of its images; what matters is 500 bytes.

mod condition;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use kube::core::ClusterResourceScope;
use overlay_core::kube::{NodeView, can_matter};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use self::condition::Conditions;
pub use self::condition::{NETWORK_UNAVAILABLE, NetworkCondition, REASON};

/// The part of a Node that leases are made of. Everything else is skipped while it is read.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct NodeRecord {
    /// `name`, `uid`, `resourceVersion`, `creationTimestamp`, and those annotations that can be flannel's.
    pub metadata: ObjectMeta,
    /// `spec.podCIDR`; empty counts as absent.
    pub pod_cidr: Option<String>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<String>,
    /// The condition `NetworkUnavailable`.
    pub network: NetworkCondition,
}

impl NodeRecord {
    /// Name of the node.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// `metadata.uid`: another one is another node of the same name.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// `metadata.resourceVersion`.
    #[must_use]
    pub fn resource_version(&self) -> &str {
        self.metadata.resource_version.as_deref().unwrap_or_default()
    }

    /// When it was created, in seconds since 1970; 0 where it does not say.
    #[must_use]
    pub fn created(&self) -> i64 {
        let created = self.metadata.creation_timestamp.as_ref();
        created.map_or(0, |Time(created)| created.as_second())
    }

    /// What leases are made of.
    #[must_use]
    pub fn view(&self) -> NodeView<'_> {
        NodeView {
            annotations: self.annotations(),
            pod_cidr: self.pod_cidr.as_deref(),
            pod_cidrs: &self.pod_cidrs,
        }
    }

    /// The annotations that can be flannel's, whatever the prefix is.
    #[must_use]
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.metadata.annotations.as_ref().unwrap_or(&NONE)
    }
}

impl Resource for NodeRecord {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Node".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "nodes".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl<'de> Deserialize<'de> for NodeRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Node {
            metadata,
            spec,
            status,
        } = Node::deserialize(deserializer)?;
        let spec = spec.unwrap_or_default();
        Ok(Self {
            metadata: ObjectMeta {
                name: metadata.name,
                uid: metadata.uid,
                resource_version: metadata.resource_version,
                creation_timestamp: metadata.creation_timestamp,
                annotations: metadata.annotations.map(|Annotations(annotations)| annotations),
                ..ObjectMeta::default()
            },
            pod_cidr: spec.pod_cidr.filter(|cidr| !cidr.is_empty()),
            pod_cidrs: spec.pod_cidrs.unwrap_or_default(),
            network: status.and_then(|status| status.conditions).unwrap_or_default().0,
        })
    }
}

#[derive(Deserialize)]
struct Node {
    metadata: Metadata,
    #[serde(default)]
    spec: Option<Spec>,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    #[serde(default)]
    annotations: Option<Annotations>,
}

#[derive(Deserialize, Default)]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Status {
    conditions: Option<Conditions>,
}

/// Those that can matter.
struct Annotations(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AnnotationsVisitor)
    }
}

struct AnnotationsVisitor;

impl<'de> Visitor<'de> for AnnotationsVisitor {
    type Value = Annotations;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of annotations")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Annotations, A::Error> {
        let mut kept = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if can_matter(&key) {
                kept.insert(key, map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Annotations(kept))
    }
}
