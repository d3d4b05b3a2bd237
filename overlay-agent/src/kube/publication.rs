//! How far this node's publications are, for `/readyz`.

use tokio::sync::watch;

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Not yet: what is waited for, or what failed.
    Waiting(String),
    /// It says what it should.
    Done,
}

impl Default for Progress {
    fn default() -> Self {
        Self::Waiting("not looked at yet".to_owned())
    }
}

/// All of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Publication {
    /// The annotations that peers read.
    pub lease: Progress,
    /// The file that the CNI plugin reads.
    pub subnet_file: Progress,
    /// The condition `NetworkUnavailable`; done, too, when it is not to be written.
    pub condition: Progress,
}

impl Publication {
    /// What is missing, in words; `None` when nothing is.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let parts = [
            ("the lease is not published", &self.lease),
            ("subnet.env is not written", &self.subnet_file),
            ("NetworkUnavailable is not set", &self.condition),
        ];
        let missing: Vec<_> = parts
            .into_iter()
            .filter_map(|(what, progress)| match progress {
                Progress::Waiting(why) => Some(format!("{what}: {why}")),
                Progress::Done => None,
            })
            .collect();
        (!missing.is_empty()).then(|| missing.join("; "))
    }
}

/// Takes note of one part's progress; who listens is told only of changes.
pub fn note(
    publication: &watch::Sender<Publication>,
    part: impl Fn(&mut Publication) -> &mut Progress,
    progress: Progress,
) {
    publication.send_if_modified(|all| {
        let place = part(all);
        let new = *place != progress;
        *place = progress;
        new
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let sender = watch::Sender::new(Publication::default());
        note(&sender, |all| &mut all.lease, Progress::Done);
        note(&sender, |all| &mut all.condition, Progress::Done);
        let full = Progress::Waiting("disk full".to_owned());
        note(&sender, |all| &mut all.subnet_file, full);
        assert_eq!(
            sender.borrow().missing().as_deref(),
            Some("subnet.env is not written: disk full")
        );
        let mut receiver = sender.subscribe();
        note(&sender, |all| &mut all.lease, Progress::Done);
        assert!(!receiver.has_changed().unwrap());
        note(&sender, |all| &mut all.subnet_file, Progress::Done);
        assert!(receiver.has_changed().unwrap());
        assert_eq!(receiver.borrow_and_update().missing(), None);
    }
}
