//! HTTP over TCP to the first of several addresses that answers.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long one address gets to answer at once.
pub(crate) const ANSWER: Duration = Duration::from_secs(3);

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
#[derive(Debug, Default, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(crate) struct NoAnswer(Vec<String>);

impl NoAnswer {
    /// What others said, too.
    pub fn add(&mut self, other: NoAnswer) {
        self.0.extend(other.0);
    }
}

/// An answer whose body still comes.
pub(crate) struct Answer {
    pub status: StatusCode,
    body: Incoming,
    /// Drives the connection, which ends with the answer.
    _connection: JoinSet<()>,
}

impl Answer {
    /// All of the body.
    async fn whole(self) -> hyper::Result<Bytes> {
        Ok(self.body.collect().await?.to_bytes())
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

/// Asks one address after the other until one answers, whatever it says.
pub(crate) async fn ask(
    urls: &[String],
    question: Question<'_>,
    patience: Duration,
) -> Result<Answer, NoAnswer> {
    let mut said = Vec::new();
    for url in urls {
        match timeout(patience, ask_one(url, question)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => said.push(format!("{url}: {error}")),
            Err(_) => said.push(format!("{url}: no answer within {patience:?}")),
        }
    }
    Err(NoAnswer(said))
}

/// Asks one address after the other until one answers, and takes the whole answer.
pub(crate) async fn ask_whole(
    urls: &[String],
    question: Question<'_>,
    patience: Duration,
) -> Result<(StatusCode, Bytes), NoAnswer> {
    let answer = ask(urls, question, patience).await?;
    let status = answer.status;
    let cut = |what: String| NoAnswer(vec![format!("an answer that was cut short: {what}")]);
    let body = timeout(patience, answer.whole()).await.map_err(|late| cut(late.to_string()))?;
    Ok((status, body.map_err(|error| cut(error.to_string()))?))
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
