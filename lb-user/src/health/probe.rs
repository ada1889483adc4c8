//! One probe: a connection, and for HTTP one request. Thin; what a result means is for the [`Machine`](super::Machine).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::{Check, CheckKind, ProbeTarget, Through, tls};

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
        /// What was being done.
        stage: Stage,
        /// Whom.
        address: SocketAddr,
        /// The check's timeout.
        after: Duration,
    },
    /// TLS was not agreed on, or the certificate is not good.
    #[error("TLS with {address}: {source}")]
    Tls {
        /// Whom.
        address: SocketAddr,
        /// What was wrong.
        source: io::Error,
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

/// What a probe was doing when its time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The host has said nothing yet.
    Connect,
    /// The host has accepted a connection.
    Answer,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Connect => "connect to",
            Stage::Answer => "no complete answer from",
        })
    }
}

impl ProbeError {
    /// Whether the host gave no answer of any kind: one that refuses, resets or is slow lives.
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Timeout { stage, .. } => *stage == Stage::Connect,
            Self::Connect { source, .. } => matches!(
                Errno::from_raw(source.raw_os_error().unwrap_or(0)),
                Errno::ETIMEDOUT | Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EHOSTDOWN
            ),
            _ => false,
        }
    }

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
    let stream = timeout_at(deadline, connect(target)).await.map_err(|_| late(Stage::Connect))??;
    match &check.kind {
        CheckKind::Tcp => Ok(()),
        CheckKind::Http { path, status } => {
            timeout_at(deadline, ask(stream, path, status, target)).await.map_err(|_| late(Stage::Answer))?
        }
        CheckKind::Https { path, status, verify } => {
            let exchange = async {
                let stream = tls::connect(stream, target, *verify).await;
                let stream = stream.map_err(|source| ProbeError::Tls { address, source })?;
                ask(stream, path, status, target).await
            };
            timeout_at(deadline, exchange).await.map_err(|_| late(Stage::Answer))?
        }
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
    stream: impl AsyncRead + AsyncWrite + Unpin,
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

#[cfg(test)]
pub(super) mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Reads a request, sends `response`, closes; returns the request.
    pub(crate) async fn answer(mut stream: TcpStream, response: &str) -> io::Result<String> {
        let request = request(&mut stream).await?;
        stream.write_all(response.as_bytes()).await?;
        stream.shutdown().await?;
        Ok(request)
    }

    async fn request(stream: &mut TcpStream) -> io::Result<String> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await?);
        }
        Ok(String::from_utf8_lossy(&request).into_owned())
    }

    fn check(kind: CheckKind, address: SocketAddr) -> (Check, ProbeTarget) {
        let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(5));
        let port = address.port();
        let check = Check { kind, port, through: Through::Address, interval, timeout, rise: 1, fall: 1 };
        (check, ProbeTarget { address, mark: None, host_header: "198.51.100.1".into() })
    }

    fn http(status: &[u16]) -> CheckKind {
        CheckKind::Http { path: "/healthcheck?deep=1".into(), status: status.into() }
    }

    /// Probes a server that sends `response`; returns the result and the request.
    async fn ask(response: &'static str, status: &[u16]) -> (Result<(), ProbeError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (check, target) = check(http(status), listener.local_addr().unwrap());
        let server = async { answer(listener.accept().await.unwrap().0, response).await.unwrap() };
        tokio::join!(probe(&check, &target), server)
    }

    async fn error_of(response: &'static str) -> String {
        ask(response, &[200]).await.0.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn the_request_names_host_and_path_and_closes() {
        let (result, request) = ask("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", &[200]).await;
        result.unwrap();
        let request = request.to_lowercase();
        assert!(request.starts_with("get /healthcheck?deep=1 http/1.1\r\n"), "{request}");
        assert!(request.contains("host: 198.51.100.1\r\n"), "{request}");
        assert!(request.contains("connection: close\r\n"), "{request}");
    }

    #[tokio::test]
    async fn only_listed_status_codes_are_healthy_and_redirects_are_not_followed() {
        ask("HTTP/1.0 204 No Content\r\n\r\n", &[200, 204]).await.0.unwrap();
        let (result, _) =
            ask("HTTP/1.1 302 Found\r\nlocation: /ok\r\ncontent-length: 0\r\n\r\n", &[200, 204]).await;
        let error = result.unwrap_err();
        assert!(error.to_string().ends_with("answered status 302, expected 200 or 204"), "{error}");
        ask("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", &[302]).await.0.unwrap();
    }

    #[tokio::test]
    async fn what_is_not_http_or_ends_early_fails() {
        assert!(error_of("SSH-2.0-OpenSSH_9.2\r\n\r\n").await.starts_with("HTTP with 127.0.0.1:"));
        assert!(error_of("").await.starts_with("HTTP with 127.0.0.1:"));
        assert!(error_of("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.starts_with("HTTP with "));
    }

    #[tokio::test]
    async fn an_endless_body_is_not_read_to_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (check, target) = check(http(&[200]), listener.local_addr().unwrap());
        let server = async {
            let mut stream = listener.accept().await.unwrap().0;
            request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
        };
        let (result, ()) = tokio::join!(probe(&check, &target), server);
        result.unwrap();
    }

    #[tokio::test]
    async fn a_silent_server_is_a_timeout_of_the_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut check, target) = check(http(&[200]), listener.local_addr().unwrap());
        check.timeout = Duration::from_millis(300);
        let error = probe(&check, &target).await.unwrap_err();
        let expected = format!("no complete answer from {}: timeout after 300ms", target.address);
        assert_eq!(error.to_string(), expected);
        assert!(!error.is_local());
        assert!(!error.is_silence(), "it has accepted the connection");
    }

    #[test]
    fn no_answer_of_any_kind_is_silence() {
        let address = "192.0.2.1:80".parse().unwrap();
        let error =
            |number| ProbeError::Connect { address, source: io::Error::from_raw_os_error(number as i32) };
        for silent in [Errno::ETIMEDOUT, Errno::EHOSTUNREACH, Errno::ENETUNREACH] {
            assert!(error(silent).is_silence(), "{silent}");
        }
        for answered in [Errno::ECONNREFUSED, Errno::ECONNRESET] {
            assert!(!error(answered).is_silence(), "{answered}");
        }
        let after = Duration::from_secs(1);
        assert!(ProbeError::Timeout { stage: Stage::Connect, address, after }.is_silence());
        assert!(!ProbeError::NoTunnel { address }.is_silence());
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_and_an_open_one_is_enough_for_tcp() {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let (check, target) = check(CheckKind::Tcp, listener.local_addr().unwrap());
        probe(&check, &target).await.unwrap();
        drop(listener);
        let error = probe(&check, &target).await.unwrap_err();
        assert_eq!(error.to_string(), format!("connect to {}: connection refused", target.address));
        assert!(!error.is_silence(), "a refusal is an answer");
    }

    #[tokio::test]
    async fn a_bad_path_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kind = CheckKind::Http { path: "/a b".into(), status: vec![200] };
        let (check, target) = check(kind, listener.local_addr().unwrap());
        let error = probe(&check, &target).await.unwrap_err().to_string();
        assert!(error.ends_with("correct the path of the check"), "{error}");
    }

    #[tokio::test]
    async fn a_mark_that_may_not_be_set_says_nothing_about_the_host() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut check, mut target) = check(CheckKind::Tcp, listener.local_addr().unwrap());
        check.through = Through::Tunnel;
        assert!(matches!(probe(&check, &target).await, Err(ProbeError::NoTunnel { .. })));
        target.mark = Some(0x6c62);
        match probe(&check, &target).await {
            // With CAP_NET_ADMIN.
            Ok(()) => {}
            Err(error) => assert!(error.is_local() && error.to_string().contains("CAP_NET_ADMIN"), "{error}"),
        }
    }
}
