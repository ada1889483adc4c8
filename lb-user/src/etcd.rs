//! etcd (v3.4 or later), by the JSON form of its API.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use hyper::Method;
use serde_json::Value;

use crate::http::{ANSWER, Answer, NoAnswer, Question, Servers};

/// The members of one etcd.
pub(crate) struct Etcd {
    members: Servers,
    /// How long one member gets to answer.
    patience: Duration,
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
        Etcd { members: Servers::new(urls), patience }
    }

    /// What it says to a request.
    pub async fn ask(&self, path: &str, body: &Value) -> Result<Value, EtcdError> {
        let body = body.to_string();
        let (status, said) = self.members.ask_whole(question(path, &body), self.patience).await?;
        let said: Value = serde_json::from_slice(&said).unwrap_or_default();
        match status.is_success() {
            true => Ok(said),
            false => Err(self.refused(said["error"].as_str().unwrap_or(status.as_str()))),
        }
    }

    /// An answer that goes on.
    pub async fn follow(&self, path: &str, body: &Value) -> Result<Answer, EtcdError> {
        let body = body.to_string();
        Ok(self.members.ask(question(path, &body), self.patience).await?)
    }

    /// Something is wrong with what it said.
    pub fn refused(&self, what: &str) -> EtcdError {
        EtcdError::Refused { urls: self.members.to_string(), what: what.to_owned() }
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
