//! The `PEER_STATS` indices that peers have, as a look at everything found them: who writes entries after a restart need
//! not read all of `PEERS` in the middle of the first change.
//!
//! A look takes time, and on a thread of its own. What it found is good only for whoever has not given an index back
//! meanwhile; new ones are not handed out without knowing the others.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Device and inode of the pin of `PEERS`.
pub(super) type Pin = (u64, u64);

/// Shared by the one who looks and the one who writes.
#[derive(Clone, Default)]
pub(in crate::dataplane) struct Seen(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    /// Nobody has looked yet.
    #[default]
    Wanted,
    Found(Pin, Vec<u32>),
    /// The writer knows better.
    NotNeeded,
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seen").finish_non_exhaustive()
    }
}

impl Seen {
    /// These indices were in use in the map of this pin.
    pub(super) fn found(&self, pin: Pin, taken: Vec<u32>) {
        let mut state = self.state();
        if matches!(*state, State::Wanted) {
            *state = State::Found(pin, taken);
        }
    }

    /// Those in use, if they were found in the map of this pin. Once.
    pub(super) fn take(&self, pin: Pin) -> Option<Vec<u32>> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Wanted) {
            State::Found(of, taken) => {
                *state = State::NotNeeded;
                (of == pin).then_some(taken)
            }
            before @ (State::Wanted | State::NotNeeded) => {
                *state = before;
                None
            }
        }
    }

    /// What is being found may be wrong.
    pub(super) fn not_needed(&self) {
        *self.state() = State::NotNeeded;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_good_once_and_for_its_map() {
        let seen = Seen::default();
        assert_eq!(seen.take((1, 2)), None);
        seen.clone().found((1, 2), vec![3]);
        assert_eq!(seen.take((1, 2)), Some(vec![3]));
        seen.found((1, 2), vec![4]);
        assert_eq!(seen.take((1, 2)), None);
        let other = Seen::default();
        other.found((1, 2), vec![3]);
        assert_eq!((other.take((1, 9)), other.take((1, 2))), (None, None));
    }

    #[test]
    fn a_look_that_began_before_an_index_was_given_back_is_not_used() {
        let seen = Seen::default();
        seen.not_needed();
        seen.found((1, 2), vec![3]);
        assert_eq!(seen.take((1, 2)), None);
    }
}
