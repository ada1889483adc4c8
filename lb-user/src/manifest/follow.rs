//! The task that reads the manifest again and again, and keeps the last good one.
//!
//! Owned by [`Manifests`], whose last clone ends it. A manifest that is half-written, wrong, or older than the one in force
//! changes nothing but the problem that is told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{info, warn};

use super::edit::{self, Edit};
use super::store::{self, Store, StoreError};
use super::{Config, Manifest, Place, file};

/// How long after an error the store is asked again.
const RETRY: Duration = Duration::from_millis(500);
/// How often an edit of any version is tried against faster editors.
const TRIES: usize = 20;

/// What is known of the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The last good one.
    pub manifest: Option<Arc<Manifest>>,
    /// It came from the cache, and the place has not been heard since.
    pub cached: bool,
    /// Why what is there is not in force.
    pub problem: Option<String>,
}

/// The manifest, now and later; and the way to change it.
#[derive(Clone)]
pub struct Manifests {
    inner: Arc<Inner>,
}

struct Inner {
    place: Place,
    store: Box<dyn Store>,
    reading: watch::Sender<Reading>,
    cache: Option<PathBuf>,
    /// Editors of this agent, one after the other.
    editing: Mutex<()>,
    _task: std::sync::Mutex<JoinSet<()>>,
}

/// What a change has made.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Edited {
    /// The version that has it.
    pub version: u64,
    /// What is to follow when all nodes have confirmed it.
    pub then: Vec<Edit>,
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// It makes no sense, or would break connections.
    #[error(transparent)]
    Refused(#[from] edit::Refused),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Manifests {
    /// Starts to follow; what can be read at once from a file or the cache is there when this returns.
    ///
    /// Must be called within a Tokio runtime.
    pub fn start(config: &Config) -> Self {
        let (now, cache) = match &config.place {
            Place::File(path) => (file::read(path), None),
            _ => (file::read(&config.cache), Some(config.cache.clone())),
        };
        let mut first = Reading { cached: cache.is_some(), ..Reading::default() };
        match now {
            Ok(manifest) => first.manifest = manifest.map(Arc::new),
            Err(error) => first.problem = Some(error.to_string()),
        }
        let inner = Arc::new(Inner {
            place: config.place.clone(),
            store: store::open(&config.place),
            reading: watch::Sender::new(first),
            cache,
            editing: Mutex::default(),
            _task: std::sync::Mutex::default(),
        });
        let follower = Arc::downgrade(&inner);
        let task = async move {
            while let Some(inner) = follower.upgrade() {
                inner.look().await;
            }
        };
        inner._task.lock().expect("never poisoned").spawn(task);
        Manifests { inner }
    }

    /// Where the manifest is.
    pub fn place(&self) -> &Place {
        &self.inner.place
    }

    /// What is known, now and whenever that changes.
    pub fn reading(&self) -> watch::Receiver<Reading> {
        self.inner.reading.subscribe()
    }

    /// The manifest as it is in the store at this moment; empty if there is none.
    pub async fn fresh(&self) -> Result<Manifest, StoreError> {
        Ok(self.inner.store.read().await?.unwrap_or_default())
    }

    /// Makes a change of version `base`; `None`: of whatever is there.
    pub async fn edit(&self, edit: &Edit, base: Option<u64>) -> Result<Edited, EditError> {
        let _turn = self.inner.editing.lock().await;
        for _ in 0..TRIES {
            let now = self.fresh().await?;
            if let Some(base) = base.filter(|base| *base != now.version) {
                return Err(StoreError::Moved { now: now.version, base }.into());
            }
            let next = edit::apply(&now, edit)?;
            match self.inner.store.replace(now.version, &next.manifest).await {
                // Whatever was changed, this edit goes with it, or is refused.
                Err(StoreError::Moved { .. }) if base.is_none() => continue,
                other => other?,
            }
            info!(version = next.manifest.version, ?edit, "manifest changed from here");
            let edited = Edited { version: next.manifest.version, then: next.then };
            self.inner.take(Ok(Some(next.manifest)));
            return Ok(edited);
        }
        Err(StoreError::Unreachable(format!(
            "others have changed the manifest {TRIES} times meanwhile; try again"
        ))
        .into())
    }
}

impl Inner {
    async fn look(&self) {
        let found = self.store.read().await;
        let failed = found.is_err();
        self.take(found);
        if failed {
            sleep(RETRY).await;
        }
        let have = self.reading.borrow().manifest.as_ref().map_or(0, |manifest| manifest.version);
        self.store.changed(have).await;
    }

    fn take(&self, found: Result<Option<Manifest>, StoreError>) {
        let last = self.reading.borrow().clone();
        let next = judge(&last, found);
        if next == last {
            return;
        }
        if let Some(problem) = next.problem.as_ref().filter(|problem| last.problem.as_ref() != Some(problem))
        {
            warn!("manifest: {problem}");
        }
        if let Some(manifest) = next.manifest.as_ref().filter(|_| next.manifest != last.manifest) {
            info!(version = manifest.version, "manifest");
            if let Some(Err(error)) = self.cache.as_ref().map(|cache| file::write(cache, manifest)) {
                warn!("manifest's cache: {error}");
            }
        }
        self.reading.send_replace(next);
    }
}

/// What is known after a look at the store.
fn judge(last: &Reading, found: Result<Option<Manifest>, StoreError>) -> Reading {
    let stay = |problem: String| Reading { problem: Some(problem), ..last.clone() };
    let found = match found {
        Ok(Some(found)) => found,
        Ok(None) if last.manifest.is_none() => return Reading { problem: None, ..last.clone() },
        Ok(None) => return stay("it is gone; the last one stays in force".into()),
        Err(error) => return stay(error.to_string()),
    };
    let good = |found| Reading { manifest: Some(Arc::new(found)), cached: false, problem: None };
    let Some(have) = &last.manifest else { return good(found) };
    if found.version < have.version {
        return stay(format!(
            "version {} is older than {}, which is in force, and is ignored; write it with a version above {}",
            found.version, have.version, have.version
        ));
    }
    if found.version == have.version && found != **have {
        return stay(format!(
            "version {} is in force with other content; write the new one with version {}",
            have.version,
            have.version + 1
        ));
    }
    if found == **have {
        return Reading { cached: false, problem: None, ..last.clone() };
    }
    good(found)
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
