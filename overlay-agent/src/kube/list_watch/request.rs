//! The requests.

use http::Request;
use http::header::ACCEPT;
use kube::client::Body;

use super::failure::Failure;
use crate::kube::wire;

/// How old a list may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Since {
    /// What the API server has in its cache.
    Cache,
    /// At least as new as what was seen already, so that a server that lags behind does not turn time back.
    NotOlderThan(String),
    /// What etcd says now. Also right after etcd was restored from a backup, when all that was seen is of the future.
    Now,
}

impl Since {
    /// How to list again after a list has failed.
    pub(super) fn after(&self, failure: &Failure) -> Self {
        match (self, failure) {
            (Self::NotOlderThan(_), Failure::Expired(_) | Failure::FromTheFuture(_)) => Self::Now,
            (since, _) => since.clone(),
        }
    }
}

/// A list of all Nodes, or the next page of one. No page size: it would be read from etcd instead of the cache.
pub(super) fn list(since: &Since, page: Option<&str>) -> Result<Request<Body>, http::Error> {
    let query = match (page, since) {
        (Some(token), _) => format!("continue={}", escaped(token)),
        (None, Since::Cache) => "resourceVersion=0".to_owned(),
        (None, Since::NotOlderThan(version)) => format!("resourceVersion={}", escaped(version)),
        (None, Since::Now) => String::new(),
    };
    get(&query)
}

/// A watch of all Nodes from a resource version on, for so many seconds.
pub(super) fn watch(version: &str, seconds: u64) -> Result<Request<Body>, http::Error> {
    get(&format!(
        "watch=true&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={seconds}",
        escaped(version)
    ))
}

fn get(query: &str) -> Result<Request<Body>, http::Error> {
    Request::get(format!("/api/v1/nodes?{query}"))
        .header(ACCEPT, wire::ACCEPT)
        .body(Body::empty())
}

/// Percent-encoded (RFC 3986 §2.1): both are opaque texts of the server's.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(request: Result<Request<Body>, http::Error>) -> String {
        request.unwrap().uri().to_string()
    }

    #[test]
    fn opaque_texts_are_escaped() {
        let version = Since::NotOlderThan("7&x=é".into());
        assert_eq!(
            uri(list(&version, None)),
            "/api/v1/nodes?resourceVersion=7%26x%3D%C3%A9"
        );
        assert_eq!(
            uri(list(&Since::Cache, Some("a+/="))),
            "/api/v1/nodes?continue=a%2B%2F%3D"
        );
        assert_eq!(
            uri(watch("12", 300)),
            "/api/v1/nodes?watch=true&allowWatchBookmarks=true&resourceVersion=12&timeoutSeconds=300"
        );
    }

    #[test]
    fn only_a_version_that_cannot_be_had_is_given_up() {
        let version = Since::NotOlderThan("7".into());
        let expired = Failure::Expired("x".into());
        assert_eq!(version.after(&expired), Since::Now);
        assert_eq!(version.after(&Failure::FromTheFuture("x".into())), Since::Now);
        assert_eq!(version.after(&Failure::Other("x".into())), version);
        assert_eq!(Since::Cache.after(&expired), Since::Cache);
    }
}
