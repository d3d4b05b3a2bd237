//! Why there is no list and no watch, in words, said once.

use std::fmt;

use http::StatusCode;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::kube::api_state::ApiState;
use crate::kube::wire::StatusText;

/// The whole of what listing and watching needs.
const RULE: &str = "{apiGroups: [\"\"], resources: [\"nodes\"], verbs: [\"get\", \"list\", \"watch\"]}";

/// Why a request did not do what it should.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The server no longer knows the resource version (410).
    Expired(String),
    /// The server does not know the resource version yet.
    FromTheFuture(String),
    /// Everything else.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired(text) | Self::FromTheFuture(text) | Self::Other(text) => f.write_str(text),
        }
    }
}

impl Failure {
    /// What a `Status` means that came instead of an answer to `verb` (`list`, `watch`). `http` is the status of the answer,
    /// if it came as one.
    pub(super) fn from_status(verb: &str, http: Option<StatusCode>, status: &StatusText) -> Self {
        let code = http.map_or(status.code, |http| http.as_u16());
        let said = if status.message.is_empty() {
            "no reason given"
        } else {
            status.message.trim()
        };
        match code {
            410 => Self::Expired(said.to_owned()),
            // The server waits a moment for such a version, and then says so (apimachinery, NewTooLargeResourceVersionError).
            504 if said.contains("Too large resource version") => {
                Self::FromTheFuture(format!("cannot {verb} Nodes: {said}"))
            }
            401 => Self::Other(format!(
                "cannot {verb} Nodes: the API server does not accept this agent's credentials (401: {said}); a service \
                 account's token is read again every minute"
            )),
            403 => Self::Other(format!(
                "cannot {verb} Nodes: not allowed (403): its ClusterRole needs the rule {RULE}, see deploy/rbac.yaml; the API \
                 server says: {said}"
            )),
            0 => Self::Other(format!("cannot {verb} Nodes: the API server says: {said}")),
            code => Self::Other(format!(
                "cannot {verb} Nodes: the API server answers {code}: {said}"
            )),
        }
    }
}

/// Says what is wrong once, not at every attempt, and that it is over; and keeps [`ApiState`] up to date.
pub(super) struct Reports {
    state: watch::Sender<ApiState>,
}

impl Reports {
    pub(super) const fn new(state: watch::Sender<ApiState>) -> Self {
        Self { state }
    }

    /// The server gives a list or a watch.
    pub(super) fn works(&mut self) {
        self.state.send_if_modified(|state| {
            let Some(since) = state.unreachable_since.take() else {
                return false;
            };
            state.last_error = None;
            log::info!(
                "the API server answers again, after {} s",
                since.elapsed().as_secs()
            );
            true
        });
    }

    /// It does not.
    pub(super) fn fails(&mut self, failure: &Failure) {
        let text = failure.to_string();
        self.state.send_if_modified(|state| {
            let first = state.unreachable_since.is_none();
            if !first && state.last_error.as_ref() == Some(&text) {
                return false;
            }
            let kept = if state.listed {
                "the leases stay in force as they are"
            } else {
                "nothing is changed on this node until the Nodes are listed"
            };
            log::error!("{text}; {kept}, trying again");
            state.unreachable_since.get_or_insert_with(Instant::now);
            state.last_error = Some(text);
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: u16, message: &str) -> Failure {
        let status = StatusText {
            code,
            message: message.into(),
            reason: String::new(),
        };
        Failure::from_status("watch", None, &status)
    }

    #[test]
    fn a_missing_rule_is_named_as_it_stands_in_a_role() {
        let text = failure(403, "nodes is forbidden").to_string();
        assert_eq!(
            text,
            "cannot watch Nodes: not allowed (403): its ClusterRole needs the rule {apiGroups: [\"\"], resources: \
             [\"nodes\"], verbs: [\"get\", \"list\", \"watch\"]}, see deploy/rbac.yaml; the API server says: nodes is forbidden"
        );
    }

    #[test]
    fn what_a_version_means_is_told_apart() {
        assert_eq!(failure(410, "too old"), Failure::Expired("too old".into()));
        let future = failure(504, "Timeout: Too large resource version: 9, current: 7");
        assert!(matches!(future, Failure::FromTheFuture(_)), "{future:?}");
        assert!(matches!(failure(504, "gateway"), Failure::Other(_)));
        assert!(failure(401, "").to_string().contains("credentials"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_state_says_since_when_and_why() {
        let (state, receiver) = watch::channel(ApiState::default());
        let mut reports = Reports::new(state);
        reports.works();
        assert!(!receiver.has_changed().unwrap());
        let begun = Instant::now();
        reports.fails(&Failure::Other("a".into()));
        tokio::time::advance(std::time::Duration::from_secs(7)).await;
        reports.fails(&Failure::Other("b".into()));
        let expected = ApiState {
            listed: false,
            unreachable_since: Some(begun),
            last_error: Some("b".into()),
        };
        assert_eq!(*receiver.borrow(), expected);
        reports.works();
        assert_eq!(*receiver.borrow(), ApiState::default());
    }
}
