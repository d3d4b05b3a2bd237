//! Why a packet was treated as it was. Each reason is a counter, and decides the verdict in one place.

/// Which way the packet travels, seen from this node's pods.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From this node into the overlay (`pod_ingress`, `vtep_egress`).
    Egress,
    /// From the underlay towards this node's pods (`underlay_ingress`, `vtep_ingress`, `pod_egress`).
    Ingress,
}

/// What becomes of the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Sent on past the rest of the stack: out of the underlay device, or into a pod.
    Redirect,
    /// Left unchanged to the kernel (and to other programs on the hook).
    Pass,
    /// Dropped.
    Drop,
    /// A copy whose original has already gone: dropped, nothing is lost.
    Absorb,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal, $direction:ident, $verdict:ident;)+) => {
        /// Why a packet was treated as it was: index into the `COUNTERS` map.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// Every reason, in the order of the `COUNTERS` map.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$name),+];
            /// How many reasons there are: the size of the `COUNTERS` map.
            pub const COUNT: usize = [$($label),+].len();

            /// Name for metrics and tables: lower case, stable.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// One sentence for an operator.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii_start(),)+ }
            }

            /// Which way the packets of this counter travel.
            #[must_use]
            pub const fn direction(self) -> Direction {
                match self { $(Self::$name => Direction::$direction,)+ }
            }

            /// What becomes of the packet. The only place where a reason becomes a verdict.
            ///
            /// While [`crate::config::FLAG_ENFORCE_PEERS`] is unset, an ingress `Drop` passes instead.
            #[inline(always)]
            #[must_use]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$name => Verdict::$verdict,)+ }
            }
        }
    };
}

