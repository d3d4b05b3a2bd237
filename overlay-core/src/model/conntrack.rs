//! What connection tracking must be told, because it does not see the packets of the fast path.

use std::fmt;

/// A parameter of `net.netfilter` that the fast path needs to be 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum ConntrackParameter {
    /// Packets outside of the TCP window that connection tracking knows are no invalid packets: it has not seen the
    /// packets in between.
    BeLiberal,
    /// Nor are resets whose sequence number it does not expect (Linux 5.14).
    IgnoreInvalidRst,
}

impl ConntrackParameter {
    /// Every parameter.
    pub const ALL: [Self; 2] = [Self::BeLiberal, Self::IgnoreInvalidRst];

    /// What the fast path needs.
    pub const WANTED: u32 = 1;

    /// Its file in `/proc/sys/net/netfilter`.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Self::BeLiberal => "nf_conntrack_tcp_be_liberal",
            Self::IgnoreInvalidRst => "nf_conntrack_tcp_ignore_invalid_rst",
        }
    }
}

/// As `sysctl` names it.
impl fmt::Display for ConntrackParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net.netfilter.{}", self.file())
    }
}
