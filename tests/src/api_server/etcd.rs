//! etcd, by its HTTP gateway.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::processes::ETCD;
use super::{ApiServer, http};

impl ApiServer {
    /// Forgets every older revision of every object: who asks the server's store for one gets 410 (`Expired`).
    ///
    /// The server answers watches from its own memory where that still reaches back; after
    /// [`Self::kill_server`] and [`Self::resume`] it does not, and without
    /// [`watch_cache`](super::ApiServerOptions::watch_cache) it never does.
    ///
    /// Returns the revision that is the oldest now.
    ///
    /// # Errors
    ///
    /// When etcd is not running or refuses.
    pub fn compact(&self) -> Result<u64> {
        // The key is a byte 0 in base64; only the header of the answer matters.
        let answer = self.ask_etcd("/v3/kv/range", &json!({ "key": "AA==" }))?;
        let revision = answer
            .pointer("/header/revision")
            .and_then(Value::as_str)
            .with_context(|| format!("no revision in etcd's answer {answer}"))?;
        self.ask_etcd(
            "/v3/kv/compaction",
            &json!({ "revision": revision, "physical": true }),
        )?;
        revision
            .parse()
            .with_context(|| format!("etcd's revision {revision:?}"))
    }

    fn ask_etcd(&self, path: &str, body: &Value) -> Result<Value> {
        let address: SocketAddr = ETCD.parse()?;
        let answer = http::post(&self.space, address, path, &body.to_string())?;
        ensure!(
            answer.status == 200,
            "etcd refused {path} with {}: {}",
            answer.status,
            answer.body
        );
        serde_json::from_str(&answer.body).with_context(|| format!("etcd's answer {:?}", answer.body))
    }
}
