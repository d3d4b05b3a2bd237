//! Times on the command line.

use std::time::Duration;

/// The shortest `--flow-revalidate`: each probe costs a flow one packet on the slow path.
const MIN: Duration = Duration::from_millis(50);
/// The longest: entries end after three of these, and connection tracking forgets a UDP flow that it has not seen for
/// 30 seconds.
const MAX: Duration = Duration::from_secs(8);

/// `500ms` or `1s`, within what `--flow-revalidate` allows.
pub(super) fn revalidate(text: &str) -> Result<Duration, String> {
    let parsed = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => number.trim_end().parse().ok().map(Duration::from_millis),
        (None, Some(number)) => number.trim_end().parse().ok().map(Duration::from_secs),
        (None, None) => None,
    };
    let duration = parsed.ok_or("a time is a whole number with its unit, as in 1s or 500ms")?;
    if (MIN..=MAX).contains(&duration) {
        Ok(duration)
    } else {
        Err(format!(
            "{duration:?} is not in {MIN:?}..={MAX:?}: entries end after three intervals, which must be less than the 30 \
             seconds after which connection tracking forgets a UDP flow"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_a_range() {
        assert_eq!(revalidate("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(revalidate("50ms"), Ok(MIN));
        assert_eq!(revalidate("8s"), Ok(MAX));
        for (text, part) in [
            ("1", "unit"),
            ("-1s", "unit"),
            ("1m", "unit"),
            ("s", "unit"),
            ("49ms", "49ms is not in 50ms..=8s"),
            ("8001ms", "8.001s"),
            ("10s", "30 seconds"),
        ] {
            let error = revalidate(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
