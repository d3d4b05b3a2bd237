//! The little HTTP that health endpoints and etcd's gateway need: one request, one answer, end.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::space::Space;

/// How long a server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status, as 200.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Asks the server at `address` in `space` for `path`, without encryption.
///
/// # Errors
///
/// When nobody answers there.
pub fn get(space: &Space, address: SocketAddr, path: &str) -> Result<Answer> {
    exchange(space, address, "GET", path, "")
}

/// Sends `body` (JSON) to `path` of the server at `address` in `space`.
pub(super) fn post(space: &Space, address: SocketAddr, path: &str, body: &str) -> Result<Answer> {
    exchange(space, address, "POST", path, body)
}

fn exchange(space: &Space, address: SocketAddr, method: &str, path: &str, body: &str) -> Result<Answer> {
    let text = space.enter(|| {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let length = body.len();
        // 1.0: the answer comes whole, and its end is the connection's.
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    text.and_then(|text| parse(&text))
        .with_context(|| format!("{method} http://{address}{path} in {}", space.label()))
}

fn parse(text: &str) -> Result<Answer> {
    let (head, body) = text.split_once("\r\n\r\n").context("no end of the header")?;
    let status = head.split_whitespace().nth(1).context("no status")?;
    Ok(Answer {
        status: status.parse().with_context(|| format!("status {status:?}"))?,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_told_apart() {
        let answer = parse("HTTP/1.0 503 Service Unavailable\r\nX: y\r\n\r\nnot yet\n").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (503, "not yet\n"));
        assert!(parse("").is_err());
    }
}
