//! Frames taken apart by etherparse, with every checksum computed again.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use etherparse::{Icmpv4Slice, Ipv4HeaderSlice, NetSlice, SlicedPacket, TcpSlice, TransportSlice, UdpSlice};

use super::{Mac, PROTOCOL_TCP, PROTOCOL_UDP, internet_checksum, pseudo_header};

/// A frame with valid checksums.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// Ethernet destination.
    pub destination: Mac,
    /// Ethernet source.
    pub source: Mac,
    /// EtherType, of the innermost tag.
    pub ether_type: u16,
    /// The IPv4 packet; none when the frame carries something else.
    pub ip: Option<DecodedIpv4>,
}

/// An IPv4 packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecodedIpv4 {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number.
    pub protocol: u8,
    /// Identification.
    pub identification: u16,
    /// Whether the packet may not be fragmented.
    pub dont_fragment: bool,
    /// Whether more fragments follow.
    pub more_fragments: bool,
    /// Offset of this fragment in units of 8 bytes.
    pub fragment_offset: u16,
    /// Length of header and payload in bytes.
    pub total_length: u16,
    /// IP options.
    pub options: Vec<u8>,
    /// What the packet carries.
    pub transport: Transport,
}

/// What an IPv4 packet carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transport {
    /// A UDP datagram.
    Udp(DecodedUdp),
    /// A TCP segment.
    Tcp(DecodedTcp),
    /// An ICMP message.
    Icmp(DecodedIcmp),
    /// Another protocol, or a fragment.
    Other(Vec<u8>),
}

/// A UDP datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecodedUdp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Length field.
    pub length: u16,
    /// Checksum field: valid, or 0 for none.
    pub checksum: u16,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// A TCP segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecodedTcp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Flags, FIN in the lowest bit.
    pub flags: u8,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// An ICMP message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecodedIcmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// What follows the first eight bytes.
    pub payload: Vec<u8>,
}

/// A VXLAN packet's header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecodedVxlan {
    /// The eight bytes of the header (RFC 7348, section 5).
    pub header: [u8; 8],
    /// VXLAN network identifier.
    pub vni: u32,
}

/// The frame inside a VXLAN packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inner {
    /// The VXLAN header.
    pub vxlan: DecodedVxlan,
    /// The inner frame as it came.
    pub bytes: Vec<u8>,
    /// The inner frame taken apart.
    pub frame: Decoded,
}

impl Decoded {
    /// The IPv4 packet.
    ///
    /// # Errors
    ///
    /// When the frame carries none.
    pub fn ipv4(&self) -> Result<&DecodedIpv4> {
        self.ip.as_ref().with_context(|| format!("no IPv4 in {self:?}"))
    }

    /// The UDP datagram.
    ///
    /// # Errors
    ///
    /// When the frame carries none.
    pub fn udp(&self) -> Result<&DecodedUdp> {
        let transport = &self.ipv4()?.transport;
        let Transport::Udp(udp) = transport else {
            bail!("no UDP but {transport:?}")
        };
        Ok(udp)
    }

    /// The TCP segment.
    ///
    /// # Errors
    ///
    /// When the frame carries none.
    pub fn tcp(&self) -> Result<&DecodedTcp> {
        let transport = &self.ipv4()?.transport;
        let Transport::Tcp(tcp) = transport else {
            bail!("no TCP but {transport:?}")
        };
        Ok(tcp)
    }

    /// The ICMP message.
    ///
    /// # Errors
    ///
    /// When the frame carries none.
    pub fn icmp(&self) -> Result<&DecodedIcmp> {
        let transport = &self.ipv4()?.transport;
        let Transport::Icmp(icmp) = transport else {
            bail!("no ICMP but {transport:?}")
        };
        Ok(icmp)
    }

    /// The VXLAN header and the inner frame, whose checksums are verified too.
    ///
    /// # Errors
    ///
    /// When the frame carries no UDP, or what it carries is no VXLAN packet with a valid frame.
    pub fn vxlan(&self) -> Result<Inner> {
        let payload = &self.udp()?.payload;
        let (header, inner) = payload
            .split_first_chunk::<8>()
            .context("shorter than a VXLAN header")?;
        let [_, _, _, _, a, b, c, _] = *header;
        let vxlan = DecodedVxlan {
            header: *header,
            vni: u32::from_be_bytes([0, a, b, c]),
        };
        let frame = decode(inner).context("inner frame")?;
        Ok(Inner {
            vxlan,
            bytes: inner.to_vec(),
            frame,
        })
    }
}

