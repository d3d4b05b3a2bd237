//! Other nodes that come and go meanwhile.

use std::collections::VecDeque;

use super::peers::Peer;

/// How many nodes are away at a time: with a few dozen changes per second each is for about a second.
const AWAY: usize = 12;

/// Nodes that cease to be peers and become peers again, in turn.
#[derive(Debug)]
pub(super) struct Turns {
    at_home: VecDeque<Peer>,
    away: VecDeque<Peer>,
}

/// What happens to a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    Leaves(Peer),
    Joins(Peer),
}

impl Turns {
    /// `peers` are at home.
    pub(super) fn new(peers: impl Iterator<Item = Peer>) -> Self {
        Self {
            at_home: peers.collect(),
            away: VecDeque::new(),
        }
    }

    /// The next change; none if there are no nodes.
    pub(super) fn next(&mut self) -> Option<Turn> {
        // A small cluster must not lose all of its nodes.
        let enough = self.away.len() >= AWAY || self.away.len() > self.at_home.len();
        if !enough && let Some(peer) = self.at_home.pop_front() {
            self.away.push_back(peer);
            return Some(Turn::Leaves(peer));
        }
        self.come_home()
    }

    /// Brings one back; none when all are at home.
    pub(super) fn come_home(&mut self) -> Option<Turn> {
        let peer = self.away.pop_front()?;
        self.at_home.push_back(peer);
        Some(Turn::Joins(peer))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everyone_takes_turns_and_comes_home() {
        for count in [0, 1, 2, 20, 1_000] {
            let mut turns = Turns::new(Peer::first(count));
            let (mut away, mut left) = (BTreeSet::new(), BTreeSet::new());
            for _ in 0..4 * count {
                match turns.next().unwrap() {
                    Turn::Leaves(peer) => {
                        assert!(away.insert(peer));
                        left.insert(peer);
                    }
                    Turn::Joins(peer) => assert!(away.remove(&peer)),
                }
                assert!(away.len() <= AWAY);
            }
            while let Some(turn) = turns.come_home() {
                let Turn::Joins(peer) = turn else {
                    panic!("{turn:?}")
                };
                assert!(away.remove(&peer));
            }
            assert!(away.is_empty());
            assert_eq!(left.len(), count as usize, "everyone has left once");
        }
    }
}
