//! HTTP to the agent of another node, over one connection that is kept.

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::PeerUrl;

/// Most of an answer that is read.
const LIMIT: usize = 16 << 20;
/// Most time that a connection takes to come about.
const CONNECT: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// No connection in time, or no answer.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The connection broke.
    #[error("broken off: {0}")]
    Broken(#[from] hyper::Error),
    /// The answer was not as expected.
    #[error("{0}")]
    Answer(String),
}

/// What a node answered.
pub struct Answer {
    /// The status code.
    pub status: StatusCode,
    /// The header that tells documents apart.
    pub etag: Option<String>,
    /// The document.
    pub body: Bytes,
}

/// Asks one node.
pub struct Client {
    url: PeerUrl,
    connection: Option<Connection>,
}

struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    /// Holds the task that moves the bytes.
    _driver: JoinSet<()>,
}

impl Client {
    /// Connects when something is asked.
    pub fn new(url: PeerUrl) -> Self {
        Client { url, connection: None }
    }

    /// Asks for a document; it must come within `patience`. After an error the next question makes a new connection.
    pub async fn get(&mut self, path: &str, patience: Duration) -> Result<Answer, PeerError> {
        let kept = self.connection.take().filter(|connection| !connection.sender.is_closed());
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect(patience.min(CONNECT)).await?,
        };
        let request = Request::get(path)
            .header(header::HOST, self.url.authority())
            .body(Empty::<Bytes>::new())
            .map_err(|error| PeerError::Answer(format!("{path}: {error}")))?;
        let asked = timeout(patience, ask(&mut connection.sender, request));
        let answer = asked.await.map_err(|_| PeerError::Timeout(patience))??;
        self.connection = Some(connection);
        Ok(answer)
    }

    async fn connect(&self, patience: Duration) -> Result<Connection, PeerError> {
        let connecting = timeout(patience, TcpStream::connect(self.url.authority()));
        let stream =
            connecting.await.map_err(|_| PeerError::Timeout(patience))?.map_err(PeerError::Connect)?;
        stream.set_nodelay(true).map_err(PeerError::Connect)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Its error is the sender's as well.
            let _ = connection.await;
        });
        Ok(Connection { sender, _driver: driver })
    }
}

async fn ask(
    sender: &mut SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
) -> Result<Answer, PeerError> {
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let etag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    let body =
        Limited::new(response.into_body(), LIMIT).collect().await.map_err(|error| match error
            .is::<LengthLimitError>()
        {
            true => PeerError::Answer(format!("longer than {LIMIT} bytes")),
            false => PeerError::Answer(format!("broken off: {error}")),
        })?;
    Ok(Answer { status, etag, body: body.to_bytes() })
}

impl Answer {
    /// The document, if the answer is a good one.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, PeerError> {
        if !self.status.is_success() {
            return Err(PeerError::Answer(self.refusal()));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| PeerError::Answer(format!("no proper answer: {error}; is it an agent?")))
    }

    /// What an answer that is not good says.
    fn refusal(&self) -> String {
        match serde_json::from_slice::<crate::agent::api::Errors>(&self.body) {
            Ok(said) => said.errors.join("; "),
            Err(_) => format!("status {}", self.status),
        }
    }
}
