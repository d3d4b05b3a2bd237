//! Conversations between two pods, a message at a time. Every message names the tuple that its sender believes in, and
//! every receiver checks it: a packet that arrives where it does not belong is an error, not a delivery.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::libc::linger;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, connect, listen, setsockopt, socket,
    sockopt,
};
use overlay_common::reason::Reason;
use overlay_testbed::{Space, bound};

use crate::bed::{Bed, Counters, SOON};

/// Nothing in a testbed takes longer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of a message's head: number, client, target.
pub(crate) const HEAD: usize = 8 + 6 + 6;

/// A conversation that can be continued by one question and its answer.
pub(crate) trait Talk {
    fn exchange(&mut self) -> Result<()>;

    fn exchanges(&mut self, count: usize) {
        for number in 0..count {
            self.exchange()
                .with_context(|| format!("exchange {number} of {count}"))
                .unwrap();
        }
    }
}

/// What a sender believes: message `number` of the client at `client` that talks to `target`.
pub(crate) fn claim(number: u64, client: SocketAddrV4, target: SocketAddrV4, size: usize) -> Vec<u8> {
    let mut message = number.to_be_bytes().to_vec();
    for end in [client, target] {
        message.extend(end.ip().octets());
        message.extend(end.port().to_be_bytes());
    }
    message.extend((HEAD..size).map(|position| u8::try_from(position % 251).unwrap()));
    message
}

/// A UDP client and the socket that answers it.
pub(crate) struct UdpTalk {
    pub(crate) client: UdpSocket,
    pub(crate) server: UdpSocket,
    pub(crate) from: SocketAddrV4,
    pub(crate) target: SocketAddrV4,
    pub(crate) size: usize,
    next: u64,
}

impl UdpTalk {
    /// The client at `from` sends to `target`; the server listens at `at`, which differs where NAT translates.
    pub(crate) fn open(
        (client, from): (&Space, SocketAddrV4),
        target: SocketAddrV4,
        (server, at): (&Space, SocketAddrV4),
    ) -> Self {
        let server = server.enter(|| Ok(bound(|| UdpSocket::bind(at))?)).unwrap();
        let client = client
            .enter(|| {
                let socket = bound(|| UdpSocket::bind(from))?;
                socket.connect(target)?;
                Ok(socket)
            })
            .unwrap();
        for socket in [&client, &server] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        Self {
            client,
            server,
            from,
            target,
            size: 64,
            next: 0,
        }
    }

    /// With messages of `size` bytes.
    pub(crate) fn of_size(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    /// Throws away what has arrived at either end.
    pub(crate) fn drain(&self) {
        let mut buffer = [0; 1 << 16];
        for socket in [&self.client, &self.server] {
            socket.set_nonblocking(true).unwrap();
            while socket.recv(&mut buffer).is_ok() {}
            socket.set_nonblocking(false).unwrap();
        }
    }

    /// The next question, sent.
    pub(crate) fn ask(&mut self) -> Result<Vec<u8>> {
        let message = claim(self.next, self.from, self.target, self.size);
        self.next += 1;
        self.client.send(&message).context("cannot send the question")?;
        Ok(message)
    }
}

impl Talk for UdpTalk {
    fn exchange(&mut self) -> Result<()> {
        let message = self.ask()?;
        let mut buffer = [0; 1 << 16];
        let (length, client) = self
            .server
            .recv_from(&mut buffer)
            .with_context(|| format!("{} did not get the question to {}", self.from, self.target))?;
        ensure!(
            buffer.get(..length) == Some(&message) && client == SocketAddr::V4(self.from),
            "the server got another question, from {client}: {:?}",
            buffer.get(..length)
        );
        self.server.send_to(&message, client)?;
        let length = self.client.recv(&mut buffer).context("no answer")?;
        ensure!(
            buffer.get(..length) == Some(&message),
            "the client got another answer: {:?}",
            buffer.get(..length)
        );
        Ok(())
    }
}

/// Both ends of a TCP connection.
pub(crate) struct TcpTalk {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
    from: SocketAddrV4,
    target: SocketAddrV4,
    next: u64,
}

/// A listening socket whose address can be taken over from connections that have just ended.
pub(crate) fn listen_at(space: &Space, at: SocketAddrV4) -> TcpListener {
    space
        .enter(|| {
            let fd = socket(
                AddressFamily::Inet,
                SockType::Stream,
                SockFlag::SOCK_CLOEXEC,
                None,
            )?;
            setsockopt(&fd, sockopt::ReuseAddr, &true)?;
            bound(|| Ok(bind(fd.as_raw_fd(), &SockaddrIn::from(at))?))?;
            listen(&fd, Backlog::new(128)?)?;
            Ok(TcpListener::from(fd))
        })
        .unwrap()
}

impl TcpTalk {
    /// Connects from `from` (its port may be in use by a connection that has just ended) to `target`, which `listener`
    /// answers.
    pub(crate) fn open(
        (client, from): (&Space, SocketAddrV4),
        target: SocketAddrV4,
        listener: &TcpListener,
    ) -> Result<Self> {
        let client = client.enter(|| {
            let fd = socket(
                AddressFamily::Inet,
                SockType::Stream,
                SockFlag::SOCK_CLOEXEC,
                None,
            )?;
            setsockopt(&fd, sockopt::ReuseAddr, &true)?;
            setsockopt(&fd, sockopt::SendTimeout, &nix::sys::time::TimeVal::new(3, 0))?;
            bound(|| Ok(bind(fd.as_raw_fd(), &SockaddrIn::from(from))?))
                .context("cannot bind the client's port")?;
            connect(fd.as_raw_fd(), &SockaddrIn::from(target)).context("cannot connect")?;
            Ok(TcpStream::from(fd))
        })?;
        let server = accept(listener, from)?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
        }
        Ok(Self {
            client,
            server,
            from,
            target,
            next: 0,
        })
    }

