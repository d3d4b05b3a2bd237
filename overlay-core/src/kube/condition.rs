//! The condition that tells the scheduler that the node's pods have a network.

/// The strategic merge patch of a Node's status that says `NetworkUnavailable=False`, byte for byte as flannel writes it.
///
/// `now` is the time of both timestamps, in RFC 3339 with seconds and `Z`.
#[must_use]
pub fn network_available_patch(now: &str) -> String {
    format!(
        "{{\"status\":{{\"conditions\":[{{\"type\":\"NetworkUnavailable\",\"status\":\"False\",\
         \"lastHeartbeatTime\":\"{now}\",\"lastTransitionTime\":\"{now}\",\"reason\":\"FlannelIsUp\",\
         \"message\":\"Flannel is running on this node\"}}]}}}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_flannels() {
        let expected = r#"{"status":{"conditions":[{"type":"NetworkUnavailable","status":"False","lastHeartbeatTime":"2026-01-31T12:00:00Z","lastTransitionTime":"2026-01-31T12:00:00Z","reason":"FlannelIsUp","message":"Flannel is running on this node"}]}}"#;
        assert_eq!(network_available_patch("2026-01-31T12:00:00Z"), expected);
        serde_json::from_str::<serde_json::Value>(expected).unwrap();
    }
}
