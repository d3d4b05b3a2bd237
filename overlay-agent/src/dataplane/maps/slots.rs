//! The `PEER_STATS` indices that no peer has.

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::Result;

/// Free indices. Taking one and giving one back cost O(log n).
#[derive(Debug)]
pub(super) struct Slots {
    /// Those that a peer may have had.
    used: BTreeSet<u32>,
    /// Those that no peer ever had, for as long as the map has existed.
    unused: Range<u32>,
}

/// A free index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    /// Its statistics are zero.
    Unused(u32),
    /// Its statistics may be somebody's.
    Used(u32),
}

impl Slots {
    /// Of a map that was created just now.
    pub(super) const fn unused(count: u32) -> Self {
        Self {
            used: BTreeSet::new(),
            unused: 0..count,
        }
    }

    /// Of a map that has been in use: those that are not `taken`.
    pub(super) fn except(count: u32, taken: impl Iterator<Item = Result<u32>>) -> Result<Self> {
        let mut used: BTreeSet<u32> = (0..count).collect();
        for slot in taken {
            used.remove(&slot?);
        }
        Ok(Self { used, unused: 0..0 })
    }

    pub(super) fn take(&mut self) -> Option<Slot> {
        let used = self.used.pop_first().map(Slot::Used);
        used.or_else(|| self.unused.next().map(Slot::Unused))
    }

    pub(super) fn give_back(&mut self, slot: u32) {
        self.used.insert(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_back_is_taken_first_and_counts_as_used() {
        let mut slots = Slots::unused(3);
        assert_eq!(slots.take(), Some(Slot::Unused(0)));
        assert_eq!(slots.take(), Some(Slot::Unused(1)));
        slots.give_back(0);
        assert_eq!(slots.take(), Some(Slot::Used(0)));
        assert_eq!(slots.take(), Some(Slot::Unused(2)));
        assert_eq!(slots.take(), None);
        slots.give_back(1);
        assert_eq!(slots.take(), Some(Slot::Used(1)));
    }

    #[test]
    fn nothing_is_known_of_the_free_ones_of_an_old_map() {
        let mut slots = Slots::except(4, [0, 2].into_iter().map(Ok)).unwrap();
        assert_eq!(slots.take(), Some(Slot::Used(1)));
        assert_eq!(slots.take(), Some(Slot::Used(3)));
        assert_eq!(slots.take(), None);
    }
}
