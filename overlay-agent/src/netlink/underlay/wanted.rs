//! What the operator says about the underlay interface, and which of a node's interfaces that is: pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use regex_lite::Regex;

use super::choice::{Candidate, is_usable, preferred};

/// Which interface the overlay uses. Empty: the one with the IPv4 default route.
///
/// In flannel's order: each of `interfaces`, each of `regexes`, `can_reach`; the first that fits is taken.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InterfaceChoice {
    /// `--iface`: names or addresses.
    pub interfaces: Vec<String>,
    /// `--iface-regex`: for an address or, where none fits, a name.
    pub regexes: Vec<InterfaceRegex>,
    /// `--iface-can-reach`: the interface that the kernel's routes take to this address.
    pub can_reach: Option<IpAddr>,
    /// `--public-ip`: names the interface that has it if nothing else names one. Never the source address of packets
    /// otherwise: a device with a source address that is not local cannot send.
    pub public_ip: Option<IpAddr>,
    /// The overlay's own device, which cannot be its own underlay.
    pub except: Option<String>,
}

/// A regular expression, unanchored.
#[derive(Clone, Debug)]
pub struct InterfaceRegex(Regex);

impl FromStr for InterfaceRegex {
    type Err = regex_lite::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Regex::new(text).map(Self)
    }
}

impl PartialEq for InterfaceRegex {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for InterfaceRegex {}

impl fmt::Display for InterfaceRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl From<Option<&str>> for InterfaceChoice {
    /// The interface of this name, or the one with the default route.
    fn from(name: Option<&str>) -> Self {
        Self {
            interfaces: name.map(str::to_owned).into_iter().collect(),
            ..Self::default()
        }
    }
}

impl InterfaceChoice {
    /// A name whose changes may matter before any interface has been chosen.
    #[must_use]
    pub fn first_name(&self) -> Option<&str> {
        let is_name = |text: &&str| text.parse::<IpAddr>().is_err();
        self.interfaces.iter().map(String::as_str).find(is_name)
    }

    /// In order; empty when the default route decides.
    pub(super) fn alternatives(&self) -> Vec<Alternative<'_>> {
        let interfaces = self
            .interfaces
            .iter()
            .map(|text| text.parse().map_or(Alternative::Name(text), Alternative::Address));
        let mut all: Vec<_> = interfaces
            .chain(self.regexes.iter().map(Alternative::Regex))
            .chain(self.can_reach.map(Alternative::Reach))
            .collect();
        if all.is_empty() {
            all.extend(self.public_ip.map(Alternative::PublicIp));
        }
        all
    }
}

/// One way to name an interface.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Alternative<'a> {
    Address(IpAddr),
    Name(&'a str),
    Regex(&'a InterfaceRegex),
    Reach(IpAddr),
    PublicIp(IpAddr),
}

impl fmt::Display for Alternative<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "--iface {address}"),
            Self::Name(name) => write!(f, "--iface {name}"),
            Self::Regex(regex) => write!(f, "--iface-regex {regex}"),
            Self::Reach(address) => write!(f, "--iface-can-reach {address}"),
            Self::PublicIp(address) => write!(f, "--public-ip {address}"),
        }
    }
}

/// An interface of the node, as far as it matters to the choice.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Interface {
    pub(super) ifindex: u32,
    pub(super) name: String,
    /// IPv4 addresses in the kernel's order.
    pub(super) candidates: Vec<Candidate>,
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.candidates.iter().map(|c| c.address.to_string()).collect();
        if addresses.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{} ({})", self.name, addresses.join(", "))
        }
    }
}

/// The interface that has the address.
pub(super) fn with_address(interfaces: &[Interface], address: IpAddr) -> Option<&Interface> {
    let has = |c: &Candidate| IpAddr::V4(c.address) == address && is_usable(c.address);
    interfaces.iter().find(|i| i.candidates.iter().any(has))
}

/// The first interface with an address that the expression fits, and that address, each interface's preferred ones first;
/// otherwise the first one whose name it fits.
pub(super) fn fitting<'a>(
    interfaces: &'a [Interface],
    regex: &InterfaceRegex,
) -> Option<(&'a Interface, Option<IpAddr>)> {
    let by_address = |interface: &'a Interface| {
        preferred(&interface.candidates)
            .into_iter()
            .find(|address| regex.0.is_match(&address.to_string()))
            .map(|address| (interface, Some(IpAddr::V4(address))))
    };
    let by_name = || interfaces.iter().find(|i| regex.0.is_match(&i.name));
    interfaces
        .iter()
        .find_map(by_address)
        .or_else(|| by_name().map(|interface| (interface, None)))
}

