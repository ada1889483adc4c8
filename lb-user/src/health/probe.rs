//! One probe: a connection, and for HTTP one request. Thin; what a result means is for the [`Machine`](super::Machine).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::{Check, CheckKind, ProbeTarget, Through};

/// Most of a body that is read; a health page that is longer is not read to its end.
const BODY_LIMIT: usize = 64 * 1024;

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// This machine could not send the probe; it says nothing about the host.
    #[error("cannot probe {address}: {what}: {source}")]
    Local {
        /// Where the probe would have gone.
        address: SocketAddr,
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The data plane has no tunnel to the host yet; it says nothing about the host.
    #[error("cannot probe {address} through the tunnel: the data plane has no tunnel to this host yet")]
    NoTunnel {
        /// Where the probe would have gone.
        address: SocketAddr,
    },
    /// No connection.
    #[error("connect to {address}: {}", plain(.source))]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// It took too long.
    #[error("{stage} {address}: timeout after {after:?}")]
    Timeout {
        /// What was being done: `connect to` or `no complete answer from`.
        stage: &'static str,
        /// Whom.
        address: SocketAddr,
        /// The check's timeout.
        after: Duration,
    },
    /// The answer was not HTTP, or ended too early.
    #[error("HTTP with {address}: {source}")]
    Http {
        /// Whom.
        address: SocketAddr,
        /// What was wrong.
        source: hyper::Error,
    },
    /// The path of the check cannot be sent.
    #[error("request to {address}: {source}; correct the path of the check")]
    Request {
        /// Whom.
        address: SocketAddr,
        /// What is wrong with it.
        source: hyper::http::Error,
    },
    /// A status code that is not one of the check's.
    #[error("{address} answered status {status}, expected {expected}")]
    Status {
        /// Who.
        address: SocketAddr,
        /// What it answered.
        status: u16,
        /// The check's codes.
        expected: String,
    },
}

impl ProbeError {
    /// Whether the failure is this machine's own and says nothing about the host.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local { .. } | Self::NoTunnel { .. })
    }
}

/// Probes once, within the timeout of `check`.
pub async fn probe(check: &Check, target: &ProbeTarget) -> Result<(), ProbeError> {
    let address = target.address;
    let deadline = Instant::now() + check.timeout;
    let late = |stage| ProbeError::Timeout { stage, address, after: check.timeout };
    if check.through == Through::Tunnel && target.mark.is_none() {
        return Err(ProbeError::NoTunnel { address });
    }
    let stream = timeout_at(deadline, connect(target)).await.map_err(|_| late("connect to"))??;
    match &check.kind {
        CheckKind::Tcp => Ok(()),
        CheckKind::Http { path, status } => timeout_at(deadline, ask(stream, path, status, target))
            .await
            .map_err(|_| late("no complete answer from"))?,
    }
}

async fn connect(target: &ProbeTarget) -> Result<TcpStream, ProbeError> {
    let address = target.address;
    let local = |what| move |source| ProbeError::Local { address, what, source };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
        .map_err(local("open a socket"))?;
    socket.set_nonblocking(true).map_err(local("make a socket non-blocking"))?;
    if let Some(mark) = target.mark {
        socket.set_mark(mark).map_err(local("mark a socket (needs CAP_NET_ADMIN)"))?;
    }
    // Closing resets: thousands of probes leave no TIME_WAIT behind, here or at the host.
    socket.set_linger(Some(Duration::ZERO)).map_err(local("set SO_LINGER"))?;
    socket.set_tcp_nodelay(true).map_err(local("set TCP_NODELAY"))?;
    let socket = TcpSocket::from_std_stream(socket.into());
    socket.connect(address).await.map_err(|source| {
        match Errno::from_raw(source.raw_os_error().unwrap_or(0)) {
            Errno::EADDRNOTAVAIL | Errno::EPERM | Errno::EACCES | Errno::ENOBUFS | Errno::ENOMEM => {
                ProbeError::Local { address, what: "connect", source }
            }
            _ => ProbeError::Connect { address, source },
        }
    })
}

async fn ask(
    stream: TcpStream,
    path: &str,
    expected: &[u16],
    target: &ProbeTarget,
) -> Result<(), ProbeError> {
    let address = target.address;
    let http = |source| ProbeError::Http { address, source };
    let request = Request::get(path)
        .header(header::HOST, &target.host_header)
        .header(header::USER_AGENT, concat!("lb-health/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|source| ProbeError::Request { address, source })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(http)?;
        judge(response, expected, address).await
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        verdict = &mut exchange => verdict,
        // The connection's own end is known to the exchange: it carries the answer or the error.
        _ = &mut connection => exchange.await,
    }
}

async fn judge(
    response: Response<Incoming>,
    expected: &[u16],
    address: SocketAddr,
) -> Result<(), ProbeError> {
    let status = response.status().as_u16();
    if !expected.contains(&status) {
        let expected = expected.iter().map(u16::to_string).collect::<Vec<_>>().join(" or ");
        return Err(ProbeError::Status { address, status, expected });
    }
    let mut body = response.into_body();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| ProbeError::Http { address, source })?;
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > BODY_LIMIT {
            break;
        }
    }
    Ok(())
}

/// The kernel's words without Rust's `(os error N)`.
fn plain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}
