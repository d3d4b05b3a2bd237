//! The watch may still tell what was before a write that has been answered.

use crate::kube::record::NodeRecord;

/// The newer of what the watch told last and what the last write was answered with.
pub(super) fn newest(watched: Option<NodeRecord>, written: Option<&NodeRecord>) -> Option<NodeRecord> {
    let (Some(watched), Some(written)) = (&watched, written) else {
        return watched;
    };
    let older =
        watched.uid() == written.uid() && is_older(watched.resource_version(), written.resource_version());
    if older {
        Some(written.clone())
    } else {
        Some(watched.clone())
    }
}

/// Whether one resource version is older than another. They are numbers of one sequence (Kubernetes 1.35 makes that a promise,
/// KEP-5504); where they are not, nothing is known to be older.
fn is_older(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version < than,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectMeta;

    use super::*;

    fn record(uid: &str, version: &str) -> NodeRecord {
        NodeRecord {
            metadata: ObjectMeta {
                uid: Some(uid.to_owned()),
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            },
            ..NodeRecord::default()
        }
    }

    #[test]
    fn what_was_written_hides_what_was_before() {
        let written = record("a", "100");
        for (watched, newer) in [
            (record("a", "99"), &written),
            (record("a", "100"), &record("a", "100")),
            (record("a", "101"), &record("a", "101")),
            // Another Node of the same name, and versions that are not understood.
            (record("b", "7"), &record("b", "7")),
            (record("a", "x7"), &record("a", "x7")),
        ] {
            assert_eq!(newest(Some(watched), Some(&written)).as_ref(), Some(newer));
        }
        assert_eq!(newest(None, Some(&written)), None, "the Node is gone");
        let watched = record("a", "1");
        assert_eq!(newest(Some(watched.clone()), None), Some(watched));
    }
}
