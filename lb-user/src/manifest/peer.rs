//! The manifest with the agent of another node: read and replaced over its API, which watches for us.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::{Method, StatusCode};
use tokio::time::sleep;

use super::Manifest;
use super::routes::PATIENCE;
use super::store::{Store, StoreError};
use crate::agent::api::Errors;
use crate::http::{ANSWER, Question, Servers};

/// How long after a peer could not be asked it is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// A manifest with another agent.
pub struct PeerStore {
    agents: Servers,
}

impl PeerStore {
    /// The manifest that the first of these agents has that answers.
    pub fn new(urls: Vec<String>) -> Self {
        PeerStore { agents: Servers::new(urls) }
    }

    async fn get(&self, path: &str, patience: Duration) -> Result<Option<Manifest>, StoreError> {
        let (status, body) =
            self.ask(Question { method: &Method::GET, path, headers: &[], body: "" }, patience).await?;
        match status {
            StatusCode::OK => Ok(Some(Manifest::parse(&format!("manifest of {}", self.agents), &body)?)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(StoreError::Unreachable(errors(status, &body))),
        }
    }

    async fn ask(
        &self,
        question: Question<'_>,
        patience: Duration,
    ) -> Result<(StatusCode, String), StoreError> {
        let (status, body) = self.agents.ask_whole(question, patience).await?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

impl Store for PeerStore {
    fn read(&self) -> BoxFuture<'_, Result<Option<Manifest>, StoreError>> {
        self.get("/v1/manifest", ANSWER).boxed()
    }

    fn replace<'a>(&'a self, base: u64, next: &'a Manifest) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let (path, body) = (format!("/v1/manifest?base={base}"), next.print());
            let (status, body) = self
                .ask(Question { method: &Method::PUT, path: &path, headers: &[], body: &body }, ANSWER)
                .await?;
            match status {
                StatusCode::OK => Ok(()),
                StatusCode::CONFLICT => {
                    let now = self.read().await?.map_or(0, |manifest| manifest.version);
                    Err(StoreError::Moved { now, base })
                }
                _ => Err(StoreError::Unreachable(errors(status, &body))),
            }
        }
        .boxed()
    }

    fn changed(&self, have: u64) -> BoxFuture<'_, ()> {
        async move {
            let path = format!("/v1/manifest?after={have}");
            if self.get(&path, PATIENCE + ANSWER).await.is_err() {
                sleep(RETRY).await;
            }
        }
        .boxed()
    }
}

fn errors(status: StatusCode, body: &str) -> String {
    serde_json::from_str(body).map_or_else(|_| status.to_string(), |Errors { errors }| errors.join("; "))
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
