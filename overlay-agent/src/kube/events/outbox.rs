//! What is reported next: each notice once for as long as it holds, and never many at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::notice::{Notice, summary};

/// At most this many requests in [`WINDOW`]; when more is to be said, the last one sums up the rest.
pub(super) const BUDGET: usize = 10;
/// The time that [`BUDGET`] is for.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// API servers forget events after an hour (`--event-ttl`): what still holds is said again before that.
pub(super) const RENEW: Duration = Duration::from_secs(30 * 60);

/// What has been said, and when.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    said: BTreeMap<Notice, Option<Said>>,
    /// When requests were made, the latest last.
    sent: VecDeque<Instant>,
}

/// How often a notice of its own was sent. What was only part of a summary has none.
#[derive(Clone, Copy, Debug)]
struct Said {
    times: u32,
    last: Instant,
}

/// What to do next.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Report this, for the `times`th time.
    Send {
        /// What to report.
        notice: Notice,
        /// 1 is the first time.
        times: u32,
        /// What it stands for, when it is a summary.
        instead_of: Vec<Notice>,
    },
    /// Nothing before this, unless something changes.
    Wait(Option<Instant>),
}

impl Outbox {
    /// What to do, when `current` is what holds now.
    pub(super) fn next(&mut self, current: &BTreeSet<Notice>, now: Instant) -> Next {
        self.said.retain(|notice, _| current.contains(notice));
        while self.sent.front().is_some_and(|sent| *sent + WINDOW <= now) {
            self.sent.pop_front();
        }
        let room = BUDGET.saturating_sub(self.sent.len());
        let new: Vec<_> = current
            .iter()
            .filter(|notice| !self.said.contains_key(*notice))
            .collect();
        let renewal = self
            .said
            .iter()
            .filter_map(|(notice, said)| said.map(|said| (said.last + RENEW, notice, said.times)))
            .min();
        match (new.as_slice(), renewal) {
            ([], None) => Next::Wait(None),
            ([], Some((due, ..))) if due > now => Next::Wait(Some(due)),
            (_, _) if room == 0 => Next::Wait(self.sent.front().map(|sent| *sent + WINDOW)),
            ([], Some((_, notice, times))) => Next::Send {
                notice: notice.clone(),
                times: times.saturating_add(1),
                instead_of: Vec::new(),
            },
            (rest, _) if rest.len() > room && room == 1 => Next::Send {
                notice: summary(rest.len()),
                times: 1,
                instead_of: rest.iter().copied().cloned().collect(),
            },
            ([first, ..], _) => Next::Send {
                notice: (*first).clone(),
                times: 1,
                instead_of: Vec::new(),
            },
        }
    }

    /// A request was made, whatever came of it.
    pub(super) fn spent(&mut self, now: Instant) {
        self.sent.push_back(now);
    }

    /// What [`Outbox::next`] gave was reported.
    pub(super) fn reported(&mut self, notice: Notice, times: u32, instead_of: Vec<Notice>, now: Instant) {
        if instead_of.is_empty() {
            self.said.insert(notice, Some(Said { times, last: now }));
        }
        for part in instead_of {
            self.said.insert(part, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(number: usize) -> Notice {
        Notice {
            reason: "Reason",
            message: format!("{number:03}"),
        }
    }

    /// Sends what may be sent now; the messages.
    fn send(outbox: &mut Outbox, current: &BTreeSet<Notice>, now: Instant) -> Vec<String> {
        let mut messages = Vec::new();
        while let Next::Send {
            notice,
            times,
            instead_of,
        } = outbox.next(current, now)
        {
            outbox.spent(now);
            messages.push(format!("{}#{times}", notice.message));
            outbox.reported(notice, times, instead_of, now);
        }
        messages
    }

    #[tokio::test(start_paused = true)]
    async fn once_per_change() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let one = BTreeSet::from([notice(1)]);
        assert_eq!(send(&mut outbox, &one, now), ["001#1"]);
        assert_eq!(outbox.next(&one, now), Next::Wait(Some(now + RENEW)));
        assert_eq!(outbox.next(&BTreeSet::new(), now), Next::Wait(None));
        assert_eq!(send(&mut outbox, &one, now), ["001#1"], "it came back");
    }

    #[tokio::test(start_paused = true)]
    async fn what_still_holds_is_said_again_before_it_is_forgotten() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let one = BTreeSet::from([notice(1)]);
        send(&mut outbox, &one, now);
        assert_eq!(send(&mut outbox, &one, now + RENEW), ["001#2"]);
        assert_eq!(send(&mut outbox, &one, now + RENEW), Vec::<String>::new());
        assert_eq!(send(&mut outbox, &one, now + RENEW * 2), ["001#3"]);
    }

    /// Seen red with a BUDGET of 11.
    #[tokio::test(start_paused = true)]
    async fn many_are_summed_up() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let many: BTreeSet<_> = (0..300).map(notice).collect();
        let messages = send(&mut outbox, &many, now);
        assert_eq!(messages.len(), 10);
        assert_eq!(messages[0], "000#1");
        assert!(messages[9].starts_with("291 more conflicts"), "{}", messages[9]);
        let mut more = many.clone();
        more.insert(notice(300));
        assert_eq!(outbox.next(&more, now), Next::Wait(Some(now + WINDOW)));
        assert_eq!(send(&mut outbox, &more, now + WINDOW), ["300#1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_that_fail_count_as_well() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let one = BTreeSet::from([notice(1)]);
        for _ in 0..BUDGET {
            assert!(matches!(outbox.next(&one, now), Next::Send { .. }));
            outbox.spent(now);
        }
        assert_eq!(outbox.next(&one, now), Next::Wait(Some(now + WINDOW)));
    }
}
