//! Which problems become Kubernetes Events, and what they say.
//!
//! Only those between this node and another one: the agents of the two nodes report it, each on its own Node, and each names
//! both. All other agents of the cluster see the same problem and only log it: one duplicate must not become one event for each
//! of thousands of nodes. As every agent lets its own node come first, each of the two refuses the other.

use std::collections::BTreeSet;

use overlay_core::desired::{Problem, Who};

/// A Kubernetes Event on this agent's Node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Notice {
    /// For programs: CamelCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Two nodes have one pod subnet, or parts of one.
pub(super) const DUPLICATE_POD_CIDR: &str = "DuplicatePodCIDR";
/// Two nodes' VTEPs have one MAC address.
pub(super) const DUPLICATE_VTEP_MAC: &str = "DuplicateVtepMAC";
/// Two nodes say that they have one underlay address.
pub(super) const DUPLICATE_PUBLIC_IP: &str = "DuplicatePublicIP";
/// A node's underlay address is an address of a pod.
pub(super) const PUBLIC_IP_IN_POD_CIDR: &str = "PublicIPInPodCIDR";
/// There are more of these than are worth an event each.
pub(super) const MORE_CONFLICTS: &str = "MoreLeaseConflicts";

const SERVED: &str = "Each refuses the other, so their pods cannot reach each other; other nodes serve the one that they knew first.";

/// The events that `problems` are worth on node `own`.
#[must_use]
pub(super) fn notices(own: &str, problems: &[Problem]) -> BTreeSet<Notice> {
    problems
        .iter()
        .filter_map(|problem| notice(own, problem))
        .collect()
}

/// Instead of `number` events.
#[must_use]
pub(super) fn summary(number: usize) -> Notice {
    Notice {
        reason: MORE_CONFLICTS,
        message: format!(
            "{number} more conflicts between this node's lease and other nodes'; the agent's log on this node names all of them."
        ),
    }
}

fn notice(own: &str, problem: &Problem) -> Option<Notice> {
    let concerned = |nodes: &[&Who]| nodes.iter().any(|who| who.node == own);
    match problem {
        Problem::SubnetTaken {
            peer,
            subnet,
            holder,
            held,
        } if concerned(&[peer, holder]) => {
            let (first, second) = in_order(peer, holder);
            let what = if subnet == held {
                format!("Nodes {first} and {second} both have pod subnet {subnet}.")
            } else {
                format!(
                    "Pod subnets of two nodes overlap: {} has {subnet}, {} has {held}.",
                    peer.node, holder.node
                )
            };
            Some(Notice {
                reason: DUPLICATE_POD_CIDR,
                message: format!(
                    "{what} {SERVED} A podCIDR cannot be changed: delete the Node that has it wrongly, and let it register anew."
                ),
            })
        }
        Problem::MacTaken { peer, mac, holder } if concerned(&[peer, holder]) => {
            let (first, second) = in_order(peer, holder);
            Some(Notice {
                reason: DUPLICATE_VTEP_MAC,
                message: format!(
                    "The VTEPs of nodes {first} and {second} both have MAC address {mac}. {SERVED} Probably one machine is a copy \
                     of the other: on one of them delete the VTEP device and the Node's annotation backend-data, and restart \
                     its agent."
                ),
            })
        }
        Problem::PublicIpTaken {
            peer,
            public_ip,
            holder,
        } if concerned(&[peer, holder]) => {
            let (first, second) = in_order(peer, holder);
            Some(Notice {
                reason: DUPLICATE_PUBLIC_IP,
                message: format!(
                    "Nodes {first} and {second} both say that their VTEP is reached at {public_ip}. {SERVED} Delete the Node that \
                     no longer exists, or correct the public-ip annotations, --public-ip or --iface of one."
                ),
            })
        }
        Problem::PublicIpInSubnet {
            peer,
            public_ip,
            owner,
            subnet,
            holder,
        } if concerned(&[peer, owner, holder]) => Some(Notice {
            reason: PUBLIC_IP_IN_POD_CIDR,
            message: format!(
                "The address {public_ip} of node {} lies in the pod subnet {subnet} of node {}: tunnel packets would loop, so \
                 node {} is left out of the overlay.",
                owner.node, holder.node, peer.node
            ),
        }),
        Problem::SubnetTaken { .. }
        | Problem::MacTaken { .. }
        | Problem::PublicIpTaken { .. }
        | Problem::PublicIpInSubnet { .. }
        | Problem::DuplicateNode(_)
        | Problem::OwnPublicIp { .. }
        | Problem::MtuTooLarge { .. }
        | Problem::NotEthernet { .. }
        | Problem::NoFastpath(_)
        | Problem::TooManyPeers { .. }
        | Problem::NotIpv4 { .. }
        | Problem::OutsideNetwork { .. }
        | Problem::UnusableMac { .. }
        | Problem::UnusablePublicIp { .. } => None,
    }
}

