//! A packet as the fast path sees it.

use overlay_common::addr::Addr;
use overlay_common::flow::FlowKey;
use overlay_common::headers::{
    ETH_LEN, ETHERTYPE_IPV4, EthHeader, FlowV4, IPPROTO_TCP, IPPROTO_UDP, IPV4_LEN, IPV4_PLAIN, Ipv4Header,
    TCP_ACK, TCP_CONTROL, TCP_FLAGS_OFFSET, TCP_MIN_WORDS, TCP_SYN,
};

use crate::maps;
use crate::skb::Skb;

/// A TCP or UDP packet over IPv4 without options or fragmentation, complete, with an Ethernet header before it.
pub(crate) struct FlowPacket {
    pub(crate) eth: EthHeader,
    pub(crate) ip: Ipv4Header,
    pub(crate) key: FlowKey,
    /// TCP sequence number, network byte order; zero for UDP.
    pub(crate) sequence: [u8; 4],
    pub(crate) role: Role,
}

/// What a packet means for its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// UDP, or TCP with ACK and without SYN, FIN, RST.
    Data,
    /// A SYN: a new connection begins.
    Begin,
    /// A FIN or RST: the connection ends.
    End,
    /// TCP flags that an established connection does not use.
    Odd,
}

impl FlowPacket {
    /// Whether the fast path may carry it, if the flow is known.
    #[inline(always)]
    pub(crate) fn is_eligible(&self) -> bool {
        matches!(self.role, Role::Data) && self.ip.ttl > 1
    }

    /// What tells when the packet, which has this ticket, has come out of the stack: for TCP where its payload ends (plus the
    /// headers' length), since the kernel may have merged it with others.
    #[inline(always)]
    pub(crate) fn position(&self, ticket: u32) -> u32 {
        if self.key.protocol == IPPROTO_TCP {
            u32::from_be_bytes(self.sequence).wrapping_add(self.len())
        } else {
            ticket
        }
    }

    /// Length of the IP packet in bytes, all segments together.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        u32::from(u16::from_be_bytes(self.ip.total_len))
    }
}

/// The packet whose Ethernet header is at `offset`, until the next one is parsed; `None` if it is never one for the fast
/// path.
#[inline(always)]
pub(crate) fn parse(skb: &Skb<'_>, offset: u32) -> Option<&'static FlowPacket> {
    // Copied: the next view may move the headers.
    let headers = *skb.view::<FlowV4>(offset)?;
    let ip = headers.ip;
    if headers.eth.ethertype != ETHERTYPE_IPV4 || ip.version_ihl != IPV4_PLAIN || ip.is_fragment() {
        return None;
    }
    // The stack cuts padding off, and judges packets that end too early.
    if u32::from(u16::from_be_bytes(ip.total_len)) + offset + ETH_LEN != skb.len {
        return None;
    }
    let (sequence, role) = match ip.protocol {
        IPPROTO_UDP => ([0; 4], Role::Data),
        IPPROTO_TCP => (headers.rest, tcp_role(skb, offset + ETH_LEN + IPV4_LEN)?),
        _ => return None,
    };
    // SAFETY: this CPU's room.
    let packet = unsafe { &mut (*maps::scratch()?).packet };
    // In words: the lookup reads it in words at once.
    *bytemuck::must_cast_mut(&mut packet.key) = FlowKey::words(
        Addr::from_v4(ip.src),
        headers.src_port,
        Addr::from_v4(ip.dst),
        headers.dst_port,
        ip.protocol,
    );
    packet.eth = headers.eth;
    packet.ip = ip;
    packet.sequence = sequence;
    packet.role = role;
    Some(packet)
}

#[inline(always)]
fn tcp_role(skb: &Skb<'_>, tcp: u32) -> Option<Role> {
    let [data_offset, flags] = *skb.view::<[u8; 2]>(tcp + TCP_FLAGS_OFFSET)?;
    if data_offset >> 4 < TCP_MIN_WORDS {
        return None;
    }
    Some(match flags & TCP_CONTROL {
        0 if flags & TCP_ACK != 0 => Role::Data,
        0 => Role::Odd,
        control if control & TCP_SYN != 0 => Role::Begin,
        _ => Role::End,
    })
}