reasons! {
    /// Encapsulated by the subnet map and sent to the peer.
    Encapsulated = "encapsulated", Egress, Redirect;
    /// No agent has configured the maps yet: the kernel device takes the packet.
    EgressUnconfigured = "egress_unconfigured", Egress, Pass;
    /// Not an untagged IPv4 packet with complete headers: the kernel device takes it.
    EgressNotIp = "egress_not_ip", Egress, Pass;
    /// No peer's subnet contains the destination: the kernel device takes it.
    NoSubnet = "no_subnet", Egress, Pass;
    /// The stack sends the frame to another device than that of the destination's peer (somebody's more specific route):
    /// the kernel device follows it.
    OtherNextHop = "other_next_hop", Egress, Pass;
    /// The packet carries a mark on a Group Based Policy device: the kernel device writes it into the header.
    GbpMark = "gbp_mark", Egress, Pass;
    /// Segmentation other than TCP or UDP: the kernel device takes it.
    GsoUnsupported = "gso_unsupported", Egress, Pass;
    /// Larger than the route to the peer allows, or than an IP packet can be: the kernel device takes it.
    TooBig = "too_big", Egress, Pass;
    /// The kernel found no usable route to the peer out of the underlay device: the kernel device takes it.
    NoRoute = "no_route", Egress, Pass;
    /// The next hop's link-layer address is not known yet: the kernel device resolves it and queues the packet.
    NoNeighbour = "no_neighbour", Egress, Pass;
    /// The kernel could not make room for the outer headers (nested encapsulation, memory): the kernel device takes it.
    EncapRefused = "encap_refused", Egress, Pass;
    /// The packet was modified and could not be completed: lost.
    EncapFailed = "encap_failed", Egress, Drop;
    /// From a pod, by its flow's entry past the stack to the peer.
    EgressFast = "egress_fast", Egress, Redirect;
    /// From a pod, and never on the fast path: no TCP or UDP over IPv4, a fragment, IP options, SYN, FIN or RST, a TTL that
    /// ends here, padding. The stack takes it.
    PodIneligible = "pod_ineligible", Egress, Pass;
    /// From a pod, of a flow that has no usable entry: the stack takes it.
    PodMiss = "pod_miss", Egress, Pass;
    /// From a pod, marked to learn what the stack does with it.
    PodMarked = "pod_marked", Egress, Pass;
    /// From a pod, of a flow that has an entry, but larger than the underlay allows: the stack takes it.
    PodTooBig = "pod_too_big", Egress, Pass;
    /// From a pod, of a flow that has an entry, but the kernel found no usable route to the peer, or the next hop's
    /// link-layer address is not known: the stack takes it.
    PodNoRoute = "pod_no_route", Egress, Pass;
    /// Copy of a packet from a pod on its way through the stack, to prove the flow's entry.
    PodProbe = "pod_probe", Egress, Pass;
    /// Such a copy that came out at the VTEP device: its original had already gone.
    EgressProbe = "egress_probe", Egress, Absorb;
    /// Entries written or proved from packets that came out of the stack; these are also counted by what became of them.
    EgressLearned = "egress_learned", Egress, Pass;
    /// Marked packets that came out of the stack too late, or changed in a way that the fast path does not repeat; also
    /// counted by what became of them.
    EgressNotLearned = "egress_not_learned", Egress, Pass;
    /// Packets that could not be followed through the stack because every slot of the CPU was in use; also counted by what
    /// became of them.
    NoTicket = "no_ticket", Egress, Pass;
    /// Packets that came out of the stack with mark bits that do not fit: somebody else uses the bits or clears `tc_index`; also
    /// counted by what became of them.
    UnknownTicket = "unknown_ticket", Egress, Pass;
    /// Flows ended by a SYN, FIN or RST from a pod; the packet is also counted as `pod_ineligible`.
    EgressEnded = "egress_ended", Egress, Pass;
    /// Tunnel packet delivered to its pod by its flow's entry, past the stack.
    IngressFast = "ingress_fast", Ingress, Redirect;
    /// Tunnel packet that the kernel device decapsulated, delivered to its pod by its flow's entry.
    ShortcutFast = "shortcut_fast", Ingress, Redirect;
    /// Tunnel packet of a known peer, marked to learn what the stack does with it.
    IngressMarked = "ingress_marked", Ingress, Pass;
    /// Copy of a tunnel packet on its way through the stack, to prove the flow's entry.
    IngressProbeSent = "ingress_probe_sent", Ingress, Pass;
    /// Such a copy that came out at a pod: its original had already gone.
    IngressProbe = "ingress_probe", Ingress, Absorb;
    /// As `egress_learned`, for packets towards pods.
    IngressLearned = "ingress_learned", Ingress, Pass;
    /// As `egress_not_learned`, for packets towards pods.
    IngressNotLearned = "ingress_not_learned", Ingress, Pass;
    /// Flows ended by a SYN, FIN or RST from a peer; the packet is also counted by what became of it.
    IngressEnded = "ingress_ended", Ingress, Pass;
    /// The packet was decapsulated and could not be completed: lost.
    DecapFailed = "decap_failed", Ingress, Drop;
    /// Tunnel packet of a known peer, for a local pod: the kernel device decapsulates it.
    Accepted = "accepted", Ingress, Pass;
    /// UDP on the overlay's port that this node only forwards: not ours.
    InTransit = "in_transit", Ingress, Pass;
    /// Another VNI, while another VXLAN device of this node uses the same port: left to that device.
    OtherVni = "other_vni", Ingress, Pass;
    /// Refused packets that were let through because the peer list is not complete yet; also counted by their reason.
    FailedOpen = "failed_open", Ingress, Pass;
    /// Refused: tagged more than once with VLAN 0, which hides the packet from this check but not from the kernel.
    NestedPriorityTag = "nested_priority_tag", Ingress, Drop;
    /// Refused: addressed to a local address that is not the VTEP's.
    NotVtepAddress = "not_vtep_address", Ingress, Drop;
    /// Refused: the outer packet is a fragment.
    OuterFragment = "outer_fragment", Ingress, Drop;
    /// Refused: the outer header carries IP options.
    OuterOptions = "outer_options", Ingress, Drop;
    /// Refused: shorter than its headers.
    Truncated = "truncated", Ingress, Drop;
    /// Refused: VXLAN flags or reserved bits other than "VNI present".
    BadFlags = "bad_flags", Ingress, Drop;
    /// Refused: VNI other than ours.
    WrongVni = "wrong_vni", Ingress, Drop;
    /// Refused: the inner frame is not an IP packet of the overlay's families.
    InnerNotIp = "inner_not_ip", Ingress, Drop;
    /// Refused: the outer source is no known VTEP.
    UnknownPeer = "unknown_peer", Ingress, Drop;
    /// Refused: the inner source is neither in the subnet of the VTEP that sent it nor that VTEP's own address.
    SpoofedSource = "spoofed_source", Ingress, Drop;
    /// Refused: the inner destination is not in this node's subnet.
    NotLocal = "not_local", Ingress, Drop;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn indices_are_the_order_of_all() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }

    #[test]
    fn labels_are_unique_metric_names() {
        let labels: BTreeSet<_> = Reason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), Reason::COUNT);
        for label in labels {
            assert!(
                label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{label}"
            );
        }
    }

    #[test]
    fn only_a_modified_packet_is_dropped_on_egress() {
        for reason in Reason::ALL {
            if reason.direction() == Direction::Egress && reason.verdict() == Verdict::Drop {
                assert_eq!(reason, Reason::EncapFailed);
            }
        }
    }
}
