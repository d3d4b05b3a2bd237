//! HTTP for probes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::{Answer, Health};

/// More at a time wait.
const CONNECTIONS: usize = 64;
/// A request that takes longer, and a connection that is silent for longer, ends.
const SILENCE: Duration = Duration::from_secs(10);
/// No connection lasts longer: who keeps it open with probes opens another.
const LIFETIME: Duration = Duration::from_secs(600);
/// Bytes of a request line with its headers; the smallest that the library allows.
const REQUEST: usize = 8 * 1024;
/// After an error that will not go away at once, like no file descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers, for ever.
pub(super) async fn serve(listener: TcpListener, health: Health) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Closed by nobody.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let health = health.clone();
                tokio::spawn(async move {
                    talk(stream, health).await;
                    drop(permit);
                });
            }
            Err(error) => {
                log::debug!("a probe could not be accepted: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn talk(stream: TcpStream, health: Health) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = respond(request.method(), request.uri().path(), &health);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE)
        .max_buf_size(REQUEST)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(LIFETIME, connection).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => log::debug!("a probe's connection ended: {error}"),
    }
}

fn respond(method: &Method, path: &str, health: &Health) -> Response<Full<Bytes>> {
    let (status, text) = match (path, method) {
        ("/healthz" | "/readyz", &Method::GET | &Method::HEAD) => {
            let now = Instant::now();
            let answer = if path == "/healthz" {
                health.healthz(now)
            } else {
                health.readyz(now)
            };
            let Answer { good, text } = answer;
            let status = if good {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            (status, text)
        }
        ("/healthz" | "/readyz", _) => (
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD are allowed".to_owned(),
        ),
        _ => (StatusCode::NOT_FOUND, "there are /healthz and /readyz".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text + "\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn served() -> (std::net::SocketAddr, Health) {
        let health = Health::default();
        let address = health.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
        (address, health)
    }

    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(address: std::net::SocketAddr, line: &str) -> String {
        ask(
            address,
            &format!("{line} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"),
        )
        .await
    }

    #[tokio::test]
    async fn probes_are_answered() {
        let (address, _health) = served().await;
        for (line, status, text) in [
            ("GET /healthz", "200 OK", "\r\n\r\noverlay-agent is running\n"),
            ("GET /healthz?verbose", "200 OK", "running"),
            ("GET /readyz", "503 Service Unavailable", "not ready:\n"),
            ("POST /healthz", "405 Method Not Allowed", "GET"),
            ("GET /metrics", "404 Not Found", "/readyz"),
        ] {
            let answer = get(address, line).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}\r\n")) && answer.contains(text),
                "{line}: {answer}"
            );
        }
        let head = get(address, "HEAD /healthz").await;
        assert!(
            head.starts_with("HTTP/1.1 200 OK") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
    }

    #[tokio::test]
    async fn a_connection_takes_any_number_of_probes() {
        let (address, _health) = served().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..500 {
            stream
                .write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")
                .await
                .unwrap();
            let mut answer = vec![0; 1024];
            let length = stream.read(&mut answer).await.unwrap();
            assert!(answer[..length].starts_with(b"HTTP/1.1 200 OK"));
        }
    }

    #[tokio::test]
    async fn what_is_no_request_ends_the_connection() {
        let (address, _health) = served().await;
        let answer = ask(address, "\u{1}\u{2}\u{3}\r\n\r\n").await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
            "{answer}"
        );
        let long = format!(
            "GET /healthz HTTP/1.1\r\nHost: node\r\nX: {}\r\n\r\n",
            "x".repeat(2 * REQUEST)
        );
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The other end may close it meanwhile.
        stream.write_all(long.as_bytes()).await.ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        assert!(
            get(address, "GET /healthz").await.contains("200 OK"),
            "others are served"
        );
    }

    #[tokio::test]
    async fn silent_connections_end_and_make_room() {
        let (address, _health) = served().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /hea").await.unwrap();
            silent.push(stream);
        }
        let answer = timeout(SILENCE * 2, get(address, "GET /healthz")).await;
        assert!(
            answer
                .expect("silent connections keep others out")
                .contains("200 OK")
        );
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error_that_says_whose_flag_it_is() {
        let (address, health) = served().await;
        let error = health.serve(address).await.unwrap_err().to_string();
        for part in [
            &format!("--healthz-port {}", address.port()),
            "another process",
            "/readyz",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
}
