//! Which address the overlay uses: a pure choice among those that a device has.

use std::net::{IpAddr, Ipv4Addr};

/// Where the overlay is: an underlay device, and the address of it that packets leave with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Interface index of the underlay device.
    pub ifindex: u32,
    /// Source address of outer headers.
    pub address: IpAddr,
}

/// Where the overlay is already, and who put it there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// This process did: kept for as long as the device has the address.
    Chosen(Place),
    /// An earlier one did, perhaps with other flags: kept only where the flags could have meant it.
    Found(Place),
}

impl Kept {
    /// The place itself.
    #[must_use]
    pub const fn place(self) -> Place {
        match self {
            Self::Chosen(place) | Self::Found(place) => place,
        }
    }
}

/// An IPv4 address of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Candidate {
    pub(super) address: Ipv4Addr,
    pub(super) deprecated: bool,
    /// Whether it goes by itself, as a leased one.
    pub(super) expires: bool,
    pub(super) secondary: bool,
}

/// The address that is kept, if the device still has it; otherwise the best of those that are [`preferred`].
pub(super) fn choose(candidates: &[Candidate], kept: Option<IpAddr>) -> Option<Ipv4Addr> {
    let is_kept = |c: &&Candidate| is_usable(c.address) && Some(IpAddr::V4(c.address)) == kept;
    match candidates.iter().find(is_kept) {
        Some(kept) => Some(kept.address),
        None => preferred(candidates).into_iter().next(),
    }
}

/// The addresses that flannel would take, best first: no deprecated one; link-local ones last, then those that expire, then
/// secondary ones; otherwise the kernel's order.
pub(super) fn preferred(candidates: &[Candidate]) -> Vec<Ipv4Addr> {
    let fits = |c: &&Candidate| is_usable(c.address) && !c.deprecated;
    let mut usable: Vec<_> = candidates.iter().filter(fits).collect();
    usable.sort_by_key(|c| (c.address.is_link_local(), c.expires, c.secondary));
    usable.into_iter().map(|c| c.address).collect()
}

/// Whether the device has the address.
pub(super) fn has(candidates: &[Candidate], address: IpAddr) -> bool {
    choose(candidates, Some(address)).map(IpAddr::V4) == Some(address)
}

pub(super) const fn is_usable(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Candidate = Candidate {
        address: Ipv4Addr::new(192, 168, 0, 1),
        deprecated: false,
        expires: false,
        secondary: false,
    };

    fn other(address: [u8; 4]) -> Candidate {
        Candidate {
            address: address.into(),
            ..FIRST
        }
    }

    fn chosen(candidates: &[Candidate], kept: Option<[u8; 4]>) -> Option<[u8; 4]> {
        choose(candidates, kept.map(IpAddr::from)).map(|address| address.octets())
    }

    #[test]
    fn what_is_kept_is_taken_wherever_it_stands() {
        let better = other([10, 0, 0, 1]);
        let worse = [
            FIRST,
            Candidate {
                secondary: true,
                ..FIRST
            },
            Candidate {
                expires: true,
                ..FIRST
            },
            Candidate {
                deprecated: true,
                ..FIRST
            },
        ];
        for kept in worse {
            let candidates = [better, kept];
            assert_eq!(
                chosen(&candidates, Some([192, 168, 0, 1])),
                Some([192, 168, 0, 1])
            );
            assert!(has(&candidates, [192, 168, 0, 1].into()));
            assert_eq!(chosen(&candidates, None), Some([10, 0, 0, 1]));
        }
    }

    #[test]
    fn what_is_gone_is_not_kept() {
        let candidates = [other([169, 254, 0, 1]), other([10, 0, 0, 1])];
        assert_eq!(chosen(&candidates, Some([192, 168, 0, 1])), Some([10, 0, 0, 1]));
        assert!(!has(&candidates, [192, 168, 0, 1].into()));
        assert_eq!(chosen(&[], Some([192, 168, 0, 1])), None);
    }

    #[test]
    fn an_unusable_address_is_never_taken() {
        for address in [[0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
            assert_eq!(chosen(&[other(address)], Some(address)), None);
        }
        let deprecated = Candidate {
            deprecated: true,
            ..FIRST
        };
        assert_eq!(chosen(&[deprecated], None), None);
    }

    #[test]
    fn otherwise_permanent_primary_global_addresses_come_first() {
        let link_local = other([169, 254, 0, 1]);
        let expires = Candidate {
            expires: true,
            ..other([10, 0, 0, 1])
        };
        let secondary = Candidate {
            secondary: true,
            ..other([10, 0, 0, 2])
        };
        let mut candidates = vec![link_local];
        for better in [expires, secondary, FIRST] {
            candidates.push(better);
            assert_eq!(chosen(&candidates, None), Some(better.address.octets()));
        }
        candidates.push(other([10, 0, 0, 3]));
        assert_eq!(
            chosen(&candidates, None),
            Some([192, 168, 0, 1]),
            "the first of equals"
        );
    }
}
