//! The harness's client: from inside the server's namespace, with the rights of an administrator.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, mpsc};

use anyhow::{Context, Result, anyhow};
use kube::config::AuthInfo;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use super::PORT;
use super::credentials::{ADMIN_TOKEN, Credentials};
use crate::space::Space;

/// What a request sends with its body.
const JSON: &str = "application/json";
/// RFC 7386: `null` removes a key, anything else replaces it.
const MERGE_PATCH: &str = "application/merge-patch+json";
/// The server's own kind of patch, as kubelet and flannel use it.
const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";

/// The server refused a request.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// HTTP status, as 409.
    pub code: u16,
    /// Why, for programs: `AlreadyExists`.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}: {}", self.code, self.reason, self.message)
    }
}

impl std::error::Error for Refusal {}

/// A client whose connections begin in the server's own namespace, whatever becomes of the underlay.
///
/// Objects are JSON, as they are on the wire. A [`Refusal`] is found in errors with `downcast_ref`.
#[derive(Clone)]
pub struct ApiClient {
    runtime: Arc<Runtime>,
    client: kube::Client,
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ApiClient").finish_non_exhaustive()
    }
}

impl ApiClient {
    pub(super) fn new(space: &Space, credentials: &Credentials) -> Result<Self> {
        let (space, (failed, failure)) = (space.clone(), mpsc::channel());
        // Sockets belong to the namespace of the thread that opens them.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("api-client")
            .enable_all()
            .on_thread_start(move || {
                if let Err(error) = space.join_namespace() {
                    // Nobody reads it once the client is made; then it fails to connect, which says enough.
                    failed.send(error).ok();
                }
            })
            .build()
            .context("cannot start the client's threads")?;
        let mut config = kube::Config::new(format!("https://127.0.0.1:{PORT}").parse()?);
        config.root_cert = Some(vec![credentials.ca_der()]);
        config.auth_info = AuthInfo {
            token: Some(ADMIN_TOKEN.to_owned().into()),
            ..AuthInfo::default()
        };
        let (made, client) = mpsc::channel();
        runtime.spawn(async move { made.send(kube::Client::try_from(config)) });
        let client = client.recv().context("the client's thread ended")??;
        failure.try_recv().map_or(Ok(()), Err)?;
        Ok(Self {
            runtime: Arc::new(runtime),
            client,
        })
    }

    /// Runs `work` where [`Self::kube`] can connect, and waits for it.
    ///
    /// # Errors
    ///
    /// Those of `work`, and when it panics.
    pub fn block_on<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (done, result) = mpsc::channel();
        self.runtime.spawn(async move { done.send(work.await) });
        result
            .recv()
            .map_err(|_| anyhow!("the API client's task panicked"))?
    }

    /// The client itself. It connects only inside [`Self::block_on`].
    #[must_use]
    pub fn kube(&self) -> kube::Client {
        self.client.clone()
    }

    /// Text of `path`, as in `/readyz` and `/metrics`.
    ///
    /// # Errors
    ///
    /// A [`Refusal`], or that the server does not answer.
    pub fn get_text(&self, path: &str) -> Result<String> {
        self.block_on(exchange(self.kube(), "GET", path.to_owned(), JSON, Vec::new()))
    }

    /// The object at `path`.
    ///
    /// # Errors
    ///
    /// A [`Refusal`], or that the server does not answer.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.ask("GET", path, JSON, None)
    }

    /// Creates `object` in the collection `path`.
    ///
    /// # Errors
    ///
    /// A [`Refusal`], or that the server does not answer.
    pub fn post(&self, path: &str, object: &Value) -> Result<Value> {
        self.ask("POST", path, JSON, Some(object))
    }

    /// Replaces the object at `path`.
    ///
    /// # Errors
    ///
    /// A [`Refusal`], or that the server does not answer.
    pub fn put(&self, path: &str, object: &Value) -> Result<Value> {
        self.ask("PUT", path, JSON, Some(object))
    }

    /// Applies a JSON merge patch: `null` removes a key.
    ///
    /// # Errors
    ///
    /// A [`Refusal`], or that the server does not answer.
    pub fn merge_patch(&self, path: &str, patch: &Value) -> Result<Value> {
        self.ask("PATCH", path, MERGE_PATCH, Some(patch))
    }

    /// Applies a strategic merge patch: lists of conditions and the like are merged by their keys.
    ///
    /// # Errors
    ///
    /// A [`Refusal`], or that the server does not answer.
    pub fn strategic_patch(&self, path: &str, patch: &Value) -> Result<Value> {
        self.ask("PATCH", path, STRATEGIC_MERGE_PATCH, Some(patch))
    }

    /// Deletes the object at `path`.
    ///
    /// # Errors
    ///
    /// A [`Refusal`], or that the server does not answer.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.ask("DELETE", path, JSON, None).map(drop)
    }

    fn ask(
        &self,
        method: &'static str,
        path: &str,
        kind: &'static str,
        body: Option<&Value>,
    ) -> Result<Value> {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let text = self.block_on(exchange(self.kube(), method, path.to_owned(), kind, body))?;
        serde_json::from_str(&text).with_context(|| format!("the answer to {method} {path}: {text}"))
    }
}

/// Creates `object` in the collection `path`, for many at a time.
pub(super) async fn create(client: kube::Client, path: String, object: Vec<u8>) -> Result<()> {
    exchange(client, "POST", path, JSON, object).await.map(drop)
}

/// Applies a JSON merge patch, for many at a time.
pub(super) async fn merge(client: kube::Client, path: String, patch: Vec<u8>) -> Result<()> {
    exchange(client, "PATCH", path, MERGE_PATCH, patch)
        .await
        .map(drop)
}

async fn exchange(
    client: kube::Client,
    method: &'static str,
    path: String,
    kind: &'static str,
    body: Vec<u8>,
) -> Result<String> {
    let request = http::Request::builder()
        .method(method)
        .uri(&path)
        .header(http::header::CONTENT_TYPE, kind)
        .body(body)?;
    let answer = client.request_text(request).await.map_err(|error| {
        if let kube::Error::Api(status) = error {
            anyhow::Error::new(Refusal {
                code: status.code,
                reason: status.reason.clone(),
                message: status.message.clone(),
            })
        } else {
            anyhow::Error::new(error)
        }
    });
    answer.with_context(|| format!("{method} {path}"))
}
