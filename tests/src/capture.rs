//! Seeing every packet on a device.
//!
//! A capture is an `AF_PACKET` socket of this process: it sees packets from the moment [`Capture::start`] returns,
//! and [`Capture::packets`] returns all that have passed until then, without waiting and without loss.

use std::fs::File;
use std::io::{BufWriter, IoSliceMut, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvmsg,
    setsockopt, socket, sockopt,
};

use crate::inject::link_address;
use crate::space::Space;
use crate::wait::eventually;

/// Room for what passes between two calls of [`Capture::packets`].
const RECEIVE_BUFFER: usize = 256 << 20;
/// Longer than any packet, aggregates included.
const LARGEST_FRAME: usize = 1 << 18;
/// `PACKET_OUTGOING` of linux/if_packet.h.
const OUTGOING: u8 = 4;

/// A captured packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Whether the device sent it (or received it).
    pub outgoing: bool,
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// A running capture on one device.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    label: String,
    packets: Vec<Packet>,
}

impl Capture {
    /// Starts to capture on `device` of `space`, both directions.
    ///
    /// # Errors
    ///
    /// When the device does not exist.
    pub fn start(space: &Space, device: &str) -> Result<Self> {
        let label = format!("{device} of {}", space.label());
        let socket = space
            .enter(|| open(device))
            .with_context(|| format!("cannot capture on {label}"))?;
        Ok(Self {
            socket,
            label,
            packets: Vec::new(),
        })
    }

    /// Every packet since the start, in order.
    ///
    /// # Errors
    ///
    /// When the kernel lost one for lack of room.
    pub fn packets(&mut self) -> Result<&[Packet]> {
        let mut buffer = vec![0; LARGEST_FRAME];
        let mut control = nix::cmsg_space!(u32);
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let (length, outgoing) =
                match recvmsg::<LinkAddr>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                    Ok(message) => {
                        let lost = message
                            .cmsgs()?
                            .any(|message| matches!(message, ControlMessageOwned::RxqOvfl(1..)));
                        ensure!(!lost, "the capture on {} lost packets", self.label);
                        (
                            message.bytes,
                            message
                                .address
                                .is_some_and(|address| address.pkttype() == OUTGOING),
                        )
                    }
                    Err(Errno::EAGAIN) => return Ok(&self.packets),
                    Err(error) => return Err(error).with_context(|| format!("capture on {}", self.label)),
                };
            let bytes = buffer.get(..length).unwrap_or_default().to_vec();
            self.packets.push(Packet { outgoing, bytes });
        }
    }

    /// Waits until `count` packets satisfy `wanted`, and returns them all.
    ///
    /// # Errors
    ///
    /// When there are fewer at the deadline; the message shows the last packets.
    pub fn wait_for(
        &mut self,
        count: usize,
        timeout: Duration,
        wanted: impl Fn(&Packet) -> bool,
    ) -> Result<Vec<Packet>> {
        let label = self.label.clone();
        eventually(timeout, &format!("{count} packets on {label}"), || {
            let packets = self.packets()?;
            let found: Vec<_> = packets.iter().filter(|packet| wanted(packet)).cloned().collect();
            if found.len() < count {
                let last: Vec<_> = packets
                    .iter()
                    .rev()
                    .take(5)
                    .map(|packet| hex(&packet.bytes))
                    .collect();
                bail!(
                    "{} of {} packets match; the last:\n{}",
                    found.len(),
                    packets.len(),
                    last.join("\n")
                );
            }
            Ok(found)
        })
    }

    /// Writes everything captured so far to a pcap file, for looking at it with other tools.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn save(&mut self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut file = BufWriter::new(file);
        // https://www.ietf.org/archive/id/draft-gharris-opsawg-pcap-01.html; times are not recorded.
        file.write_all(&0xa1b2_c3d4_u32.to_ne_bytes())?;
        file.write_all(&2_u16.to_ne_bytes())?;
        file.write_all(&4_u16.to_ne_bytes())?;
        for word in [0, 0, u32::try_from(LARGEST_FRAME)?, 1] {
            file.write_all(&u32::to_ne_bytes(word))?;
        }
        for Packet { bytes, .. } in self.packets()? {
            let length = u32::try_from(bytes.len())?;
            for word in [0, 0, length, length] {
                file.write_all(&word.to_ne_bytes())?;
            }
            file.write_all(bytes)?;
        }
        file.flush()?;
        Ok(())
    }
}

fn open(device: &str) -> Result<OwnedFd> {
    let address = link_address(device)?;
    let raw = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )?;
    setsockopt(&raw, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    setsockopt(&raw, sockopt::RxqOvfl, &1)?;
    // Until it is bound the socket sees every device; that part is thrown away.
    bind(raw.as_raw_fd(), &address)?;
    let mut discarded = [0; 64];
    while nix::sys::socket::recv(raw.as_raw_fd(), &mut discarded, MsgFlags::MSG_DONTWAIT).is_ok() {}
    Ok(raw)
}

/// The beginning of `bytes`, for messages.
fn hex(bytes: &[u8]) -> String {
    let shown: Vec<_> = bytes.iter().take(128).map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes: {}", bytes.len(), shown.join(" "))
}
