//! HTTP over TCP to the first of several addresses that answers.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long one address gets to answer at once.
pub(crate) const ANSWER: Duration = Duration::from_secs(3);

/// Most bytes of an answer that is taken as a whole: a manifest of 65 535 hosts has some 6 MB, and more in etcd's encoding.
const LIMIT: usize = 64 << 20;

/// What is asked.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    /// Headers besides host and content type (JSON).
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a str,
}

/// What each of the addresses said instead of an answer.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(crate) struct NoAnswer(Vec<String>);

/// An answer whose body still comes.
pub(crate) struct Answer {
    pub status: StatusCode,
    body: Incoming,
    /// Drives the connection, which ends with the answer.
    _connection: JoinSet<()>,
}

impl Answer {
    /// All of the body, if it is no longer than [`LIMIT`].
    async fn whole(self) -> Result<Bytes, String> {
        let body = Limited::new(self.body, LIMIT).collect().await;
        Ok(body.map_err(|error| error.to_string())?.to_bytes())
    }

    /// The next piece of the body; `None` at its end.
    pub async fn piece(&mut self) -> Option<Bytes> {
        loop {
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                return Some(data);
            }
        }
    }
}

/// Servers that stand in for each other: the first that answers, and after that the same one as long as it does.
pub(crate) struct Servers {
    urls: Vec<String>,
    /// Which one answered last.
    last: AtomicUsize,
}

impl Servers {
    /// Servers as in `http://192.0.2.10:2379`.
    pub fn new(urls: Vec<String>) -> Self {
        Servers { urls, last: AtomicUsize::new(0) }
    }

    /// Asks one after the other until one answers, whatever it says; each gets as much patience.
    pub async fn ask(&self, question: Question<'_>, patience: Duration) -> Result<Answer, NoAnswer> {
        let mut said = Vec::new();
        let last = self.last.load(Relaxed);
        for number in (last..self.urls.len()).chain(0..last) {
            let url = &self.urls[number];
            match timeout(patience, ask_one(url, question)).await {
                Ok(Ok(answer)) => {
                    self.last.store(number, Relaxed);
                    return Ok(answer);
                }
                Ok(Err(error)) => said.push(format!("{url}: {error}")),
                Err(_) => said.push(format!("{url}: no answer within {patience:?}")),
            }
        }
        Err(NoAnswer(said))
    }

    /// The same, and takes the whole answer.
    pub async fn ask_whole(
        &self,
        question: Question<'_>,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), NoAnswer> {
        let answer = self.ask(question, patience).await?;
        let status = answer.status;
        let cut = |what: String| NoAnswer(vec![format!("an answer that was cut short: {what}")]);
        let body = timeout(patience, answer.whole()).await.map_err(|late| cut(late.to_string()))?;
        Ok((status, body.map_err(cut)?))
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.urls.join(", "))
    }
}

async fn ask_one(url: &str, question: Question<'_>) -> anyhow::Result<Answer> {
    let uri: Uri = url.parse()?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    let host = uri.authority().map(ToString::to_string).unwrap_or_default();
    let request = Request::builder()
        .method(question.method)
        .uri(question.path)
        .header("host", host)
        .header("content-type", "application/json");
    let headers = question.headers.iter();
    let request = headers
        .fold(request, |request, (name, value)| request.header(*name, *value))
        .body(Full::new(Bytes::copy_from_slice(question.body.as_bytes())))?;
    let answer: Response<Incoming> = sender.send_request(request).await?;
    let (head, body) = answer.into_parts();
    Ok(Answer { status: head.status, body, _connection: driver })
}
