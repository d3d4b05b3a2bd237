//! One request to the API server, and what an operator must know when it was not granted.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use kube::Error;

/// How long a request may take. The server itself gives up after a minute.
pub const LONGEST: Duration = Duration::from_secs(30);

/// A request, in the terms of RBAC.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// `get`, `patch`, `create`.
    pub verb: &'static str,
    /// `nodes`, `nodes/status`.
    pub resource: &'static str,
    /// What the resource is called in sentences: `Node`.
    pub kind: &'static str,
    /// Name of the object.
    pub name: &'a str,
    /// Where it lives; `None` for what has no namespace.
    pub namespace: Option<&'a str>,
}

/// Why a request was not granted.
#[derive(Debug)]
pub struct Refusal {
    /// What to make of it.
    pub kind: RefusalKind,
    text: String,
}

/// What to make of a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusalKind {
    /// The rule is missing (403).
    Forbidden,
    /// There is no such object (404).
    NotFound,
    /// There is one already, or somebody else was faster (409).
    Conflict,
    /// Everything else: invalid, overloaded, unreachable, too slow.
    Other,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Refusal {}

impl Asked<'_> {
    /// Waits for the answer, but no longer than [`LONGEST`].
    ///
    /// # Errors
    ///
    /// When the request was not granted.
    pub async fn answer<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Refusal> {
        match tokio::time::timeout(LONGEST, request).await {
            Ok(answer) => answer.map_err(|error| self.refusal(&error)),
            Err(_) => Err(Refusal {
                kind: RefusalKind::Other,
                text: format!("cannot {self}: no answer within {} s", LONGEST.as_secs()),
            }),
        }
    }

    /// What `error` says about this request.
    #[must_use]
    pub fn refusal(&self, error: &Error) -> Refusal {
        let Error::Api(status) = error else {
            return Refusal {
                kind: RefusalKind::Other,
                text: format!("cannot {self}: {}", unanswered(error)),
            };
        };
        let said = status.message.trim();
        let (kind, text) = match status.code {
            401 => (
                RefusalKind::Other,
                format!(
                    "cannot {self}: the API server does not accept this agent's credentials (401: {said}); a service \
                     account's token is read again every minute"
                ),
            ),
            403 => (
                RefusalKind::Forbidden,
                format!("cannot {self}: {}; the API server says: {said}", self.rule()),
            ),
            404 => (
                RefusalKind::NotFound,
                format!("cannot {self}: there is no such {} (404: {said})", self.kind),
            ),
            409 => (
                RefusalKind::Conflict,
                format!("cannot {self}: somebody else changed it meanwhile (409: {said})"),
            ),
            422 => (
                RefusalKind::Other,
                format!("cannot {self}: the API server finds the request invalid (422: {said})"),
            ),
            code => (
                RefusalKind::Other,
                format!("cannot {self}: the API server answers {code}: {said}"),
            ),
        };
        Refusal { kind, text }
    }

    /// The missing rule, as it stands in a role.
    fn rule(&self) -> String {
        let role = match self.namespace {
            Some(namespace) => format!("Role in namespace {namespace}"),
            None => "ClusterRole".to_owned(),
        };
        format!(
            "not allowed (403): its {role} needs the rule {{apiGroups: [\"\"], resources: [\"{}\"], verbs: [\"{}\"]}}, see \
             deploy/rbac.yaml",
            self.resource, self.verb
        )
    }
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.kind)?;
        match self.namespace {
            Some(namespace) => write!(f, " {namespace}/{}", self.name)?,
            None => write!(f, " {}", self.name)?,
        }
        match self.resource.split_once('/') {
            Some((_, part)) => write!(f, " ({part})"),
            None => Ok(()),
        }
    }
}

/// Why there is no answer that can be understood.
fn unanswered(error: &Error) -> String {
    // What they wrap says it all.
    let inner = || error.source().map_or_else(|| chain(error), chain);
    if matches!(error, Error::Service(_) | Error::HyperError(_)) {
        format!("the API server does not answer: {}", inner())
    } else if matches!(error, Error::Auth(_)) {
        format!("no usable credentials: {}", inner())
    } else {
        chain(error)
    }
}

/// An error with its causes; kube's errors repeat them in their own text.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    const PATCH: Asked<'_> = Asked {
        verb: "patch",
        resource: "nodes/status",
        kind: "Node",
        name: "worker-1",
        namespace: None,
    };

    fn refusal(code: u16) -> Refusal {
        let status = Status::failure("some words", "Reason").with_code(code);
        PATCH.refusal(&Error::Api(status.boxed()))
    }

    #[test]
    fn a_missing_rule_is_named_as_it_stands_in_a_role() {
        let refusal = refusal(403);
        assert_eq!(refusal.kind, RefusalKind::Forbidden);
        assert_eq!(
            refusal.to_string(),
            "cannot patch Node worker-1 (status): not allowed (403): its ClusterRole needs the rule {apiGroups: [\"\"], \
             resources: [\"nodes/status\"], verbs: [\"patch\"]}, see deploy/rbac.yaml; the API server says: some words"
        );
        let pod = Asked {
            verb: "get",
            resource: "pods",
            kind: "Pod",
            name: "agent-x",
            namespace: Some("kube-flannel"),
        };
        let text = pod
            .refusal(&Error::Api(Status::failure("no", "").with_code(403).boxed()))
            .to_string();
        assert!(
            text.starts_with("cannot get Pod kube-flannel/agent-x: "),
            "{text}"
        );
        assert!(text.contains("its Role in namespace kube-flannel"), "{text}");
    }

    #[test]
    fn every_answer_says_what_it_is() {
        for (code, kind, words) in [
            (401, RefusalKind::Other, "credentials"),
            (404, RefusalKind::NotFound, "there is no such Node"),
            (409, RefusalKind::Conflict, "somebody else"),
            (422, RefusalKind::Other, "invalid"),
            (429, RefusalKind::Other, "answers 429"),
            (503, RefusalKind::Other, "answers 503: some words"),
        ] {
            let refusal = refusal(code);
            assert_eq!(refusal.kind, kind, "{code}");
            assert!(refusal.to_string().contains(words), "{refusal}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_an_answer_after_a_while() {
        let refusal = PATCH.answer::<()>(std::future::pending()).await.unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "cannot patch Node worker-1 (status): no answer within 30 s"
        );
    }
}
