//! Numbers as people read them.

/// `1 peer`, `2 peers`.
#[must_use]
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Bytes with a binary unit: `999 B`, `1.5 KiB`, `64.0 MiB`.
#[must_use]
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    // In tenths, so that no rounding makes 1024.0 of something.
    let mut tenths = u128::from(number) * 10;
    let mut text = format!("{number} B");
    for unit in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        text = format!("{}.{} {unit}", tenths / 10, tenths % 10);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_well() {
        assert_eq!(
            (count(0, "peer"), count(1, "peer")),
            ("0 peers".to_owned(), "1 peer".to_owned())
        );
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(64 << 20), "64.0 MiB");
        assert_eq!(bytes((1 << 20) - 1), "1023.9 KiB");
        assert!(bytes(u64::MAX).ends_with(" PiB"));
    }
}
