//! Which notifications our own requests cause, so that they do not make the agent look at everything.
//!
//! Most notifications name the socket whose request was their cause: `nlmsg_pid` of a route's and of a set neighbour's is
//! its port (`rtmsg_fib`, `neigh_update_notify`). Some do not: those of the forwarding database of a VXLAN device
//! (`vxlan_fdb_notify`), and the last one of a neighbour that is removed (`neigh_cleanup_and_release`) carry 0. What they
//! will say is noted right before the request is sent ([`Notice`]) and each note is good for one notification. Somebody
//! else's change of the same object says something else, or comes once more than was noted.
//!
//! The kernel queues notifications before it answers the request. So a note whose request has been answered is
//! worthless once the queue has been seen empty, and goes then.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use overlay_core::model::MacAddr;

/// Notes that are kept at most; what is beyond is taken for somebody else's change.
const MAX_NOTES: usize = 100_000;

/// What a notification without a port says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Notice {
    /// The device.
    pub(super) ifindex: u32,
    pub(super) change: Change,
}

/// The change that a notification without a port tells of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Change {
    /// A permanent forwarding entry has this destination, and nothing else of its own.
    FdbSet { mac: MacAddr, destination: IpAddr },
    /// It no longer has.
    FdbRemoved { mac: MacAddr, destination: IpAddr },
    /// There is no neighbour of this address any more.
    NeighbourRemoved(IpAddr),
}

/// The requests of one socket, told to everybody who listens.
#[derive(Default)]
pub(super) struct Sender {
    listeners: Mutex<Vec<Weak<Mutex<Notes>>>>,
}

/// What one listener has to know of our requests.
pub(super) struct Listener(Arc<Mutex<Notes>>);

#[derive(Default)]
struct Notes {
    /// Port of the socket that sends requests.
    port: Option<u32>,
    /// Number of the last datagram of requests.
    sent: u64,
    /// Number of the last one that was answered.
    answered: u64,
    expected: BTreeMap<Notice, Note>,
}

/// How many such notifications are to come, and the last datagram that causes one.
struct Note {
    count: u32,
    datagram: u64,
}

impl Sender {
    /// Somebody who wants to know from now on.
    pub(super) fn listener(&self) -> Listener {
        let listener = Listener(Arc::default());
        lock(&self.listeners).push(Arc::downgrade(&listener.0));
        listener
    }

    /// A datagram of requests is about to be sent from `port`, which will cause these notifications.
    pub(super) fn sending(&self, port: u32, notices: impl Iterator<Item = Notice> + Clone) {
        self.each(|notes| {
            notes.port = Some(port);
            notes.sent = notes.sent.wrapping_add(1);
            let datagram = notes.sent;
            for notice in notices.clone() {
                if notes.expected.len() >= MAX_NOTES {
                    return;
                }
                let note = notes
                    .expected
                    .entry(notice)
                    .or_insert(Note { count: 0, datagram });
                note.count = note.count.saturating_add(1);
                note.datagram = datagram;
            }
        });
    }

    /// The datagram was answered; these notifications will not come, because their requests were refused.
    pub(super) fn answered(&self, refused: impl Iterator<Item = Notice> + Clone) {
        self.each(|notes| {
            notes.answered = notes.sent;
            for notice in refused.clone() {
                notes.take(notice);
            }
        });
    }

    fn each(&self, mut tell: impl FnMut(&mut Notes)) {
        lock(&self.listeners).retain(|listener| {
            let Some(notes) = listener.upgrade() else {
                return false;
            };
            tell(&mut lock(&notes));
            true
        });
    }
}

impl Listener {
    /// The port of the socket that sends requests, once there was one.
    pub(super) fn port(&self) -> Option<u32> {
        lock(&self.0).port
    }

    /// Whether a notification that names this port was caused by us.
    pub(super) fn is_own(&self, port: u32) -> bool {
        port != 0 && lock(&self.0).port == Some(port)
    }

    /// Whether a notification that names no port was caused by us. It is, once for each note.
    pub(super) fn was_expected(&self, notice: Notice) -> bool {
        lock(&self.0).take(notice)
    }

    /// The datagrams whose notifications are all in the queue.
    pub(super) fn answered(&self) -> u64 {
        lock(&self.0).answered
    }

    /// The queue was empty after `answered` had been asked for: nothing that those datagrams caused is still to come.
    pub(super) fn settle(&self, answered: u64) {
        let mut notes = lock(&self.0);
        if !notes.expected.is_empty() {
            notes.expected.retain(|_, note| note.datagram > answered);
        }
    }

    /// Notifications were lost, nobody knows which.
    pub(super) fn lost(&self) {
        lock(&self.0).expected.clear();
    }
}

impl Notes {
    fn take(&mut self, notice: Notice) -> bool {
        let Some(note) = self.expected.get_mut(&notice) else {
            return false;
        };
        note.count = note.count.saturating_sub(1);
        if note.count == 0 {
            self.expected.remove(&notice);
        }
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(last: u8) -> Notice {
        Notice {
            ifindex: 7,
            change: Change::NeighbourRemoved([10, 0, 0, last].into()),
        }
    }

    #[test]
    fn a_note_is_good_for_one_notification() {
        let sender = Sender::default();
        let listener = sender.listener();
        sender.sending(5, [notice(1), notice(2), notice(2)].into_iter());
        assert!(listener.is_own(5) && !listener.is_own(6) && !listener.is_own(0));
        assert!(listener.was_expected(notice(1)));
        assert!(!listener.was_expected(notice(1)), "somebody else's");
        assert!(listener.was_expected(notice(2)) && listener.was_expected(notice(2)));
        assert!(!listener.was_expected(notice(2)));
    }

    #[test]
    fn what_was_refused_is_not_expected() {
        let sender = Sender::default();
        let listener = sender.listener();
        sender.sending(5, [notice(1), notice(2)].into_iter());
        sender.answered([notice(1)].into_iter());
        assert!(!listener.was_expected(notice(1)));
        assert!(listener.was_expected(notice(2)));
    }

    #[test]
    fn notes_go_when_the_queue_was_empty_after_the_answer() {
        let sender = Sender::default();
        let listener = sender.listener();
        let before = listener.answered();
        sender.sending(5, [notice(1)].into_iter());
        sender.answered([].into_iter());
        // The queue was looked at before the request: it may have been sent since.
        listener.settle(before);
        assert!(listener.was_expected(notice(1)));
        sender.sending(5, [notice(1)].into_iter());
        listener.settle(listener.answered());
        assert!(listener.was_expected(notice(1)), "not answered yet");
        sender.sending(5, [notice(1)].into_iter());
        sender.answered([].into_iter());
        listener.settle(listener.answered());
        assert!(!listener.was_expected(notice(1)));
    }

    #[test]
    fn memory_is_bounded_and_listeners_go() {
        let sender = Sender::default();
        let listener = sender.listener();
        let many = (0..200_000).map(|ifindex| Notice { ifindex, ..notice(1) });
        sender.sending(5, many);
        assert_eq!(lock(&listener.0).expected.len(), MAX_NOTES);
        drop(listener);
        sender.sending(5, [notice(1)].into_iter());
        assert!(lock(&sender.listeners).is_empty());
    }
}
