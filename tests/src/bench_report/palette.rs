//! Colours and names. Colours that follow the reader's light or dark setting are marked by their value: the page's
//! style sheet replaces them.

use plotters::style::{
    IntoFont, RGBColor, TextStyle, text_anchor::HPos, text_anchor::Pos, text_anchor::VPos,
};

use crate::bench::result::{Mode, Target, Wire, Workload};

/// Text and whiskers.
pub(crate) const INK: RGBColor = RGBColor(0x22, 0x26, 0x2b);
/// Less important text.
pub(crate) const MUTED: RGBColor = RGBColor(0x5b, 0x62, 0x6b);
/// Grid lines and axes.
pub(crate) const GRID: RGBColor = RGBColor(0xd9, 0xdd, 0xe2);
/// Bars of the programs.
pub(super) const PROGRAM: RGBColor = RGBColor(0x00, 0x72, 0xb2);

/// The colour of a mode: after Okabe and Ito, told apart with any colour vision, and with a contrast of at least 3:1 to
/// both backgrounds.
pub(super) const fn colour(mode: Mode) -> RGBColor {
    match mode {
        Mode::Bare => RGBColor(0x80, 0x80, 0x80),
        Mode::Hostgw => RGBColor(0xc0, 0x6a, 0x9b),
        Mode::Kernel => RGBColor(0x00, 0x72, 0xb2),
        Mode::Slow => RGBColor(0x00, 0x8f, 0x68),
        Mode::Fast => RGBColor(0xd5, 0x5e, 0x00),
    }
}

/// `#RRGGBB`, as the SVG backend writes it.
pub(crate) fn hex(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

/// Text of `pixels` height.
pub(crate) fn text(pixels: f64, colour: RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    // The SVG backend divides the size by 1.24.
    ("system-ui, sans-serif", pixels * 1.24)
        .into_font()
        .color(&colour)
        .pos(Pos::new(horizontal, vertical))
}

/// What a reader calls the mode.
pub(super) const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Bare => "bare host",
        Mode::Hostgw => "host-gw",
        Mode::Kernel => "kernel vxlan",
        Mode::Slow => "fast path off",
        Mode::Fast => "fast path on",
    }
}

/// What the mode is, in full.
pub(super) const fn mode_meaning(mode: Mode) -> &'static str {
    match mode {
        Mode::Bare => {
            "node to node: no pods, no overlay, no NAT (where others use a service address, the server's own)"
        }
        Mode::Hostgw => {
            "pod to pod, routed between the nodes without an overlay, as flannel's host-gw backend does"
        }
        Mode::Kernel => {
            "pod to pod through the kernel's vxlan device, set up as flannel sets it up: what all ratios refer to"
        }
        Mode::Slow => {
            "this agent with --fastpath=off: eBPF encapsulation and peer check, the host stack does the rest"
        }
        Mode::Fast => "this agent as it comes: established flows pass the host stack by",
    }
}

/// What a reader calls the workload.
pub(super) const fn workload(workload: Workload) -> &'static str {
    match workload {
        Workload::TcpRr => "TCP request/response",
        Workload::UdpRr => "UDP request/response",
        Workload::Udp64 => "UDP, 64-byte packets",
        Workload::Udp1400 => "UDP, 1400-byte packets",
        Workload::TcpBulk => "Bulk TCP",
        Workload::TcpCrr => "TCP connect, request, close",
        Workload::OutsideRr => "Pod to outside the cluster",
    }
}

/// What the workload does.
pub(super) const fn workload_meaning(workload: Workload) -> &'static str {
    match workload {
        Workload::TcpRr => "One byte there, one byte back, on established TCP connections.",
        Workload::UdpRr => "One byte there, one byte back, in UDP datagrams.",
        Workload::Udp64 => "UDP datagrams of 64 bytes of payload, one way; counted where they arrive.",
        Workload::Udp1400 => "UDP datagrams of 1400 bytes of payload, one way; counted where they arrive.",
        Workload::TcpBulk => "TCP connections that send as much as they can.",
        Workload::TcpCrr => {
            "Connect, one byte there, one byte back, close: nothing here lives long enough to be accelerated."
        }
        Workload::OutsideRr => {
            "Masqueraded request/response to an address outside the cluster: can never be accelerated, and must not pay for it."
        }
    }
}

/// What a reader calls the target.
pub(super) const fn target(target: Target) -> &'static str {
    match target {
        Target::Pod => "pod address",
        Target::Service => "service address",
    }
}

/// What a reader calls the kind of wire.
pub(super) const fn wire(wire: Wire) -> &'static str {
    match wire {
        Wire::Tso => "offloads on",
        Wire::Segments => "offloads off",
    }
}
