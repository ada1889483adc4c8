//! The manifest in etcd (v3), by the JSON form of its API: range, a transaction that compares, and a watch.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::Manifest;
use super::store::{Store, StoreError};
use crate::etcd::{Etcd, decode, encode, number};

/// How long one watch lasts; then the key is read again, whatever was missed.
const WATCH: Duration = Duration::from_secs(30);
/// How long after etcd could not be asked it is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// What is only in messages that tell of a change.
const EVENTS: &[u8] = b"\"events\"";

/// A manifest in etcd.
pub struct EtcdStore {
    etcd: Etcd,
    key: String,
}

/// What the key holds.
struct Found {
    manifest: Option<Manifest>,
    /// Revision of the store that changed the key last; 0: there is no such key.
    changed_at: u64,
    /// Revision of the store.
    revision: u64,
}

impl EtcdStore {
    /// The value of `key` with the first of these members that answers.
    pub fn new(urls: Vec<String>, key: String) -> Self {
        EtcdStore { etcd: Etcd::new(urls), key }
    }

    async fn find(&self) -> Result<Found, StoreError> {
        let answer = self.etcd.ask("/v3/kv/range", &json!({"key": encode(&self.key)})).await?;
        let revision = number(&answer["header"]["revision"]);
        let pair = &answer["kvs"][0];
        if pair["value"].is_null() {
            return Ok(Found { manifest: None, changed_at: number(&pair["mod_revision"]), revision });
        }
        let text = decode(&pair["value"]).and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or_else(|| self.etcd.refused("a value that is no text"))?;
        let manifest = Manifest::parse(&format!("{} in etcd", self.key), &text)?;
        Ok(Found { manifest: Some(manifest), changed_at: number(&pair["mod_revision"]), revision })
    }

    async fn put(&self, base: u64, next: &Manifest) -> Result<(), StoreError> {
        let found = self.find().await?;
        let now = found.manifest.map_or(0, |manifest| manifest.version);
        if now != base {
            return Err(StoreError::Moved { now, base });
        }
        let key = encode(&self.key);
        let unchanged = json!({
            "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": found.changed_at.to_string(),
        });
        let put = json!({"request_put": {"key": key, "value": encode(next.print().as_bytes())}});
        let answer = self.etcd.ask("/v3/kv/txn", &json!({"compare": [unchanged], "success": [put]})).await?;
        if answer["succeeded"].as_bool() == Some(true) {
            return Ok(());
        }
        let now = self.find().await?.manifest.map_or(0, |manifest| manifest.version);
        Err(StoreError::Moved { now, base })
    }

    /// Returns when the key has changed since a version other than `have` was there.
    async fn watch(&self, have: u64) -> Result<(), StoreError> {
        let found = self.find().await?;
        if found.manifest.is_some_and(|manifest| manifest.version != have) {
            return Ok(());
        }
        let from = (found.revision + 1).to_string();
        let request = json!({"create_request": {"key": encode(&self.key), "start_revision": from}});
        let mut answer = self.etcd.follow("/v3/watch", &request).await?;
        // The first message says only that the watch stands. The word may be in two pieces; no more is kept than that takes.
        let mut tail = Vec::new();
        while let Some(piece) = answer.piece().await {
            tail.extend_from_slice(&piece);
            if tail.windows(EVENTS.len()).any(|word| word == EVENTS) {
                return Ok(());
            }
            tail.drain(..tail.len().saturating_sub(EVENTS.len() - 1));
        }
        Err(self.etcd.refused("a watch that ended").into())
    }
}

impl Store for EtcdStore {
    fn read(&self) -> BoxFuture<'_, Result<Option<Manifest>, StoreError>> {
        async { Ok(self.find().await?.manifest) }.boxed()
    }

    fn replace<'a>(&'a self, base: u64, next: &'a Manifest) -> BoxFuture<'a, Result<(), StoreError>> {
        self.put(base, next).boxed()
    }

    fn changed(&self, have: u64) -> BoxFuture<'_, ()> {
        async move {
            if let Ok(Err(_)) = timeout(WATCH, self.watch(have)).await {
                sleep(RETRY).await;
            }
        }
        .boxed()
    }
}

#[cfg(test)]
#[path = "etcd_tests.rs"]
mod tests;
