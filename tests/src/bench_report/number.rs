//! Numbers as a reader sees them.

/// Whether a result can be drawn: what a broken measurement leaves behind (not a number, infinite, negative) cannot.
pub(crate) fn plausible(value: f64) -> bool {
    (0.0..=1e15).contains(&value)
}

/// The upper end of an axis that starts at 0 and shows all of `values`; never 0.
pub(crate) fn axis_end(values: impl IntoIterator<Item = f64>) -> f64 {
    let largest = values
        .into_iter()
        .filter(|value| plausible(*value))
        .fold(0.0, f64::max);
    if largest < 1e-6 { 1.0 } else { largest * 1.02 }
}

/// Three significant digits and a prefix: `31.2k`.
pub(super) fn short(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let size = value.abs();
    let (scaled, prefix) = match size {
        _ if size >= 999_500_000.0 => (value / 1e9, "G"),
        _ if size >= 999_500.0 => (value / 1e6, "M"),
        _ if size >= 999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    format!("{}{prefix}", digits(scaled))
}

/// For an axis: as [`short`], without trailing zeros.
pub(crate) fn tick(value: f64) -> String {
    let text = short(value);
    let (number, prefix) = text
        .find(|character: char| character.is_ascii_alphabetic())
        .map_or((text.as_str(), ""), |at| text.split_at(at));
    if number.contains('.') {
        format!("{}{prefix}", number.trim_end_matches('0').trim_end_matches('.'))
    } else {
        text
    }
}

fn digits(value: f64) -> String {
    let size = value.abs();
    if size >= 99.95 || size == 0.0 {
        format!("{value:.0}")
    } else if size >= 9.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// In full, with separators: `31,234`; small numbers with decimals.
pub(crate) fn full(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value.abs() < 99.95 {
        return digits(value);
    }
    let text = format!("{value:.0}");
    let (sign, digits) = text
        .strip_prefix('-')
        .map_or(("", text.as_str()), |rest| ("-", rest));
    format!("{sign}{}", grouped(digits))
}

/// A count, with separators.
pub(crate) fn count(value: u32) -> String {
    grouped(&value.to_string())
}

fn grouped(digits: &str) -> String {
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `2026-01-31 12:34 UTC` of seconds since 1970.
pub(crate) fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a date of the Gregorian calendar: eras of 400 years that begin on 1 March.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02} UTC",
        rest / 3_600,
        rest % 3_600 / 60
    )
}

/// Text for HTML, in elements and attributes.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_prefix() {
        let shown: Vec<String> = [0.0, 0.5, 9.99, 31.25, 999.4, 999.6, 31_234.0, 999_999.0, 2.5e9]
            .into_iter()
            .map(short)
            .collect();
        assert_eq!(
            shown,
            [
                "0", "0.50", "9.99", "31.2", "999", "1.00k", "31.2k", "1.00M", "2.50G"
            ]
        );
        assert_eq!(tick(20_000.0), "20k");
        assert_eq!(tick(2_500.0), "2.5k");
        assert_eq!(tick(100.0), "100");
        assert_eq!(short(f64::NAN), "–");
    }

    #[test]
    fn full_numbers_have_separators() {
        assert_eq!(full(1_234_567.4), "1,234,567");
        assert_eq!(full(-1_234.0), "-1,234");
        assert_eq!(full(123.0), "123");
        assert_eq!(full(12.34), "12.3");
        assert_eq!(full(f64::INFINITY), "–");
        assert_eq!(count(10_000), "10,000");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_795_387_260), "2026-11-22 22:41 UTC");
    }

    #[test]
    fn an_axis_has_a_length_whatever_it_shows() {
        for values in [
            vec![],
            vec![0.0],
            vec![f64::NAN],
            vec![-1.0],
            vec![1e300],
            vec![1e-300],
        ] {
            assert_eq!(axis_end(values.clone()), 1.0, "{values:?}");
        }
        assert!(axis_end([3.0, 5.0]) > 5.0);
    }
}
