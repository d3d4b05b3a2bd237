//! Being told of changes in the kernel: one socket for some multicast groups, one datagram at a time.

use std::future::poll_fn;
use std::io;

use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::MulticastGroup;
use rtnetlink::proto::sys::{AsyncSocket as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};

/// Room for one datagram in bytes: the kernel sends notifications of at most 32 KiB.
pub(crate) const DATAGRAM: usize = 64 << 10;

/// Subscribes to `groups` in the network namespace of the calling thread, with room for `receive_buffer` bytes. Needs a
/// tokio runtime.
pub(crate) fn subscribe(groups: &[MulticastGroup], receive_buffer: usize) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let groups = groups
        .iter()
        .fold(0, |groups, &group| groups | 1 << (group as u32 - 1));
    let inner = socket.socket_mut();
    // Beyond net.core.rmem_max, as far as the agent is allowed to; what does not fit is reported as lost.
    if setsockopt(inner, sockopt::RcvBufForce, &receive_buffer).is_err() {
        setsockopt(inner, sockopt::RcvBuf, &receive_buffer)?;
    }
    inner.bind(&SocketAddr::new(0, groups))?;
    Ok(socket)
}

/// Reads one datagram into the buffer.
pub(crate) async fn receive(socket: &TokioSocket, buffer: &mut Vec<u8>) -> io::Result<SocketAddr> {
    poll_fn(|cx| {
        buffer.clear();
        socket.poll_recv_from(cx, buffer)
    })
    .await
}
