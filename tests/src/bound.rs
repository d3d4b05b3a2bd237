//! Opening a socket at an address whose last socket has just been closed.

use std::io::{self, ErrorKind};
use std::thread;
use std::time::{Duration, Instant};

/// How long a process that is being started may keep copies of our sockets; on a busy machine it waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(1);

/// What `bind` opens, tried again for a while where the address is in use.
///
/// A process that any thread starts has copies of all sockets until it executes its program (`O_CLOEXEC`), so an
/// address can stay in use after its socket was closed.
///
/// # Errors
///
/// Those of `bind`; `AddrInUse` only after five seconds.
pub fn bound<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Opens and closes a socket at one address often, while other threads start processes.
    fn reopen<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<()> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        Command::new("true").status().unwrap();
                    }
                });
            }
            let result = (0..5000).try_for_each(|_| bind().map(drop));
            done.store(true, Ordering::Relaxed);
            result
        })
    }

    /// Seen red without the repetition.
    #[test]
    fn an_address_is_free_soon_after_its_socket_is_closed() {
        let address = UdpSocket::bind("127.0.0.98:0").unwrap().local_addr().unwrap();
        let listen = || TcpListener::bind(address);
        let receive = || UdpSocket::bind(address);
        reopen(|| bound(listen)).unwrap();
        reopen(|| bound(receive)).unwrap();
    }

    #[test]
    fn other_errors_come_at_once() {
        let started = Instant::now();
        let error = bound(|| UdpSocket::bind("203.0.113.1:4998")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        assert!(started.elapsed() < PATIENCE);
    }
}
