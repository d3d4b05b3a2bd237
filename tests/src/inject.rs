//! Sending raw frames out of a device.

use anyhow::{Context, Result, ensure};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};
use std::os::fd::AsRawFd;

use crate::space::Space;

/// Sends `frames`, each from its Ethernet header on, out of `device` of `space`, in order and unchanged.
///
/// Frames sent out of a veth device arrive at its peer's ingress hook.
///
/// # Errors
///
/// When the device does not exist or is down, or a frame is refused (longer than the MTU allows).
pub fn inject<F: AsRef<[u8]> + Sync>(space: &Space, device: &str, frames: &[F]) -> Result<()> {
    space
        .enter(|| {
            let address = link_address(device)?;
            // No protocol: the socket only sends, it must not queue what the device receives.
            let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            for (number, frame) in frames.iter().enumerate() {
                let frame = frame.as_ref();
                let sent = sendto(raw.as_raw_fd(), frame, &address, MsgFlags::empty())
                    .with_context(|| format!("frame {number} ({} bytes)", frame.len()))?;
                ensure!(
                    sent == frame.len(),
                    "frame {number}: {sent} of {} bytes sent",
                    frame.len()
                );
            }
            Ok(())
        })
        .with_context(|| format!("cannot send frames out of {device} of {}", space.label()))
}

/// The link-layer address of `device` in this thread's namespace.
pub(crate) fn link_address(device: &str) -> Result<LinkAddr> {
    getifaddrs()?
        .filter(|interface| interface.interface_name == device)
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .with_context(|| format!("there is no device {device}"))
}
