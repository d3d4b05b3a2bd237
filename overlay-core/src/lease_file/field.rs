//! The fields of a lease, each with what is allowed.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::tree::{Node, Tree};
use super::{LeaseFileErrorKind, Mistake, Place};
use crate::model::MacAddr;

const NODE: &str = "the name of a node, without spaces";
const SUBNET: &str = "an IPv4 subnet in CIDR notation, like 10.244.1.0/24";
const PUBLIC_IP: &str = "the IPv4 address of the node's VTEP in the underlay, like 192.168.0.1";
const VTEP_MAC: &str = "a unicast MAC address, like 02:42:ac:11:00:02";
const NO_IPV6: &str = "IPv6, which this version does not support";

/// Longest name that Kubernetes gives a node (RFC 1123 subdomain).
const MAX_NODE_NAME: usize = 253;

/// Longest part of a value that a message repeats, in characters.
const SHOWN: usize = 60;

/// A mapping whose keys are all known.
pub(super) struct Entry<'t> {
    path: String,
    place: Place,
    members: &'t [(String, Place, Tree)],
}

impl<'t> Entry<'t> {
    pub(super) fn new(path: String, tree: &'t Tree, known: &[&str]) -> Result<Self, Mistake> {
        let known_fields = || known.join(", ");
        let Node::Mapping(members) = &tree.node else {
            return Err(mistake(
                path,
                wrong(tree, &format!("a mapping with {}", known_fields())),
                tree.place,
            ));
        };
        let entry = Self {
            path,
            place: tree.place,
            members,
        };
        match members.iter().find(|(key, ..)| !known.contains(&key.as_str())) {
            None => Ok(entry),
            Some((key, place, _)) => {
                let what = format!("unknown field {}: expected {}", quoted(key), known_fields());
                Err(mistake(entry.path, what, *place))
            }
        }
    }

    pub(super) fn required(&self, key: &str, expected: &str) -> Result<&'t Tree, Mistake> {
        self.get(key).ok_or_else(|| {
            mistake(
                self.path_of(key),
                format!("missing: expected {expected}"),
                self.place,
            )
        })
    }

    /// A text that may be absent; `key:` without a value counts as absent.
    pub(super) fn optional_text(&self, key: &str) -> Result<Option<&'t str>, Mistake> {
        match self.get(key).map(|tree| (tree, &tree.node)) {
            None | Some((_, Node::Null)) => Ok(None),
            Some((_, Node::Text(text))) => Ok(Some(text)),
            Some((tree, Node::Other(_) | Node::Sequence(_) | Node::Mapping(_))) => Err(mistake(
                self.path_of(key),
                wrong(tree, "the name of a backend"),
                tree.place,
            )),
        }
    }

    pub(super) fn node(&self) -> Result<String, Mistake> {
        let (text, place) = self.text("node", NODE)?;
        let bad = |c: char| c.is_whitespace() || c.is_control();
        if text.is_empty() || text.len() > MAX_NODE_NAME || text.contains(bad) {
            return Err(self.bad_value("node", text, NODE, place));
        }
        Ok(text.to_owned())
    }

    pub(super) fn subnet(&self) -> Result<Ipv4Net, Mistake> {
        const KEY: &str = "subnet";
        let (text, place) = self.text(KEY, SUBNET)?;
        match text.parse() {
            Ok(IpNet::V4(subnet)) if subnet.prefix_len() == 0 => {
                Err(self.bad_value(KEY, text, SUBNET, place))
            }
            Ok(IpNet::V4(subnet)) if subnet.trunc() != subnet => {
                let what = format!("{} has host bits set: write {}", quoted(text), subnet.trunc());
                Err(mistake(self.path_of(KEY), what, place))
            }
            Ok(IpNet::V4(subnet)) => Ok(subnet),
            Ok(IpNet::V6(_)) => Err(self.ipv6(KEY, text, SUBNET, place)),
            Err(_) => Err(self.bad_value(KEY, text, SUBNET, place)),
        }
    }

    pub(super) fn public_ip(&self) -> Result<Ipv4Addr, Mistake> {
        const KEY: &str = "publicIP";
        let (text, place) = self.text(KEY, PUBLIC_IP)?;
        match text.parse() {
            Ok(IpAddr::V4(ip)) if crate::model::can_be_vtep(ip.into()) => Ok(ip),
            Ok(IpAddr::V6(_)) => Err(self.ipv6(KEY, text, PUBLIC_IP, place)),
            Ok(IpAddr::V4(_)) | Err(_) => Err(self.bad_value(KEY, text, PUBLIC_IP, place)),
        }
    }

    pub(super) fn vtep_mac(&self) -> Result<MacAddr, Mistake> {
        const KEY: &str = "vtepMAC";
        let (text, place) = self.text(KEY, VTEP_MAC)?;
        match text.parse::<MacAddr>() {
            Ok(mac) if mac.is_unicast() => Ok(mac),
            Ok(_) | Err(_) => Err(self.bad_value(KEY, text, VTEP_MAC, place)),
        }
    }

    fn text(&self, key: &str, expected: &str) -> Result<(&'t str, Place), Mistake> {
        let tree = self.required(key, expected)?;
        match &tree.node {
            Node::Text(text) => Ok((text, tree.place)),
            Node::Other(_) => {
                let what = wrong(
                    tree,
                    &format!("{expected}; write it in quotes if it looks like a number"),
                );
                Err(mistake(self.path_of(key), what, tree.place))
            }
            Node::Null | Node::Sequence(_) | Node::Mapping(_) => {
                Err(mistake(self.path_of(key), wrong(tree, expected), tree.place))
            }
        }
    }

    fn get(&self, key: &str) -> Option<&'t Tree> {
        self.members
            .iter()
            .find(|(name, ..)| name == key)
            .map(|(.., tree)| tree)
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn bad_value(&self, key: &str, text: &str, expected: &str, place: Place) -> Mistake {
        mistake(
            self.path_of(key),
            format!("{} is not allowed: expected {expected}", quoted(text)),
            place,
        )
    }

    fn ipv6(&self, key: &str, text: &str, expected: &str, place: Place) -> Mistake {
        mistake(
            self.path_of(key),
            format!("{} is {NO_IPV6}: expected {expected}", quoted(text)),
            place,
        )
    }
}

pub(super) fn mistake(path: String, what: String, place: Place) -> Mistake {
    (LeaseFileErrorKind::Field { path, what }, Some(place))
}

/// A value of the wrong type.
pub(super) fn wrong(found: &Tree, expected: &str) -> String {
    format!("found {}: expected {expected}", found.kind())
}

/// A text as a message repeats it: in quotes, without control characters, cut off where it is long.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}
