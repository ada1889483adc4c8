//! HTTP over the agent's Unix socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::agent::api::Errors;

/// Longer than a detach takes, which waits for BGP and routers.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens.
    #[error("no agent answers at {}; start it with `lb agent`, or name its socket with --api", .0.display())]
    NoAgent(PathBuf),
    /// The kernel refused.
    #[error("cannot talk to the agent at {}: {source}; run this as root or as the socket's group", .path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The agent answered, with errors of its own: one line each.
    #[error("{}", .0.join("\n"))]
    Errors(Vec<String>),
    /// The answer was cut short or none of ours.
    #[error("the agent at {} gave no proper answer: {what}; see its log", .path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        what: String,
    },
}

/// Sends a request without a body; the body of a good answer.
pub(crate) async fn request(socket: &Path, method: Method, path: &str) -> Result<Bytes, ClientError> {
    send(socket, method, path, Bytes::new()).await
}

/// Posts a value as JSON; the body of a good answer.
pub(crate) async fn post(socket: &Path, path: &str, body: &impl Serialize) -> Result<Bytes, ClientError> {
    let body = serde_json::to_vec(body).expect("plain data can be written");
    send(socket, Method::POST, path, body.into()).await
}

async fn send(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|source| match source.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NoAgent(socket.into()),
        _ => ClientError::Refused { path: socket.into(), source },
    })?;
    let broken = |what: String| ClientError::Broken { path: socket.into(), what };
    let (status, body) = timeout(PATIENCE, exchange(stream, method, path, body))
        .await
        .map_err(|_| broken(format!("nothing within {PATIENCE:?}")))?
        .map_err(|error| broken(error.to_string()))?;
    if status.is_success() {
        return Ok(body);
    }
    match serde_json::from_slice::<Errors>(&body) {
        Ok(Errors { errors }) => Err(ClientError::Errors(errors)),
        Err(_) => Err(broken(status.to_string())),
    }
}

async fn exchange(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: Bytes,
) -> hyper::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "agent");
    let request = request.header("content-type", "application/json").body(Full::new(body));
    let answer = sender.send_request(request.expect("constant parts")).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok((status, body))
}
