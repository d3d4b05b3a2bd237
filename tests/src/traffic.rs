//! Traffic whose every byte and packet is accounted for, between any two [`crate::Space`]s.
//!
//! The endpoints are sockets of this process, opened inside the namespaces. Everything ends within its timeout.

mod payload;
mod ping;
mod tcp;
mod udp;

pub use ping::{PingOptions, PingReport, PingStream, ping};
pub use tcp::{TcpTransfer, TransferReport};
pub use udp::{UdpEcho, UdpReport, UdpStream, UdpTransfer};
