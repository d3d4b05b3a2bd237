//! Many changes to a datagram, and what became of each.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::libc::MSG_DONTWAIT;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer, NetlinkMessage, parse_i32,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::Socket;

use super::open;

/// Requests in one datagram. Their acknowledgements (under 1 KiB of socket memory each) must fit the default receive
/// buffer (208 KiB) together: the kernel drops those that do not.
const DATAGRAM: usize = 128;

/// An acknowledgement is 36 bytes, and the kernel's own words are not asked for.
const ANSWER: usize = 4096;

/// A change, and flags such as `NLM_F_CREATE`.
pub(crate) type Change = (RouteNetlinkMessage, u16);

/// A socket for changes.
#[derive(Debug)]
pub(crate) struct Batch {
    socket: Socket,
    port: u32,
    sequence: u32,
}

impl Batch {
    /// Opens a socket in the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Self> {
        let (socket, port) = open()?;
        socket
            .set_cap_ack(true)
            .context("cannot ask the kernel for short acknowledgements")?;
        Ok(Self {
            socket,
            port,
            sequence: 0,
        })
    }

    /// What notifications of our changes carry as the port of their cause (`nlmsg_pid`).
    pub(crate) const fn port(&self) -> u32 {
        self.port
    }

    /// Makes the changes in order and says what the kernel answered to each: a refusal does not keep it from those that
    /// follow.
    ///
    /// # Errors
    ///
    /// When it is unknown what the kernel did; the socket must not be used again.
    pub(crate) fn change(&mut self, changes: Vec<Change>) -> Result<Vec<Result<(), Errno>>> {
        let mut results = Vec::with_capacity(changes.len());
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let (mut datagram, mut sequences) = (Vec::new(), Vec::new());
            for (message, flags) in changes.by_ref().take(DATAGRAM) {
                self.sequence = self.sequence.wrapping_add(1);
                sequences.push(self.sequence);
                append(&mut datagram, message, flags, self.sequence);
            }
            self.socket
                .send(&datagram, 0)
                .context("cannot send netlink requests")?;
            let mut answers = BTreeMap::new();
            while answers.len() < sequences.len() {
                self.receive(&mut answers)?;
            }
            for sequence in sequences {
                let answer = answers.remove(&sequence);
                results.push(answer.ok_or_else(|| anyhow!("a netlink answer is to no request of ours"))?);
            }
        }
        Ok(results)
    }

    /// The kernel has carried out everything, and answered, before `send` returns.
    fn receive(&self, answers: &mut BTreeMap<u32, Result<(), Errno>>) -> Result<()> {
        let mut datagram = Vec::with_capacity(ANSWER);
        self.socket
            .recv(&mut datagram, MSG_DONTWAIT)
            .context("a netlink answer is missing")?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let answer = NetlinkBuffer::new_checked(rest)?;
            if answer.message_type() == NLMSG_ERROR {
                let code = answer
                    .payload()
                    .get(..4)
                    .context("a netlink error without a code")?;
                let result = match parse_i32(code)? {
                    0 => Ok(()),
                    code => Err(Errno::from_raw(code.saturating_neg())),
                };
                answers.insert(answer.sequence_number(), result);
            }
            let next = usize::try_from(answer.length())?.next_multiple_of(4);
            rest = rest.get(next..).unwrap_or_default();
        }
        Ok(())
    }
}

fn append(datagram: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut packet = NetlinkMessage::from(message);
    packet.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    packet.header.sequence_number = sequence;
    packet.finalize();
    let start = datagram.len();
    datagram.resize(start + packet.buffer_len(), 0);
    if let Some(room) = datagram.get_mut(start..) {
        packet.serialize(room);
    }
    datagram.resize(datagram.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::tc::TcMessage;

    use super::*;

    /// Asked without the right to change anything, or about a device that nobody has: refused, one by one.
    #[test]
    fn every_request_has_an_answer_of_its_own() {
        let mut batch = Batch::open().unwrap();
        assert_ne!(batch.port(), 0);
        let about = |index| {
            (
                RouteNetlinkMessage::NewQueueDiscipline(TcMessage::with_index(index)),
                0,
            )
        };
        for count in [0, 1, 2 * DATAGRAM + 1] {
            let answers = batch
                .change((0..count).map(|_| about(i32::MAX)).collect())
                .unwrap();
            assert_eq!(answers.len(), count);
            for answer in answers {
                assert!(matches!(answer, Err(Errno::ENODEV | Errno::EPERM)), "{answer:?}");
            }
        }
    }

    #[test]
    fn requests_begin_at_multiples_of_four() {
        let mut datagram = Vec::new();
        for sequence in 1..=3 {
            let message = RouteNetlinkMessage::NewQueueDiscipline(TcMessage::with_index(1));
            append(&mut datagram, message, 0, sequence);
            assert_eq!(datagram.len() % 4, 0);
        }
    }
}