/// Takes a frame apart, from its Ethernet header on, and verifies the IPv4, UDP, TCP and ICMP checksums.
///
/// A capture sees valid checksums only where the device does not leave them open
/// ([`crate::Offloads::CABLE`]).
///
/// # Errors
///
/// When a length is wrong or a checksum is not valid.
pub fn decode(bytes: &[u8]) -> Result<Decoded> {
    let (head, _) = bytes
        .split_first_chunk::<14>()
        .context("shorter than an Ethernet header")?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = *head;
    let packet = SlicedPacket::from_ethernet(bytes).context("malformed frame")?;
    let ether_type = packet.payload_ether_type();
    let mut decoded = Decoded {
        destination: Mac([d0, d1, d2, d3, d4, d5]),
        source: Mac([s0, s1, s2, s3, s4, s5]),
        ether_type: ether_type.map_or(0, |ether_type| ether_type.0),
        ip: None,
    };
    if let Some(NetSlice::Ipv4(ip)) = &packet.net {
        let header = ip.header();
        decoded.ether_type = super::ETHERTYPE_IPV4;
        ensure!(
            internet_checksum(&[header.slice()]) == 0,
            "wrong IPv4 header checksum"
        );
        let transport = match &packet.transport {
            Some(TransportSlice::Udp(udp)) => Transport::Udp(decode_udp(&header, udp)?),
            Some(TransportSlice::Tcp(tcp)) => Transport::Tcp(decode_tcp(&header, tcp)?),
            Some(TransportSlice::Icmpv4(icmp)) => Transport::Icmp(decode_icmp(icmp)?),
            Some(TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_)) | None => {
                Transport::Other(ip.payload().payload.to_vec())
            }
        };
        decoded.ip = Some(decode_ipv4(&header, transport));
    }
    Ok(decoded)
}

fn decode_ipv4(header: &Ipv4HeaderSlice<'_>, transport: Transport) -> DecodedIpv4 {
    DecodedIpv4 {
        source: header.source_addr(),
        destination: header.destination_addr(),
        tos: header.slice().get(1).copied().unwrap_or_default(),
        ttl: header.ttl(),
        protocol: header.protocol().0,
        identification: header.identification(),
        dont_fragment: header.dont_fragment(),
        more_fragments: header.more_fragments(),
        fragment_offset: header.fragments_offset().value(),
        total_length: header.total_len(),
        options: header.options().to_vec(),
        transport,
    }
}

fn verify(header: &Ipv4HeaderSlice<'_>, protocol: u8, segment: &[u8]) -> bool {
    let pseudo = pseudo_header(header.source(), header.destination(), protocol, segment.len());
    internet_checksum(&[&pseudo, segment]) == 0
}

fn decode_udp(header: &Ipv4HeaderSlice<'_>, udp: &UdpSlice<'_>) -> Result<DecodedUdp> {
    let valid = udp.checksum() == 0 || verify(header, PROTOCOL_UDP, udp.slice());
    ensure!(valid, "wrong UDP checksum {:#06x}", udp.checksum());
    Ok(DecodedUdp {
        source_port: udp.source_port(),
        destination_port: udp.destination_port(),
        length: udp.length(),
        checksum: udp.checksum(),
        payload: udp.payload().to_vec(),
    })
}

fn decode_tcp(header: &Ipv4HeaderSlice<'_>, tcp: &TcpSlice<'_>) -> Result<DecodedTcp> {
    ensure!(
        verify(header, PROTOCOL_TCP, tcp.slice()),
        "wrong TCP checksum {:#06x}",
        tcp.checksum()
    );
    Ok(DecodedTcp {
        source_port: tcp.source_port(),
        destination_port: tcp.destination_port(),
        sequence: tcp.sequence_number(),
        flags: tcp.slice().get(13).copied().unwrap_or_default(),
        payload: tcp.payload().to_vec(),
    })
}

