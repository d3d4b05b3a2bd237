//! How large the packet will be on the wire. `bpf_redirect*` check no MTU.

use overlay_common::config::Config;
use overlay_common::encap::{MAX_INNER_V4, OVERHEAD_V4};
use overlay_common::headers::{ETH_LEN, IPPROTO_TCP, IPPROTO_UDP, IPV4_LEN, TCP_FLAGS_OFFSET, UDP_LEN};
use overlay_common::reason::Reason;

use crate::flow::packet::FlowPacket;
use crate::skb::Skb;

/// What the size of an inner packet's segments follows from.
pub(crate) struct InnerSize {
    /// Length of the IP packet in bytes, all segments of a GSO packet together.
    pub(crate) len: u32,
    /// Length of the IP header in bytes.
    pub(crate) header_len: u32,
    /// Offset of the transport header in the frame as it is now, in bytes.
    pub(crate) transport: u32,
    /// Protocol after the IP header.
    pub(crate) protocol: u8,
}

impl InnerSize {
    /// Of the packet whose Ethernet header is at `offset`.
    #[inline(always)]
    pub(crate) fn of(packet: &FlowPacket, offset: u32) -> Self {
        Self {
            len: packet.len(),
            header_len: IPV4_LEN,
            transport: offset + ETH_LEN + IPV4_LEN,
            protocol: packet.ip.protocol,
        }
    }
}

/// Length of one outer IP packet as it leaves the device, after segmentation, in bytes.
#[inline(always)]
pub(crate) fn segment_len(skb: &Skb<'_>, config: &Config, inner: &InnerSize) -> Result<u16, Reason> {
    // Also for GSO packets: until it is segmented the whole packet carries one outer IP header.
    if inner.len > MAX_INNER_V4 {
        return Err(Reason::TooBig);
    }
    let inner_segment = match skb.gso_size() {
        0 => inner.len,
        payload => inner.header_len + transport_header_len(skb, inner)? + payload,
    };
    let segment = u16::try_from(inner_segment + OVERHEAD_V4).map_err(|_| Reason::TooBig)?;
    if segment > config.max_segment {
        Err(Reason::TooBig)
    } else {
        Ok(segment)
    }
}

/// Length of the transport header that every segment of a GSO packet repeats.
#[inline(always)]
fn transport_header_len(skb: &Skb<'_>, inner: &InnerSize) -> Result<u32, Reason> {
    match inner.protocol {
        IPPROTO_TCP => {
            let offset = inner.transport + TCP_FLAGS_OFFSET;
            // Two bytes: of a view of one byte the verifier does not see the bounds check.
            let [data_offset, _flags] = *skb.view::<[u8; 2]>(offset).ok_or(Reason::GsoUnsupported)?;
            Ok(u32::from(data_offset >> 4) * 4)
        }
        IPPROTO_UDP => Ok(UDP_LEN),
        _ => Err(Reason::GsoUnsupported),
    }
}
