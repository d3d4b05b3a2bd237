//! An API server for tests: a function from requests to answers, and a record of both.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::service_fn;

/// A request as the server saw it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    /// `PATCH /api/v1/nodes/worker-1/status`.
    pub(crate) line: String,
    /// `Value::Null` without a body.
    pub(crate) body: Value,
}

type Answers = dyn FnMut(&Seen) -> (u16, Value) + Send;

/// The server. Clones are the same one.
#[derive(Clone)]
pub(crate) struct FakeApi {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    seen: Vec<Seen>,
    /// Before anything else: these statuses.
    refusals: VecDeque<u16>,
    answers: Box<Answers>,
}

impl FakeApi {
    pub(crate) fn new(answers: impl FnMut(&Seen) -> (u16, Value) + Send + 'static) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                seen: Vec::new(),
                refusals: VecDeque::new(),
                answers: Box::new(answers),
            })),
        }
    }

    /// The next requests are answered with these statuses.
    pub(crate) fn refuse(&self, statuses: impl IntoIterator<Item = u16>) {
        self.inner.lock().unwrap().refusals.extend(statuses);
    }

    /// The requests since the last call.
    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.inner.lock().unwrap().seen)
    }

    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().trim_end_matches('?').to_owned();
        let line = format!("{} {path}", request.method());
        let bytes = request.into_body().collect_bytes().await.unwrap();
        let seen = Seen {
            at: Instant::now(),
            line,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        };
        let mut inner = self.inner.lock().unwrap();
        let (status, body) = match inner.refusals.pop_front() {
            Some(status) => (status, Value::Null),
            None => (inner.answers)(&seen),
        };
        inner.seen.push(seen);
        let body = match (status, body) {
            (200..=299, body) => body,
            (status, _) => json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": "refused", "reason": "Test",
            }),
        };
        Response::builder()
            .status(status)
            .body(Body::from(body.to_string().into_bytes()))
            .unwrap()
    }
}