/// By name, so that both agents say the same.
fn in_order<'a>(a: &'a Who, b: &'a Who) -> (&'a str, &'a str) {
    if a.node <= b.node {
        (&a.node, &b.node)
    } else {
        (&b.node, &a.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(node: &str) -> Who {
        Who {
            node: node.to_owned(),
            origin: format!("Node {node}"),
        }
    }

    fn subnet_taken(peer: &str, holder: &str) -> Problem {
        Problem::SubnetTaken {
            peer: who(peer),
            subnet: "10.244.1.0/24".parse().unwrap(),
            holder: who(holder),
            held: "10.244.1.0/24".parse().unwrap(),
        }
    }

    /// Seen red without the guards on `concerned`.
    #[test]
    fn only_the_two_nodes_concerned_report_and_say_the_same() {
        let on_holder = notices("a", &[subnet_taken("b", "a")]);
        let on_newcomer = notices("b", &[subnet_taken("a", "b")]);
        assert_eq!(on_holder, on_newcomer);
        let notice = on_holder.first().unwrap();
        assert_eq!(notice.reason, DUPLICATE_POD_CIDR);
        assert!(
            notice
                .message
                .starts_with("Nodes a and b both have pod subnet 10.244.1.0/24. Each refuses"),
            "{}",
            notice.message
        );
        assert!(notices("c", &[subnet_taken("b", "a")]).is_empty());
    }

    #[test]
    fn every_conflict_names_both() {
        let overlap = Problem::SubnetTaken {
            peer: who("b"),
            subnet: "10.244.0.0/16".parse().unwrap(),
            holder: who("a"),
            held: "10.244.1.0/24".parse().unwrap(),
        };
        let mac = Problem::MacTaken {
            peer: who("b"),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            holder: who("a"),
        };
        let address = Problem::PublicIpTaken {
            peer: who("b"),
            public_ip: [192, 168, 0, 1].into(),
            holder: who("a"),
        };
        let inside = Problem::PublicIpInSubnet {
            peer: who("b"),
            public_ip: [10, 244, 1, 1].into(),
            owner: who("b"),
            subnet: "10.244.1.0/24".parse().unwrap(),
            holder: who("a"),
        };
        let found = notices("a", &[overlap, mac, address, inside]);
        let reasons: Vec<_> = found.iter().map(|notice| notice.reason).collect();
        assert_eq!(
            reasons,
            [
                DUPLICATE_POD_CIDR,
                DUPLICATE_PUBLIC_IP,
                DUPLICATE_VTEP_MAC,
                PUBLIC_IP_IN_POD_CIDR
            ]
        );
        for notice in found {
            let words: Vec<_> = notice.message.split([' ', ',', '.', ':']).collect();
            assert!(words.contains(&"a") && words.contains(&"b"), "{}", notice.message);
            // The API server refuses longer ones.
            assert!(notice.message.len() < 1024 - 253 * 2, "{}", notice.message);
        }
    }
}
