//! Node objects, bare and as real ones are.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// How much a Node object carries besides what an overlay reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Weight {
    /// What the test says, and nothing else.
    #[default]
    Empty,
    /// About 2 KB: labels, addresses, capacity and conditions, as a node without images.
    Bare,
    /// About 15 KB: as [`Weight::Bare`], with the 50 images that kubelet reports.
    Real,
}

/// A Node as a test creates it.
#[derive(Clone, Debug)]
#[must_use]
pub struct NodeObject {
    name: String,
    pod_cidr: Option<String>,
    annotations: BTreeMap<String, String>,
    weight: Weight,
}

impl NodeObject {
    /// A Node without podCIDR and annotations.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            pod_cidr: None,
            annotations: BTreeMap::new(),
            weight: Weight::default(),
        }
    }

    /// With `spec.podCIDR` and `spec.podCIDRs`, as the node controller sets them.
    pub fn pod_cidr(mut self, cidr: &str) -> Self {
        self.pod_cidr = Some(cidr.to_owned());
        self
    }

    /// With one annotation, by its whole key.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With the annotations of flannel 0.28's vxlan backend.
    pub fn lease(self, public_ip: &str, vni: u32, mac: &str) -> Self {
        let data = format!("{{\"VNI\":{vni},\"VtepMAC\":\"{mac}\"}}");
        self.annotation("flannel.alpha.coreos.com/backend-data", &data)
            .annotation("flannel.alpha.coreos.com/backend-type", "vxlan")
            .annotation("flannel.alpha.coreos.com/kube-subnet-manager", "true")
            .annotation("flannel.alpha.coreos.com/public-ip", public_ip)
    }

    /// With so much more.
    pub fn weight(mut self, weight: Weight) -> Self {
        self.weight = weight;
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The object as it is sent.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut spec = json!({});
        if let Some(cidr) = &self.pod_cidr {
            spec = json!({ "podCIDR": cidr, "podCIDRs": [cidr] });
        }
        let mut annotations = self.annotations.clone();
        let mut labels = json!({});
        let mut status = json!({});
        if self.weight != Weight::Empty {
            annotations.insert("node.alpha.kubernetes.io/ttl".into(), "0".into());
            annotations.insert(
                "volumes.kubernetes.io/controller-managed-attach-detach".into(),
                "true".into(),
            );
            labels = json!({
                "beta.kubernetes.io/arch": "amd64",
                "beta.kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": self.name,
                "kubernetes.io/os": "linux",
                "topology.kubernetes.io/region": "region-1",
                "topology.kubernetes.io/zone": "zone-a",
            });
            status = status_of(self);
        }
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": self.name, "labels": labels, "annotations": annotations },
            "spec": spec,
            "status": status,
        })
    }
}

fn status_of(node: &NodeObject) -> Value {
    let time = "2026-01-02T03:04:05Z";
    let condition = |kind: &str, reason: &str, message: &str, status: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": time, "lastTransitionTime": time,
        })
    };
    let resources = json!({
        "cpu": "16", "ephemeral-storage": "102350Mi", "hugepages-1Gi": "0", "hugepages-2Mi": "0",
        "memory": "65536000Ki", "pods": "110",
    });
    let images: Vec<Value> = match node.weight {
        Weight::Empty | Weight::Bare => Vec::new(),
        Weight::Real => (0..50).map(image).collect(),
    };
    json!({
        "addresses": [{ "type": "Hostname", "address": node.name }],
        "allocatable": resources,
        "capacity": resources,
        "conditions": [
            condition("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available", "False"),
            condition("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure", "False"),
            condition("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available", "False"),
            condition("Ready", "KubeletReady", "kubelet is posting ready status", "True"),
        ],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": 10250 } },
        "images": images,
        "nodeInfo": {
            "architecture": "amd64", "bootID": "3f2b5a0e-0000-4000-8000-000000000000",
            "containerRuntimeVersion": "containerd://1.7.13", "kernelVersion": "6.1.0-18-amd64",
            "kubeProxyVersion": "v1.29.2", "kubeletVersion": "v1.29.2",
            "machineID": "ec2f0d3a000000000000000000000000", "operatingSystem": "linux",
            "osImage": "Debian GNU/Linux 12 (bookworm)", "systemUUID": "ec2f0d3a-0000-4000-8000-000000000000",
        },
    })
}

/// An image as kubelet reports it: by digest and by tag.
fn image(index: u64) -> Value {
    let repository = format!(
        "registry.example.com/platform/team-{:02}/service-{index:03}",
        index % 7
    );
    let digest = format!("{:064x}", index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    json!({
        "names": [format!("{repository}@sha256:{digest}"), format!("{repository}:v1.{index}.0-build.20260102")],
        "sizeBytes": 41_000_000 + index * 7919,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_real_nodes() {
        let size = |weight| {
            let node = NodeObject::new("node-00001").pod_cidr("10.1.2.0/24");
            node.lease("10.0.0.1", 1, "02:00:00:00:00:01")
                .weight(weight)
                .to_json()
                .to_string()
                .len()
        };
        let (bare, real) = (size(Weight::Bare), size(Weight::Real));
        assert!((1_800..2_800).contains(&bare), "{bare}");
        assert!((13_500..16_500).contains(&real), "{real}");
    }
}
