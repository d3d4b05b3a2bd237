//! This node's lease: the annotations that peers read, on flannel's nodes too.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_core::kube::{Annotation, Keys, OwnFamily, OwnLease, Published, pod_subnet_v4, publish};
use serde_json::Value;

use super::identity::Identity;
use super::record::NodeRecord;
use super::upkeep::{Part, Remark, Write};
use crate::control::state::State;

/// The annotations of the own Node. Nothing is ever removed, and those of another address family are left alone.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The keys of the annotations.
    pub keys: Keys,
    /// VNI of this node's overlay.
    pub vni: u32,
}

/// What the annotations are made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseWanted {
    own: OwnLease,
    /// Another uid is another Node, which never had them.
    uid: String,
    /// `public-ip-overwrite`.
    overwrite: Option<String>,
}

impl Lease {
    fn published(&self, node: &NodeRecord, own: &OwnLease) -> Published {
        publish(node.annotations(), &self.keys, own)
    }
}

impl Part for Lease {
    type Wanted = LeaseWanted;

    const NAME: &'static str = "the lease annotations";

    /// Only a device that is up, with the MAC address and the pod subnet that peers will send to, is published: flannel
    /// publishes first, and peers then send to a node that cannot receive.
    fn wanted(&self, node: &NodeRecord, identity: &Identity, state: &State) -> Result<LeaseWanted, String> {
        let Some(device) = &state.device else {
            return Err("the overlay device is not up".to_owned());
        };
        if device.mac != identity.vtep_mac {
            return Err(format!(
                "{} has MAC address {}, and {} is to be published",
                device.name, device.mac, identity.vtep_mac
            ));
        }
        match pod_subnet_v4(&node.view()) {
            Ok(Some(subnet)) if IpNet::V4(subnet) == device.subnet.trunc() => {}
            Ok(Some(subnet)) => {
                return Err(format!(
                    "{} serves {}, and the Node's podCIDR is {subnet}",
                    device.name, device.subnet
                ));
            }
            Ok(None) => return Err(format!("node \"{}\" pod cidr not assigned", node.name())),
            Err(bad) => return Err(bad.to_string()),
        }
        let key = self.keys.key(Annotation::PublicIpOverwrite);
        Ok(LeaseWanted {
            own: OwnLease {
                vni: self.vni,
                v4: Some(OwnFamily {
                    public_ip: identity.public_ip,
                    vtep_mac: identity.vtep_mac,
                }),
                v6: None,
            },
            uid: node.uid().to_owned(),
            overwrite: node.annotations().get(&key).cloned(),
        })
    }

    fn write(&self, node: &NodeRecord, wanted: &LeaseWanted) -> Option<Write> {
        let published = self.published(node, &wanted.own);
        let body: Value = published.patch()?;
        let words: Vec<_> = published
            .differences
            .iter()
            .map(|difference| match &difference.was {
                Some(was) => format!("{} {} (was {was})", difference.key, difference.now),
                None => format!("{} {}", difference.key, difference.now),
            })
            .collect();
        Some(Write {
            body: body.to_string(),
            words: format!("lease published: {}", words.join(", ")),
        })
    }

