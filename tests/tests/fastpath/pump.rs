//! Packets that keep coming, whatever becomes of them.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Sends the same datagram again and again, until dropped.
pub(crate) struct Pump {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    /// Sends `message` by the connected `socket` every `interval`.
    pub(crate) fn start(socket: &UdpSocket, message: Vec<u8>, interval: Duration) -> Self {
        let socket = socket.try_clone().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // An ICMP error of an earlier datagram shows here; the next one is sent all the same.
                socket.send(&message).ok();
                thread::sleep(interval);
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic would show in what did not arrive.
            thread.join().ok();
        }
    }
}
