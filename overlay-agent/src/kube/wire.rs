//! Nodes as the API server sends them: lists and watches in two encodings, read while they arrive.
//!
//! Of 15,000 Nodes with 15 KB each nothing but the records is ever in memory: an object is read as soon as it is complete,
//! and then forgotten. Protocol buffers are what is asked for. They cost the API server a fraction of JSON, and here the
//! list of images, most of a Node, is skipped as a whole. JSON is for servers that answer with it nevertheless.

mod envelope;
mod fields;
mod json;
mod list;
mod node;
mod scan;
mod watch;

use std::error::Error;
use std::fmt;

use http::HeaderMap;
use http::header::CONTENT_TYPE;

pub(super) use self::envelope::{StatusText, status};
pub(super) use self::list::{ListEnd, ListReader};
pub(super) use self::watch::{WatchItem, WatchReader};

/// `Accept` of every request for Nodes.
pub(super) const ACCEPT: &str = "application/vnd.kubernetes.protobuf, application/json;q=0.9";

/// Largest object that is read, in bytes: ten times what etcd stores.
const MAX_OBJECT: usize = 16 << 20;

/// How an answer is encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Encoding {
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
    /// `application/json`.
    Json,
}

impl Encoding {
    /// That of an answer with these headers; JSON unless they say otherwise.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        match content_type {
            Some(text) if text.starts_with("application/vnd.kubernetes.protobuf") => Self::Protobuf,
            Some(_) | None => Self::Json,
        }
    }
}

/// Why an answer cannot be read.
#[derive(Debug)]
pub(super) enum Malformed {
    /// Not protocol buffers, or not those of Kubernetes.
    Protobuf(&'static str),
    /// Not JSON, or not that of Kubernetes.
    Json(serde_json::Error),
    /// Not a list.
    List(&'static str),
    /// The end came too early.
    Truncated,
    /// Beyond [`MAX_OBJECT`].
    TooLarge,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protobuf(what) => write!(f, "not a Kubernetes object in protocol buffers: {what}"),
            Self::Json(error) => write!(f, "not a Kubernetes object in JSON: {error}"),
            Self::List(what) => write!(f, "not a list of Nodes: {what}"),
            Self::Truncated => f.write_str("it ends in the middle"),
            Self::TooLarge => write!(f, "an object has more than {MAX_OBJECT} bytes"),
        }
    }
}

impl Error for Malformed {}

impl From<serde_json::Error> for Malformed {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}
