//! What is measured, how often.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::peers::MOST;

/// Changes per second of other nodes under [`super::result::Load::Churn`].
pub(super) const CHURN: u32 = 100;

/// Sizes and numbers of samples.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    /// Sizes of the cluster, ascending.
    pub(super) sizes: Vec<u32>,
    /// Peers that leave and join again, for each load.
    pub(super) samples: u32,
    /// From one patch to the next, at least.
    pub(super) pace: Duration,
    quick: bool,
}

impl Plan {
    /// The usual plan, or that of `--quick`; `sizes` are the usual ones when empty.
    pub(super) fn new(quick: bool, sizes: &[u32]) -> Result<Self> {
        let mut sizes = match (sizes, quick) {
            ([], true) => vec![1_000, 5_000],
            ([], false) => vec![1_000, 5_000, 15_000],
            (given, _) => given.to_vec(),
        };
        sizes.sort_unstable();
        sizes.dedup();
        for size in &sizes {
            // Half of them are measured; the others are shared by the threads that churn.
            ensure!(
                (10..=MOST).contains(size),
                "a cluster of {size} nodes is not in 10..={MOST}"
            );
        }
        Ok(Self {
            sizes,
            samples: if quick { 50 } else { 300 },
            pace: Duration::from_millis(20),
            quick,
        })
    }

    /// How often the agent is started on a clean node.
    pub(super) fn starts(&self, nodes: u32) -> u32 {
        match (self.quick, nodes) {
            (false, ..=1_000) => 5,
            _ => 3,
        }
    }

    /// How often the agent is started again where everything is in place.
    pub(super) fn restarts(&self) -> u32 {
        3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_order_and_possible() {
        assert_eq!(Plan::new(false, &[]).unwrap().sizes, [1_000, 5_000, 15_000]);
        assert_eq!(Plan::new(true, &[]).unwrap().sizes, [1_000, 5_000]);
        assert_eq!(Plan::new(true, &[5_000, 100, 5_000]).unwrap().sizes, [100, 5_000]);
        assert!(Plan::new(false, &[9]).is_err() && Plan::new(false, &[16_001]).is_err());
    }

    #[test]
    fn percentiles_have_enough_samples() {
        let plan = Plan::new(false, &[]).unwrap();
        assert!(plan.samples >= 300 && plan.starts(1_000) >= 5 && plan.starts(15_000) >= 3);
    }
}
