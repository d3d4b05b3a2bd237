//! Packets held back inside a node's stack: an `NFQUEUE` target, and who lets them go, late and out of order.

use std::collections::BinaryHeap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
    socket, sockopt,
};
use overlay_testbed::Node;

/// Number of the queue, in `-j NFQUEUE --queue-num`.
const QUEUE: u16 = 5;
/// include/uapi/linux/netfilter/nfnetlink_queue.h, in the upper byte the subsystem NFNL_SUBSYS_QUEUE.
const MESSAGE_PACKET: u16 = 3 << 8;
const MESSAGE_VERDICT: u16 = 3 << 8 | 1;
const MESSAGE_CONFIG: u16 = 3 << 8 | 2;
const CONFIG_COMMAND: u16 = 1;
const CONFIG_PARAMETERS: u16 = 2;
const CONFIG_MAX_LENGTH: u16 = 3;
const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
/// NLM_F_REQUEST; with NLM_F_ACK.
const REQUEST: u16 = 1;
const WITH_ANSWER: u16 = 5;
/// Netlink header and nfgenmsg.
const HEAD: usize = 16 + 4;

/// Holds the packets that rules send to the queue, each for its own time, until dropped.
pub(crate) struct Hold {
    stop: Arc<AtomicBool>,
    held: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
    node: Node,
    rule: String,
}

impl Hold {
    /// Holds forwarded packets of `node` that `matches` (iptables) for up to `longest`.
    pub(crate) fn start(node: &Node, matches: &str, longest: Duration) -> Self {
        let socket = node.space().enter(open).unwrap();
        let (stop, held) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&held));
        let thread = thread::spawn(move || serve(&socket, longest, &stopped, &counted));
        let rule = format!("FORWARD {matches} -j NFQUEUE --queue-num {QUEUE} --queue-bypass");
        node.run(&format!("iptables -I {rule}")).unwrap();
        Self {
            stop,
            held,
            thread: Some(thread),
            node: node.clone(),
            rule,
        }
    }

    /// How many packets have been held.
    pub(crate) fn count(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Err(error) = self.node.run(&format!("iptables -D {}", self.rule)) {
            eprintln!("{error:#}");
        }
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("held packets: {error:#}");
        }
    }
}

fn open() -> Result<OwnedFd> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    setsockopt(&netlink, sockopt::RcvBufForce, &(64 << 20))?;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    // Bind (1), no family; then metadata only (1), 0 bytes of the packet.
    configure(&netlink, CONFIG_COMMAND, &[1, 0, 0, 0])?;
    configure(&netlink, CONFIG_PARAMETERS, &[0, 0, 0, 0, 1])?;
    configure(&netlink, CONFIG_MAX_LENGTH, &100_000_u32.to_be_bytes())?;
    Ok(netlink)
}

fn configure(netlink: &OwnedFd, attribute: u16, value: &[u8]) -> Result<()> {
    send(netlink, MESSAGE_CONFIG, WITH_ANSWER, attribute, value)?;
    let mut answer = [0; 4096];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // NLMSG_ERROR: the error number follows the header.
    let error = answer
        .get(16..20)
        .filter(|_| length >= 20)
        .context("short answer")?;
    ensure!(
        error == [0; 4],
        "the kernel refuses NFQUEUE attribute {attribute}: {error:?}"
    );
    Ok(())
}

fn send(netlink: &OwnedFd, kind: u16, flags: u16, attribute: u16, value: &[u8]) -> Result<()> {
    let padded = value.len().next_multiple_of(4);
    let length = HEAD + 4 + padded;
    let mut message = u32::try_from(length)?.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0, 0]);
    message.extend(QUEUE.to_be_bytes());
    message.extend(u16::try_from(4 + value.len())?.to_ne_bytes());
    message.extend(attribute.to_ne_bytes());
    message.extend(value);
    message.resize(length, 0);
    sendto(
        netlink.as_raw_fd(),
        &message,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    Ok(())
}

/// A packet and when it goes on; the first to go is the greatest.
type Held = (std::cmp::Reverse<Instant>, [u8; 4]);

fn serve(netlink: &OwnedFd, longest: Duration, stop: &AtomicBool, count: &AtomicU64) -> Result<()> {
    let mut waiting: BinaryHeap<Held> = BinaryHeap::new();
    let mut buffer = vec![0; 1 << 16];
    // xorshift64: any spread will do.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        match recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
                for id in packets(buffer.get(..length).unwrap_or_default()) {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let share = u32::try_from(random % 1024)?;
                    waiting.push((std::cmp::Reverse(Instant::now() + longest * share / 1024), id));
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(Errno::EAGAIN) if stopping && waiting.is_empty() => return Ok(()),
            Err(Errno::EAGAIN) => thread::sleep(Duration::from_micros(500)),
            Err(error) => return Err(error).context("NFQUEUE"),
        }
        let now = Instant::now();
        while let Some((std::cmp::Reverse(due), id)) = waiting.peek().copied() {
            if due > now && !stopping {
                break;
            }
            waiting.pop();
            // NF_ACCEPT.
            let verdict = [1_u32.to_be_bytes(), id].concat();
            send(netlink, MESSAGE_VERDICT, REQUEST, VERDICT_HEADER, &verdict)?;
        }
    }
}

/// Identifiers of the packets that `messages` announce.
fn packets(mut messages: &[u8]) -> Vec<[u8; 4]> {
    let mut found = Vec::new();
    while let Some(length) = messages.first_chunk().map(|length| u32::from_ne_bytes(*length)) {
        let length = usize::try_from(length).unwrap_or_default();
        let Some(message) = messages.get(..length).filter(|message| message.len() >= HEAD) else {
            break;
        };
        if message[4..6] == MESSAGE_PACKET.to_ne_bytes() {
            found.extend(packet_id(&message[HEAD..]));
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The identifier in the attributes of a packet's message.
fn packet_id(mut attributes: &[u8]) -> Option<[u8; 4]> {
    while let Some(head) = attributes.first_chunk::<4>() {
        let [l0, l1, k0, k1] = *head;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        if u16::from_ne_bytes([k0, k1]) == PACKET_HEADER {
            return attributes.get(4..8)?.try_into().ok();
        }
        attributes = attributes.get(length.next_multiple_of(4).max(4)..)?;
    }
    None
}
