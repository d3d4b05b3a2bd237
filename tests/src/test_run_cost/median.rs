//! The middle of a few numbers, and how far they lie apart.

/// Median, smallest and largest; all 0 if there is nothing.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// The spread of `values`.
pub(super) fn spread(values: &[f64]) -> Spread {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    let half = sorted.len() / 2;
    Spread {
        median: if sorted.len().is_multiple_of(2) {
            f64::midpoint(at(half.saturating_sub(1)), at(half))
        } else {
            at(half)
        },
        min: at(0),
        max: at(sorted.len().saturating_sub(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let of = |values: &[f64]| {
            let Spread { median, min, max } = spread(values);
            [median, min, max]
        };
        assert_eq!(of(&[3.0, 1.0, 2.0]), [2.0, 1.0, 3.0]);
        assert_eq!(of(&[4.0, 1.0, 3.0, 2.0]), [2.5, 1.0, 4.0]);
        assert_eq!(of(&[7.0]), [7.0; 3]);
        assert_eq!(of(&[]), [0.0; 3]);
    }
}
