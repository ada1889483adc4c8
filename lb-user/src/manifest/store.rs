//! Where the manifest is kept: read whole, replaced only by who has seen the version before.

use futures::future::BoxFuture;

use super::etcd::EtcdStore;
use super::file::FileStore;
use super::peer::PeerStore;
use super::{Manifest, Place};
use crate::config::ConfigErrors;
use crate::etcd::EtcdError;
use crate::http::NoAnswer;

/// A place that all nodes share. Calls may wait for disk or network.
pub trait Store: Send + Sync + 'static {
    /// The manifest; `None`: there is none yet.
    fn read(&self) -> BoxFuture<'_, Result<Option<Manifest>, StoreError>>;

    /// Puts `next` in the place of version `base` (0: of none). Nothing is changed if another version is there.
    fn replace<'a>(&'a self, base: u64, next: &'a Manifest) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Returns when a version other than `have` may be there, or when it is time to look.
    fn changed(&self, have: u64) -> BoxFuture<'_, ()>;
}

/// Why the manifest cannot be read or replaced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody was faster.
    #[error(
        "version is now {now}, yours was based on {base}: somebody else has changed it; look at `lb plan` again"
    )]
    Moved {
        /// What is there.
        now: u64,
        /// What the change was based on.
        base: u64,
    },
    /// What is there is no manifest.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
    /// The place cannot be reached.
    #[error("{0}")]
    Unreachable(String),
}

impl From<NoAnswer> for StoreError {
    fn from(error: NoAnswer) -> Self {
        StoreError::Unreachable(format!("nobody who has the manifest answers: {error}"))
    }
}

impl From<EtcdError> for StoreError {
    fn from(error: EtcdError) -> Self {
        match error {
            EtcdError::NoAnswer(error) => error.into(),
            refused => StoreError::Unreachable(refused.to_string()),
        }
    }
}

/// The store of a place.
pub fn open(place: &Place) -> Box<dyn Store> {
    match place {
        Place::File(path) => Box::new(FileStore::new(path.clone())),
        Place::Etcd { urls, key } => Box::new(EtcdStore::new(urls.clone(), key.clone())),
        Place::Peer(urls) => Box::new(PeerStore::new(urls.clone())),
    }
}
