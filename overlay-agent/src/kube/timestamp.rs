//! Times, as the API server writes them.

use k8s_openapi::jiff::Timestamp;

/// Now: RFC 3339 in UTC, with seconds and `Z`.
#[must_use]
pub fn now() -> String {
    let seconds = Timestamp::now().as_second();
    Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn has_seconds_and_no_less() {
        let now = super::now();
        assert!(
            now.len() == 20 && now.ends_with('Z') && !now.contains('.'),
            "{now}"
        );
    }
}
