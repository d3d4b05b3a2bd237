//! The made-up nodes of the cluster: name, pod subnet, VTEP.

use std::net::Ipv4Addr;

use crate::packet::Mac;

/// The network that the pod subnets are taken from: flannel's `Network`.
pub(super) const NETWORK: &str = "10.0.0.0/8";

/// Most made-up nodes: they must fit the agent's maps as it comes (16,384 peers).
pub(super) const MOST: u32 = 16_000;

/// A made-up node, by its number from 1 to [`MOST`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Peer(pub(super) u32);

impl Peer {
    /// The first `nodes` of them.
    pub(super) fn first(nodes: u32) -> impl Iterator<Item = Self> + Clone {
        (1..=nodes).map(Self)
    }

    /// Name of the Node object, as long for each of them.
    pub(super) fn name(self) -> String {
        format!("bench-{:05}", self.0)
    }

    /// First address of the pod subnet, whose prefix has 24 bits. None is a testbed node's (10.244.i.0).
    pub(super) fn subnet(self) -> Ipv4Addr {
        let [_, _, high, low] = self.0.to_be_bytes();
        Ipv4Addr::new(10, high, low, 0)
    }

    /// Underlay address of the VTEP: nobody answers there, and nobody asks.
    pub(super) fn public_ip(self) -> Ipv4Addr {
        let [_, _, high, low] = self.0.to_be_bytes();
        Ipv4Addr::new(172, 16, high, low)
    }

    /// MAC address of the VTEP.
    pub(super) fn vtep_mac(self) -> Mac {
        let [a, b, c, d] = self.0.to_be_bytes();
        Mac([0x06, 0, a, b, c, d])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_peers_share_anything_and_none_is_the_testbeds() {
        let all = || Peer::first(MOST);
        let count = MOST as usize;
        assert_eq!(all().map(Peer::name).collect::<BTreeSet<_>>().len(), count);
        assert_eq!(all().map(Peer::subnet).collect::<BTreeSet<_>>().len(), count);
        assert_eq!(all().map(Peer::public_ip).collect::<BTreeSet<_>>().len(), count);
        assert_eq!(
            all().map(|peer| peer.vtep_mac().0).collect::<BTreeSet<_>>().len(),
            count
        );
        assert!(all().all(|peer| peer.subnet().octets()[1] < 244));
        assert_eq!(Peer(258).subnet(), Ipv4Addr::new(10, 1, 2, 0));
    }
}