    fn remarks(&self, node: &NodeRecord, wanted: &LeaseWanted) -> Vec<Remark> {
        let problems = self.published(node, &wanted.own).problems;
        let key = self.keys.key(Annotation::PublicIpOverwrite);
        let own = wanted.own.v4.map(|family| family.public_ip);
        let overridden = wanted
            .overwrite
            .as_ref()
            .filter(|text| problems.is_empty() && !text.is_empty() && text.parse::<IpAddr>().ok() != own);
        let overridden = overridden.map(|text| Remark {
            level: log::Level::Info,
            text: format!("Overriding public ip with '{text}' from node annotation '{key}'"),
        });
        let problems = problems.iter().map(|bad| Remark {
            level: log::Level::Warn,
            text: format!(
                "Node {}: {bad}; the address of this node's interface is published instead",
                node.name()
            ),
        });
        overridden.into_iter().chain(problems).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use kube::api::ObjectMeta;
    use overlay_core::kube::DEFAULT_PREFIX;
    use overlay_core::model::MacAddr;

    use super::*;
    use crate::control::state::DeviceState;

    const MAC: MacAddr = MacAddr::new([0x12, 0xc6, 0x65, 0x89, 0xb4, 0xe3]);

    pub(in crate::kube) fn lease() -> Lease {
        Lease {
            keys: Keys::new(DEFAULT_PREFIX).unwrap(),
            vni: 1,
        }
    }

    pub(in crate::kube) fn identity() -> Identity {
        Identity {
            public_ip: [192, 168, 0, 1].into(),
            vtep_mac: MAC,
        }
    }

    pub(in crate::kube) fn state() -> State {
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

    pub(in crate::kube) fn node(annotations: &[(&str, &str)]) -> NodeRecord {
        let annotations: BTreeMap<_, _> = annotations
            .iter()
            .map(|(key, value)| (format!("{DEFAULT_PREFIX}/{key}"), (*value).to_owned()))
            .collect();
        NodeRecord {
            metadata: ObjectMeta {
                name: Some("worker-1".to_owned()),
                uid: Some("uid".to_owned()),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            pod_cidr: Some("10.244.1.0/24".to_owned()),
            ..NodeRecord::default()
        }
    }

    pub(in crate::kube) const COMPLETE: [(&str, &str); 4] = [
        ("kube-subnet-manager", "true"),
        ("backend-type", "vxlan"),
        ("backend-data", r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#),
        ("public-ip", "192.168.0.1"),
    ];

    fn write(node: &NodeRecord) -> Option<Write> {
        let wanted = lease().wanted(node, &identity(), &state()).unwrap();
        lease().write(node, &wanted)
    }

    #[test]
    fn a_node_without_annotations_gets_all_of_them_and_then_nothing_is_written() {
        let body = write(&node(&[])).unwrap().body;
        for (key, value) in COMPLETE {
            let text = serde_json::to_string(value).unwrap();
            assert!(
                body.contains(&format!("\"{DEFAULT_PREFIX}/{key}\":{text}")),
                "{body}"
            );
        }
        assert!(write(&node(&COMPLETE)).is_none());
    }

    #[test]
    fn annotations_of_a_dual_stack_flannel_stay() {
        let mut annotations = COMPLETE.to_vec();
        annotations.push(("backend-v6-data", r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e4"}"#));
        annotations.push(("public-ipv6", "fd00::1"));
        assert!(write(&node(&annotations)).is_none());
    }

    #[test]
    fn only_what_differs_is_written_and_said() {
        let mut annotations = COMPLETE;
        annotations[3].1 = "192.168.0.9";
        let write = write(&node(&annotations)).unwrap();
        assert_eq!(
            write.body,
            format!(r#"{{"metadata":{{"annotations":{{"{DEFAULT_PREFIX}/public-ip":"192.168.0.1"}}}}}}"#)
        );
        assert_eq!(
            write.words,
            format!("lease published: {DEFAULT_PREFIX}/public-ip 192.168.0.1 (was 192.168.0.9)")
        );
    }

    /// Seen red without the checks of device, MAC address and subnet.
    #[test]
    fn nothing_is_published_before_the_node_can_receive() {
        let wanted = |node: &NodeRecord, state: &State| lease().wanted(node, &identity(), state);
        let no_device = wanted(&node(&[]), &State::default()).unwrap_err();
        assert!(no_device.contains("not up"), "{no_device}");
        let mut other_mac = state();
        other_mac.device.as_mut().unwrap().mac = MacAddr::new([2, 0, 0, 0, 0, 9]);
        assert!(
            wanted(&node(&[]), &other_mac)
                .unwrap_err()
                .contains("MAC address")
        );
        let mut moved = node(&[]);
        moved.pod_cidr = Some("10.244.9.0/24".to_owned());
        assert!(wanted(&moved, &state()).unwrap_err().contains("10.244.9.0/24"));
        moved.pod_cidr = None;
        let text = wanted(&moved, &state()).unwrap_err();
        assert_eq!(text, "node \"worker-1\" pod cidr not assigned");
    }

    #[test]
    fn an_overwrite_is_published_and_said() {
        let mut annotations = COMPLETE.to_vec();
        annotations.push(("public-ip-overwrite", "203.0.113.7"));
        let node = node(&annotations);
        let body = write(&node).unwrap().body;
        assert!(body.contains(r#"/public-ip":"203.0.113.7""#), "{body}");
        let wanted = lease().wanted(&node, &identity(), &state()).unwrap();
        let remarks = lease().remarks(&node, &wanted);
        assert_eq!(remarks.len(), 1);
        assert!(
            remarks[0]
                .text
                .starts_with("Overriding public ip with '203.0.113.7'"),
            "{remarks:?}"
        );
    }

    #[test]
    fn an_overwrite_that_is_no_address_is_said_and_not_published() {
        let mut annotations = COMPLETE.to_vec();
        annotations.push(("public-ip-overwrite", "nonsense"));
        let node = node(&annotations);
        assert!(write(&node).is_none());
        let wanted = lease().wanted(&node, &identity(), &state()).unwrap();
        let remarks = lease().remarks(&node, &wanted);
        assert_eq!((remarks.len(), remarks[0].level), (1, log::Level::Warn));
        assert!(remarks[0].text.contains("nonsense"), "{remarks:?}");
    }

    #[test]
    fn a_node_that_was_made_anew_is_another_wish() {
        let first = lease().wanted(&node(&[]), &identity(), &state()).unwrap();
        let mut again = node(&[]);
        again.metadata.uid = Some("another".to_owned());
        assert_ne!(first, lease().wanted(&again, &identity(), &state()).unwrap());
    }
}