/// Whether a place that is in use is one that the alternative could have named.
pub(super) fn admits(alternative: &Alternative<'_>, name: &str, address: IpAddr) -> bool {
    match alternative {
        Alternative::Address(wanted) | Alternative::PublicIp(wanted) => *wanted == address,
        Alternative::Name(wanted) => *wanted == name,
        Alternative::Regex(regex) => regex.0.is_match(&address.to_string()) || regex.0.is_match(name),
        // Only a look at the routes tells.
        Alternative::Reach(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(address: &str) -> Candidate {
        Candidate {
            address: address.parse().unwrap(),
            deprecated: false,
            expires: false,
            secondary: false,
        }
    }

    fn interface(ifindex: u32, name: &str, addresses: &[&str]) -> Interface {
        Interface {
            ifindex,
            name: name.to_owned(),
            candidates: addresses.iter().map(|a| candidate(a)).collect(),
        }
    }

    fn regex(text: &str) -> InterfaceRegex {
        text.parse().unwrap()
    }

    fn interfaces() -> Vec<Interface> {
        vec![
            interface(1, "lo", &["127.0.0.1"]),
            interface(2, "eth0", &["169.254.7.7", "192.168.0.1", "192.168.0.2"]),
            interface(3, "eth1", &["10.0.0.1"]),
            interface(4, "wg10", &[]),
        ]
    }

    #[test]
    fn alternatives_come_in_flannels_order() {
        let choice = InterfaceChoice {
            interfaces: vec!["10.0.0.1".into(), "eth0".into()],
            regexes: vec![regex("^eth")],
            can_reach: Some([8, 8, 8, 8].into()),
            public_ip: Some([1, 2, 3, 4].into()),
            except: None,
        };
        let shown: Vec<_> = choice.alternatives().iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "--iface 10.0.0.1",
                "--iface eth0",
                "--iface-regex ^eth",
                "--iface-can-reach 8.8.8.8"
            ]
        );
        assert_eq!(choice.first_name(), Some("eth0"));
        let public = InterfaceChoice {
            public_ip: choice.public_ip,
            ..InterfaceChoice::default()
        };
        assert_eq!(
            public.alternatives(),
            [Alternative::PublicIp([1, 2, 3, 4].into())]
        );
        assert_eq!(InterfaceChoice::from(None).alternatives(), []);
        assert_eq!(
            InterfaceChoice::from(Some("eth0")).alternatives(),
            [Alternative::Name("eth0")]
        );
    }

    #[test]
    fn an_expression_is_for_addresses_first_then_names_and_fits_anywhere() {
        let found = |text: &str| {
            let all = interfaces();
            fitting(&all, &regex(text)).map(|(i, a)| (i.name.clone(), a.map(|a| a.to_string())))
        };
        let pair = |name: &str, address: Option<&str>| Some((name.to_owned(), address.map(str::to_owned)));
        assert_eq!(found(r"192\.168"), pair("eth0", Some("192.168.0.1")));
        assert_eq!(found(r"168\.0\.2$"), pair("eth0", Some("192.168.0.2")));
        assert_eq!(
            found(r"^169"),
            pair("eth0", Some("169.254.7.7")),
            "link-local last, but usable"
        );
        assert_eq!(
            found("10"),
            pair("eth1", Some("10.0.0.1")),
            "an address before a name"
        );
        assert_eq!(found("wg"), pair("wg10", None));
        assert_eq!(found("eth[01]"), pair("eth0", None));
        assert_eq!(found(r"^127\."), None, "a loopback address is not usable");
        assert_eq!(found("wlan"), None);
        assert!("(".parse::<InterfaceRegex>().is_err());
    }

    #[test]
    fn an_address_is_found_wherever_it_is() {
        let all = interfaces();
        let name = |address: &str| with_address(&all, address.parse().unwrap()).map(|i| i.name.as_str());
        assert_eq!(name("192.168.0.2"), Some("eth0"));
        assert_eq!(name("10.0.0.1"), Some("eth1"));
        assert_eq!(name("127.0.0.1"), None);
        assert_eq!(name("fd00::1"), None);
    }

    #[test]
    fn a_place_in_use_is_admitted_by_what_could_have_named_it() {
        let at = |alternative: Alternative<'_>| admits(&alternative, "eth0", [192, 168, 0, 2].into());
        assert!(at(Alternative::Name("eth0")) && !at(Alternative::Name("eth1")));
        assert!(at(Alternative::Address([192, 168, 0, 2].into())));
        assert!(!at(Alternative::Address([192, 168, 0, 1].into())));
        assert!(at(Alternative::Regex(&regex("h0$"))) && at(Alternative::Regex(&regex(r"\.0\.2"))));
        assert!(!at(Alternative::Regex(&regex("eth1|10"))));
        assert!(!at(Alternative::Reach([192, 168, 0, 2].into())));
    }

    #[test]
    fn interfaces_are_shown_with_their_addresses() {
        let shown: Vec<_> = interfaces().iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "lo (127.0.0.1)",
                "eth0 (169.254.7.7, 192.168.0.1, 192.168.0.2)",
                "eth1 (10.0.0.1)",
                "wg10"
            ]
        );
    }
}