fn decode_icmp(icmp: &Icmpv4Slice<'_>) -> Result<DecodedIcmp> {
    ensure!(
        internet_checksum(&[icmp.slice()]) == 0,
        "wrong ICMP checksum {:#06x}",
        icmp.checksum()
    );
    Ok(DecodedIcmp {
        kind: icmp.type_u8(),
        code: icmp.code_u8(),
        payload: icmp.payload().to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Checksum, Ethernet, Frame, Icmp, Ipv4, Layer4, Tcp, Udp, Vxlan, VxlanFrame};
    use super::*;

    fn ip() -> Ipv4 {
        Ipv4::new(Ipv4Addr::new(10, 244, 1, 2), Ipv4Addr::new(10, 244, 2, 2))
    }

    fn inner() -> Frame {
        Frame::udp(Ethernet::default(), ip(), Udp::new(1234, 53, b"odd"))
    }

    #[test]
    fn what_is_built_is_what_is_decoded() {
        let outer = VxlanFrame::new(Ethernet::default(), ip(), inner().bytes());
        let decoded = decode(&outer.bytes()).unwrap();
        assert_eq!(decoded.udp().unwrap().destination_port, 8472);
        assert_ne!(decoded.udp().unwrap().checksum, 0);
        let inner = decoded.vxlan().unwrap();
        assert_eq!(
            inner.vxlan,
            DecodedVxlan {
                header: [8, 0, 0, 0, 0, 0, 1, 0],
                vni: 1
            }
        );
        assert_eq!(inner.frame.udp().unwrap().payload, b"odd");
        assert_eq!(
            inner.frame.ipv4().unwrap().destination,
            Ipv4Addr::new(10, 244, 2, 2)
        );
        let tcp = Frame::tcp(Ethernet::default(), ip(), Tcp::new(1, 2, b"payload")).bytes();
        assert_eq!(decode(&tcp).unwrap().tcp().unwrap().flags, Tcp::ACK);
        let icmp = Frame::icmp(Ethernet::default(), ip(), Icmp::echo_request(1, 2, b"ping")).bytes();
        assert_eq!(decode(&icmp).unwrap().icmp().unwrap().payload, b"ping");
    }

    #[test]
    fn every_flipped_bit_behind_the_ethernet_header_is_noticed() {
        let bytes = inner().bytes();
        for bit in 14 * 8..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn knobs_break_what_they_say() {
        let mut frame = inner();
        let Layer4::Udp(udp) = &mut frame.layer4 else {
            unreachable!()
        };
        udp.checksum = Checksum::Raw(1);
        assert!(
            decode(&frame.bytes())
                .unwrap_err()
                .to_string()
                .contains("UDP checksum")
        );
        let Layer4::Udp(udp) = &mut frame.layer4 else {
            unreachable!()
        };
        udp.checksum = Checksum::Zero;
        assert_eq!(decode(&frame.bytes()).unwrap().udp().unwrap().checksum, 0);
        frame.ip.checksum = Checksum::Zero;
        assert!(
            decode(&frame.bytes())
                .unwrap_err()
                .to_string()
                .contains("IPv4 header checksum")
        );
        let header = Vxlan {
            flags: 0xff,
            reserved: [1, 2, 3],
            vni: 0x00ab_cdef,
            reserved2: 9,
        };
        assert_eq!(header.bytes(), [0xff, 1, 2, 3, 0xab, 0xcd, 0xef, 9]);
    }

    #[test]
    fn options_and_fragments_are_written() {
        let mut frame = inner();
        frame.ip.options = vec![1; 8];
        let decoded = decode(&frame.bytes()).unwrap();
        assert_eq!(decoded.ipv4().unwrap().options, vec![1; 8]);
        assert_eq!(decoded.udp().unwrap().payload, b"odd");
        frame.ip.fragment = Ipv4::MORE_FRAGMENTS | 3;
        let decoded = decode(&frame.bytes()).unwrap();
        let ip = decoded.ipv4().unwrap();
        assert_eq!(
            (ip.more_fragments, ip.fragment_offset, ip.dont_fragment),
            (true, 3, false)
        );
    }
}
