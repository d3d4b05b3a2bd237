//! The pod subnets of a Node, chosen as flannel chooses them.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::BadValue;
use super::read::NodeView;

const CIDR: &str = "spec.podCIDR";
const CIDRS: &str = "spec.podCIDRs";
const V4: &str = "an IPv4 subnet with room for pods, like 10.244.1.0/24";
const V6: &str = "an IPv6 subnet with room for pods, like fd00:10:244:1::/64";
const AT_MOST_TWO: &str = "one subnet, or one of each family";

/// The field that counts, and its values: `podCIDRs`, and `podCIDR` when that is empty.
fn values<'a>(node: &NodeView<'a>) -> Result<(&'static str, Vec<&'a str>), BadValue> {
    match node.pod_cidrs {
        [] => Ok((
            CIDR,
            node.pod_cidr
                .into_iter()
                .filter(|cidr| !cidr.is_empty())
                .collect(),
        )),
        [_] | [_, _] => Ok((CIDRS, node.pod_cidrs.iter().map(String::as_str).collect())),
        more => Err(BadValue::new(
            CIDRS,
            &more.join(","),
            format!("{} subnets", more.len()),
            AT_MOST_TWO,
        )),
    }
}

/// The node's IPv4 pod subnet, host bits clear; `None` while it has none.
///
/// # Errors
///
/// When what the Node says cannot be a pod subnet.
pub fn pod_subnet_v4(node: &NodeView<'_>) -> Result<Option<Ipv4Net>, BadValue> {
    let (key, values) = values(node)?;
    let Some(text) = values.into_iter().find(|text| !text.contains(':')) else {
        return Ok(None);
    };
    // As flannel: host bits are cleared. /0 would take every address, and /32 leaves none for pods.
    match text.parse::<Ipv4Net>() {
        Ok(subnet) if (1..=31).contains(&subnet.prefix_len()) => Ok(Some(subnet.trunc())),
        Ok(_) | Err(_) => Err(BadValue::new(key, text, "", V4)),
    }
}

/// The same for IPv6.
pub(super) fn pod_subnet_v6(node: &NodeView<'_>) -> Result<Option<Ipv6Net>, BadValue> {
    let (key, values) = values(node)?;
    let Some(text) = values.into_iter().find(|text| text.contains(':')) else {
        return Ok(None);
    };
    match text.parse::<Ipv6Net>() {
        Ok(subnet) if (1..=127).contains(&subnet.prefix_len()) => Ok(Some(subnet.trunc())),
        Ok(_) | Err(_) => Err(BadValue::new(key, text, "", V6)),
    }
}

/// The pod subnet of one family, which the node must have.
pub(super) fn required(node: &NodeView<'_>, v6: bool) -> Result<IpNet, BadValue> {
    let (found, expected) = if v6 {
        (pod_subnet_v6(node)?.map(IpNet::V6), V6)
    } else {
        (pod_subnet_v4(node)?.map(IpNet::V4), V4)
    };
    found.ok_or_else(|| match node.pod_cidrs {
        [] => BadValue::missing(CIDR, expected),
        others => BadValue::new(CIDRS, &others.join(","), "none of this family", expected),
    })
}