    /// The next message.
    pub(crate) fn message(&mut self) -> Vec<u8> {
        self.next += 1;
        claim(self.next, self.from, self.target, 64)
    }

    /// Ends the connection as `how` says and waits until both ends know.
    pub(crate) fn end(self, how: Ending) -> Result<()> {
        let read_end = |mut stream: TcpStream| {
            let mut rest = Vec::new();
            std::io::Read::read_to_end(&mut stream, &mut rest).map(|_| rest)
        };
        match how {
            // The server's end keeps TIME_WAIT, so that the client can use its port again at once.
            Ending::Fin => {
                self.server.shutdown(Shutdown::Write)?;
                ensure!(read_end(self.client)?.is_empty(), "data instead of the end");
                ensure!(read_end(self.server)?.is_empty(), "data instead of the end");
            }
            Ending::Reset => {
                let at_once = linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(&self.client, sockopt::Linger, &at_once)?;
                drop(self.client);
                let error = read_end(self.server).err().context("no reset arrived")?;
                ensure!(error.kind() == std::io::ErrorKind::ConnectionReset, "{error}");
            }
        }
        Ok(())
    }
}

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// The server closes, then the client.
    Fin,
    /// The client resets.
    Reset,
}

/// The connection from `from`; others are errors.
fn accept(listener: &TcpListener, from: SocketAddrV4) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, client)) => {
                ensure!(
                    client == SocketAddr::V4(from),
                    "{client} connected instead of {from}"
                );
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(anyhow!(error).context(format!("no connection from {from}"))),
        }
    }
}

impl Talk for TcpTalk {
    fn exchange(&mut self) -> Result<()> {
        use std::io::{Read as _, Write as _};

        let message = self.message();
        let mut buffer = vec![0; message.len()];
        self.client.write_all(&message).context("question")?;
        self.server.read_exact(&mut buffer).context("question")?;
        ensure!(buffer == message, "the server got another question: {buffer:?}");
        self.server.write_all(&message).context("answer")?;
        self.client.read_exact(&mut buffer).context("answer")?;
        ensure!(buffer == message, "the client got another answer: {buffer:?}");
        Ok(())
    }
}

/// Packets of the fast path, out of pods and into pods.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fast {
    pub(crate) from_pods: u64,
    pub(crate) to_pods: u64,
}

impl Fast {
    pub(crate) fn of(grown: &Counters) -> Self {
        let to_pods = [Reason::IngressFast, Reason::ShortcutFast];
        Self {
            from_pods: grown.packets(Reason::EgressFast),
            to_pods: to_pods.map(|reason| grown.packets(reason)).iter().sum(),
        }
    }
}

/// How many packets of `count` exchanges took the fast path of each node.
pub(crate) fn fast_packets(bed: &Bed, talk: &mut impl Talk, count: usize) -> Vec<Fast> {
    let before = bed.counters();
    talk.exchanges(count);
    bed.growth(&before).iter().map(Fast::of).collect()
}

/// Goes on until every packet takes the fast path, both ways, on the nodes of both pods.
pub(crate) fn make_fast(bed: &Bed, talk: &mut impl Talk) {
    const ROUND: usize = 50;
    let start = Instant::now();
    loop {
        let before = bed.counters();
        talk.exchanges(ROUND);
        let grown = bed.growth(&before);
        let all = |fast: Fast| fast.from_pods >= ROUND as u64 && fast.to_pods >= ROUND as u64;
        // A third node, if there is one, has nothing to do with it.
        if grown.iter().take(2).map(Fast::of).all(all) {
            return;
        }
        assert!(
            start.elapsed() < SOON,
            "the flow does not get onto the fast path; counters of {ROUND} exchanges: {grown:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An address in a pod.
pub(crate) const fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}
