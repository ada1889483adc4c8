//! HTTP for everything the agent listens with: the API's Unix socket and `peers.listen`.
//!
//! A connection has as long as [`HEADERS`] for each request's headers, idleness between requests included, and a request has
//! as long as [`REQUEST`] from its headers to its answer. Who may connect at all is decided by the listener, before this.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// Most time that the headers of a request take to come, and that a connection is idle before.
const HEADERS: Duration = Duration::from_secs(30);
/// Most time from the headers of a request to its answer: longer than anything that an answer waits for.
const REQUEST: Duration = Duration::from_secs(120);
/// Most bytes of a request's headers.
const HEADER_BYTES: usize = 16 << 10;

/// Serves the requests of one connection until its end.
pub(crate) async fn serve<Stream, Answer>(stream: Stream, answer: impl Fn(Request<Body>) -> Answer)
where
    Stream: AsyncRead + AsyncWrite + Unpin,
    Answer: Future<Output = Response<Body>>,
{
    serve_within(stream, answer, HEADERS, REQUEST).await;
}

/// The same with other limits: for headers, and for an answer.
pub(crate) async fn serve_within<Stream, Answer>(
    stream: Stream,
    answer: impl Fn(Request<Body>) -> Answer,
    headers: Duration,
    request_time: Duration,
) where
    Stream: AsyncRead + AsyncWrite + Unpin,
    Answer: Future<Output = Response<Body>>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answered = timeout(request_time, answer(request.map(Body::new)));
        async {
            Ok::<_, Infallible>(
                answered.await.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response()),
            )
        }
    });
    // How a connection ends is its client's affair; there is nobody to tell.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(headers)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const SHORT: Duration = Duration::from_millis(50);

    async fn said(request: &[u8], answer: &'static str) -> String {
        let (mut client, server) = duplex(64 << 10);
        let serving = tokio::spawn(serve_within(
            server,
            move |request: Request<Body>| async move {
                let _ = axum::body::to_bytes(request.into_body(), 1 << 20).await;
                answer.into_response()
            },
            SHORT,
            SHORT,
        ));
        client.write_all(request).await.unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        serving.await.unwrap();
        said
    }

    #[tokio::test]
    async fn who_sends_headers_slowly_or_nothing_at_all_is_cut_off() {
        assert_eq!(said(b"", "x").await, "");
        assert!(!said(b"GET / HTTP/1.1\r\nhost: a\r\nx: ", "x").await.contains(" 200 "));
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_not_waited_for() {
        let said = said(b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nabc", "x").await;
        assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    }

    #[tokio::test]
    async fn a_proper_request_is_answered_and_the_idle_connection_ends() {
        let said = said(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "hello").await;
        assert!(said.starts_with("HTTP/1.1 200 ") && said.ends_with("hello"), "{said}");
    }
}
