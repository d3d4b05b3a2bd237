//! A Node's lease.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::pod_cidr::required;
use super::{Annotation, BACKEND, BackendData, BackendDataError, BadValue, Keys};
use crate::model::{FamilyLease, can_be_vtep};

/// What matters of a Node.
#[derive(Clone, Copy, Debug)]
pub struct NodeView<'a> {
    /// Its annotations; others than flannel's may be among them.
    pub annotations: &'a BTreeMap<String, String>,
    /// `spec.podCIDR`.
    pub pod_cidr: Option<&'a str>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: &'a [String],
}

/// What a Node says about its lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reading {
    /// It does not take part: `kube-subnet-manager` is not `true`.
    NoPart,
    /// It takes part with a backend that this agent does not serve.
    OtherBackend(BadValue),
    /// It takes part. Each half stands for itself: what is wrong with one never takes the other away.
    Part {
        /// The IPv4 overlay.
        v4: Half,
        /// The IPv6 overlay.
        v6: Half,
    },
}

/// One address family of a Node's lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Half {
    /// The node does not have this family.
    Absent,
    /// As it should be.
    Good(FamilyLease),
    /// Meant to be there, and not usable.
    Bad {
        /// Everything that is wrong.
        values: Vec<BadValue>,
        /// The pod subnet, when that is not among it.
        subnet: Option<IpNet>,
    },
}

const TYPE: &str = "vxlan, the backend of this node";
const DATA: &str = "the VNI of this node's overlay and the MAC address of the VTEP, \
                    like {\"VNI\":1,\"VtepMAC\":\"12:c6:65:89:b4:e3\"}";
const IPV4: &str = "the IPv4 address of the node's VTEP in the underlay, like 192.168.0.1";
const IPV6: &str = "the IPv6 address of the node's VTEP in the underlay, like fd00::1";

/// Reads a Node as flannel does. `vni` is that of this node's overlay: flannel never compares it, and the packets to a
/// peer with another one are lost.
#[must_use]
pub fn read(node: &NodeView<'_>, keys: &Keys, vni: u32) -> Reading {
    let get = |annotation| node.annotations.get(&keys.key(annotation)).map(String::as_str);
    if get(Annotation::KubeSubnetManager) != Some("true") {
        return Reading::NoPart;
    }
    match get(Annotation::BackendType) {
        Some(BACKEND) => {}
        found => {
            let key = keys.key(Annotation::BackendType);
            return Reading::OtherBackend(match found {
                Some(backend) => BadValue::new(key, backend, "", TYPE),
                None => BadValue::missing(key, TYPE),
            });
        }
    }
    let family = |v6| Family { node, keys, vni, v6 };
    let (v4, v6) = (family(false), family(true));
    Reading::Part {
        // A node without any sign of either family is a broken one of the overlay's.
        v4: if v4.is_meant() || !v6.is_meant() {
            v4.half()
        } else {
            Half::Absent
        },
        v6: if v6.is_meant() { v6.half() } else { Half::Absent },
    }
}

/// One family of a Node.
struct Family<'a> {
    node: &'a NodeView<'a>,
    keys: &'a Keys,
    vni: u32,
    v6: bool,
}

impl<'a> Family<'a> {
    fn data(&self) -> (String, Option<&'a str>) {
        self.get(if self.v6 {
            Annotation::BackendV6Data
        } else {
            Annotation::BackendData
        })
    }

    fn address(&self) -> (String, Option<&'a str>) {
        self.get(if self.v6 {
            Annotation::PublicIpv6
        } else {
            Annotation::PublicIp
        })
    }

    /// The key and the value; flannel wrote `null` for "none" once.
    fn get(&self, annotation: Annotation) -> (String, Option<&'a str>) {
        let key = self.keys.key(annotation);
        let value = self.node.annotations.get(&key).map(String::as_str);
        (key, value.filter(|value| !matches!(*value, "" | "null")))
    }

    fn is_meant(&self) -> bool {
        self.data().1.is_some() || self.address().1.is_some()
    }

    fn half(&self) -> Half {
        match (required(self.node, self.v6), self.public_ip(), self.vtep_mac()) {
            (Ok(subnet), Ok(public_ip), Ok(vtep_mac)) => Half::Good(FamilyLease {
                subnet,
                public_ip,
                vtep_mac,
            }),
            (subnet, public_ip, vtep_mac) => Half::Bad {
                subnet: subnet.as_ref().ok().copied(),
                values: [subnet.err(), public_ip.err(), vtep_mac.err()]
                    .into_iter()
                    .flatten()
                    .collect(),
            },
        }
    }

    fn public_ip(&self) -> Result<IpAddr, BadValue> {
        let expected = if self.v6 { IPV6 } else { IPV4 };
        let (key, value) = self.address();
        let Some(text) = value else {
            return Err(BadValue::missing(key, expected));
        };
        usable_address(text, self.v6).ok_or_else(|| BadValue::new(key, text, "", expected))
    }

    fn vtep_mac(&self) -> Result<crate::model::MacAddr, BadValue> {
        let (key, value) = self.data();
        let Some(text) = value else {
            return Err(BadValue::missing(key, DATA));
        };
        let data: BackendData = text
            .parse()
            .map_err(|error: BackendDataError| BadValue::new(&key, text, error.to_string(), DATA))?;
        match data.vni {
            Some(vni) if vni != self.vni => {
                let wrong = format!(
                    "VNI {vni}, and this node's overlay has VNI {}: neither could reach the other",
                    self.vni
                );
                Err(BadValue::new(key, text, wrong, DATA))
            }
            Some(_) | None => Ok(data.vtep_mac),
        }
    }
}

/// An address of the family that one VTEP can have.
pub(super) fn usable_address(text: &str, v6: bool) -> Option<IpAddr> {
    if v6 {
        let address: Ipv6Addr = text.parse().ok()?;
        let usable = !address.is_unspecified()
            && !address.is_loopback()
            && !address.is_multicast()
            && address.to_ipv4_mapped().is_none();
        usable.then_some(IpAddr::V6(address))
    } else {
        let address: Ipv4Addr = text.parse().ok()?;
        can_be_vtep(address.into()).then_some(IpAddr::V4(address))
    }
}

#[cfg(test)]
mod tests;
