//! Medians and percentiles.

use serde::{Deserialize, Serialize};

/// What many samples come to.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The smallest that at least 99 % of the samples do not exceed; of fewer than 100 it is the largest.
    pub p99: f64,
    /// Smallest sample.
    pub min: f64,
    /// Largest sample.
    pub max: f64,
    /// How many there were.
    pub samples: usize,
}

/// Summary of `samples`; none of nothing.
#[must_use]
pub fn summary(samples: &[f64]) -> Option<Summary> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    // Nearest rank, counted from 1: the smallest whole number that is not less than 99 % of them.
    let rank = (sorted.len() * 99).div_ceil(100);
    Some(Summary {
        median: lower.midpoint(upper),
        p99: *sorted.get(rank.checked_sub(1)?)?,
        min,
        max,
        samples: sorted.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_percentile_is_a_sample() {
        let of = |count: u32| summary(&(1..=count).map(f64::from).collect::<Vec<_>>()).unwrap();
        let p99 = [1, 2, 99, 100, 101, 200, 300, 1_000].map(|count| of(count).p99);
        assert_eq!(p99, [1.0, 2.0, 99.0, 99.0, 100.0, 198.0, 297.0, 990.0]);
    }

    #[test]
    fn of_odd_even_unsorted_and_no_samples() {
        let Summary {
            median,
            p99,
            min,
            max,
            samples,
        } = summary(&[3.0, -1.0, 2.0]).unwrap();
        assert_eq!((median, p99, min, max, samples), (2.0, 3.0, -1.0, 3.0, 3));
        assert_eq!(summary(&[4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(summary(&[]), None);
    }
}
