//! The keys of the annotations, under the prefix that `--kube-annotation-prefix` gives.

use thiserror::Error;

/// The prefix when none is given.
pub const DEFAULT_PREFIX: &str = "flannel.alpha.coreos.com";

/// An annotation that flannel reads or writes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Annotation {
    /// Whether the node takes part: `true`.
    KubeSubnetManager,
    /// The backend: `vxlan`.
    BackendType,
    /// VNI and MAC address of the VTEP device of the IPv4 overlay.
    BackendData,
    /// VNI and MAC address of the VTEP device of the IPv6 overlay.
    BackendV6Data,
    /// IPv4 address of the VTEP.
    PublicIp,
    /// IPv6 address of the VTEP.
    PublicIpv6,
    /// Set by people: what the node publishes as [`Annotation::PublicIp`].
    PublicIpOverwrite,
    /// Set by people: what the node publishes as [`Annotation::PublicIpv6`].
    PublicIpv6Overwrite,
    /// Set by people: `--public-ip` of the node.
    NodePublicIp,
    /// Set by people: `--public-ipv6` of the node.
    NodePublicIpv6,
}

impl Annotation {
    /// Every one.
    pub const ALL: [Self; 10] = [
        Self::KubeSubnetManager,
        Self::BackendType,
        Self::BackendData,
        Self::BackendV6Data,
        Self::PublicIp,
        Self::PublicIpv6,
        Self::PublicIpOverwrite,
        Self::PublicIpv6Overwrite,
        Self::NodePublicIp,
        Self::NodePublicIpv6,
    ];

    /// The key after the prefix.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::KubeSubnetManager => "kube-subnet-manager",
            Self::BackendType => "backend-type",
            Self::BackendData => "backend-data",
            Self::BackendV6Data => "backend-v6-data",
            Self::PublicIp => "public-ip",
            Self::PublicIpv6 => "public-ipv6",
            Self::PublicIpOverwrite => "public-ip-overwrite",
            Self::PublicIpv6Overwrite => "public-ipv6-overwrite",
            Self::NodePublicIp => "node-public-ip",
            Self::NodePublicIpv6 => "node-public-ipv6",
        }
    }
}

/// Whether a key can be one of flannel's annotations, whatever the prefix is.
#[must_use]
pub fn can_matter(key: &str) -> bool {
    Annotation::ALL
        .iter()
        .any(|annotation| key.ends_with(annotation.suffix()))
}

/// The prefix of `--kube-annotation-prefix` is none that Kubernetes and flannel can use.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidPrefix {
    /// More than one slash.
    #[error(
        "annotation prefix `{0}`: at most one `/` is allowed, as in flannel.alpha.coreos.com or example.com/blue"
    )]
    Slashes(String),
    /// Not a domain name and a name.
    #[error(
        "annotation prefix `{0}`: expected a domain name with at least one dot, and optionally `/` and a name, \
         in lower-case letters, digits, `-` and `_`: flannel.alpha.coreos.com or example.com/blue"
    )]
    Format(String),
}

/// The complete keys under one prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keys {
    /// Ends in `/` or `-`.
    prefix: String,
}

impl Keys {
    /// Completes the prefix as flannel does: `example.com` is `example.com/`, `example.com/blue` is
    /// `example.com/blue-`.
    ///
    /// # Errors
    ///
    /// When it is not a domain name with at most one name after it.
    pub fn new(prefix: &str) -> Result<Self, InvalidPrefix> {
        if prefix.matches('/').count() > 1 {
            return Err(InvalidPrefix::Slashes(prefix.to_owned()));
        }
        let mut complete = prefix.to_owned();
        if !complete.contains('/') {
            complete.push('/');
        }
        if !complete.ends_with(['/', '-']) {
            complete.push('-');
        }
        let valid = complete
            .split_once('/')
            .is_some_and(|(domain, name)| is_domain(domain) && name.bytes().all(is_name_byte));
        if valid {
            Ok(Self { prefix: complete })
        } else {
            Err(InvalidPrefix::Format(prefix.to_owned()))
        }
    }

    /// The complete key.
    #[must_use]
    pub fn key(&self, annotation: Annotation) -> String {
        format!("{}{}", self.prefix, annotation.suffix())
    }

    /// The annotation whose complete key this is.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<Annotation> {
        let suffix = key.strip_prefix(self.prefix.as_str())?;
        Annotation::ALL
            .into_iter()
            .find(|annotation| annotation.suffix() == suffix)
    }

    /// The prefix with its `/` or `-`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

const fn is_name_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')
}

/// flannel's `(?:[a-z0-9_-]+\.)+[a-z0-9_-]+`, here of the whole domain.
fn is_domain(domain: &str) -> bool {
    domain.contains('.')
        && domain
            .split('.')
            .all(|label| !label.is_empty() && label.bytes().all(is_name_byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_completed_as_flannel_does() {
        for (prefix, complete) in [
            ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/"),
            ("flannel.alpha.coreos.com/", "flannel.alpha.coreos.com/"),
            ("example.com/blue", "example.com/blue-"),
            ("example.com/blue-", "example.com/blue-"),
            ("a_b-c.d/x_1", "a_b-c.d/x_1-"),
        ] {
            assert_eq!(Keys::new(prefix).unwrap().prefix(), complete);
        }
        let keys = Keys::new("example.com/blue").unwrap();
        assert_eq!(keys.key(Annotation::PublicIp), "example.com/blue-public-ip");
        assert_eq!(
            keys.annotation("example.com/blue-public-ip"),
            Some(Annotation::PublicIp)
        );
        assert_eq!(keys.annotation("example.com/public-ip"), None);
        assert_eq!(keys.annotation("example.com/blue-public-ip-x"), None);
    }

    #[test]
    fn what_no_key_can_start_with_is_refused() {
        for prefix in ["a.b/c/d", "a.b//"] {
            assert_eq!(Keys::new(prefix), Err(InvalidPrefix::Slashes(prefix.into())));
        }
        for prefix in [
            "", "/", "-", "flannel", "flannel/", "a..b", ".a.b", "a.b.", "A.b", "a.b/C", "a.b/c d",
            "a.b/c.d", "a.ö",
        ] {
            assert_eq!(
                Keys::new(prefix),
                Err(InvalidPrefix::Format(prefix.into())),
                "{prefix}"
            );
        }
    }

    #[test]
    fn every_annotation_can_matter_and_others_cannot() {
        let keys = Keys::new(DEFAULT_PREFIX).unwrap();
        for annotation in Annotation::ALL {
            assert!(can_matter(&keys.key(annotation)), "{annotation:?}");
            assert_eq!(keys.annotation(&keys.key(annotation)), Some(annotation));
        }
        for key in [
            "volumes.kubernetes.io/controller-managed-attach-detach",
            "node.alpha.kubernetes.io/ttl",
            "kubeadm.alpha.kubernetes.io/cri-socket",
        ] {
            assert!(!can_matter(key), "{key}");
        }
    }
}
