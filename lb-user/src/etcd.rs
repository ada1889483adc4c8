//! etcd (v3.4 or later), by the JSON form of its API.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use hyper::Method;
use serde_json::Value;

use crate::http::{self, ANSWER, Answer, NoAnswer, Question};

/// The first of several members that answers, and after that the same as long as it does.
pub(crate) struct Etcd {
    urls: Vec<String>,
    /// How long one member gets to answer.
    patience: Duration,
    /// Which one answered last.
    last: AtomicUsize,
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EtcdError {
    /// No member answers.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// A member has something against it.
    #[error("etcd at {urls}: {what}; it must be version 3.4 or later, see its log")]
    Refused {
        /// All members.
        urls: String,
        /// What it said.
        what: String,
    },
}

impl Etcd {
    /// Members as in `http://192.0.2.10:2379`.
    pub fn new(urls: Vec<String>) -> Self {
        Self::with_patience(urls, ANSWER)
    }

    /// Members that get so long to answer, each.
    pub fn with_patience(urls: Vec<String>, patience: Duration) -> Self {
        Etcd { urls, patience, last: AtomicUsize::new(0) }
    }

    /// What it says to a request.
    pub async fn ask(&self, path: &str, body: &Value) -> Result<Value, EtcdError> {
        let body = body.to_string();
        let (status, said) =
            self.first(|url| http::ask_whole(url, question(path, &body), self.patience)).await?;
        let said: Value = serde_json::from_slice(&said).unwrap_or_default();
        match status.is_success() {
            true => Ok(said),
            false => Err(self.refused(said["error"].as_str().unwrap_or(status.as_str()))),
        }
    }

    /// An answer that goes on.
    pub async fn follow(&self, path: &str, body: &Value) -> Result<Answer, EtcdError> {
        let body = body.to_string();
        Ok(self.first(|url| http::ask(url, question(path, &body), self.patience)).await?)
    }

    /// Asks one member after the other, beginning with the one that answered last.
    async fn first<'a, T, F: Future<Output = Result<T, NoAnswer>>>(
        &'a self,
        ask: impl Fn(&'a [String]) -> F,
    ) -> Result<T, NoAnswer> {
        let mut said = NoAnswer::default();
        let last = self.last.load(Relaxed);
        for number in (last..self.urls.len()).chain(0..last) {
            match ask(&self.urls[number..=number]).await {
                Ok(answer) => {
                    self.last.store(number, Relaxed);
                    return Ok(answer);
                }
                Err(error) => said.add(error),
            }
        }
        Err(said)
    }

    /// Something is wrong with what it said.
    pub fn refused(&self, what: &str) -> EtcdError {
        EtcdError::Refused { urls: self.urls.join(", "), what: what.to_owned() }
    }
}

fn question<'a>(path: &'a str, body: &'a str) -> Question<'a> {
    Question { method: &Method::POST, path, headers: &[], body }
}

/// etcd writes 64-bit numbers as text, and leaves out zeros.
pub(crate) fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Keys and values as etcd takes them.
pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// A key or value as etcd gives it.
pub(crate) fn decode(value: &Value) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(value.as_str()?).ok()
}
