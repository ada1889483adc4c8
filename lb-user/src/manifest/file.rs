//! The manifest in a file: editors take turns by a lock beside it, readers see the old or the new file and never a half.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use nix::fcntl::{Flock, FlockArg};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Manifest;
use super::store::{Store, StoreError};

/// How often the file is read without being told to: the folder may be on a file system that tells nobody.
const LOOK: Duration = Duration::from_secs(1);
/// How long an editor waits for another one, which needs milliseconds.
const LOCK: Duration = Duration::from_secs(5);

/// A manifest in a file.
pub struct FileStore {
    path: PathBuf,
    changed: Arc<Notify>,
    /// None where inotify is exhausted or the folder is missing: looking has to do.
    _watcher: Option<RecommendedWatcher>,
}

impl FileStore {
    /// The manifest at `path`, which need not be there yet.
    pub fn new(path: PathBuf) -> Self {
        let changed = Arc::new(Notify::new());
        let _watcher = watch(path.parent().unwrap_or(Path::new("/")), Arc::clone(&changed)).ok();
        FileStore { path, changed, _watcher }
    }
}

impl Store for FileStore {
    fn read(&self) -> BoxFuture<'_, Result<Option<Manifest>, StoreError>> {
        let path = self.path.clone();
        blocking(move || read(&path)).boxed()
    }

    fn replace<'a>(&'a self, base: u64, next: &'a Manifest) -> BoxFuture<'a, Result<(), StoreError>> {
        let (path, next) = (self.path.clone(), next.clone());
        blocking(move || replace(&path, base, &next)).boxed()
    }

    fn changed(&self, _: u64) -> BoxFuture<'_, ()> {
        async { drop(timeout(LOOK, self.changed.notified()).await) }.boxed()
    }
}

/// The manifest in a file; `None` if there is no file.
pub fn read(path: &Path) -> Result<Option<Manifest>, StoreError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Manifest::parse(&path.display().to_string(), &text)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreachable(path, "cannot be read", &error)),
    }
}

/// Replaces the file as a whole, whatever is there.
pub fn write(path: &Path, manifest: &Manifest) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let made = || {
        fs::create_dir_all(folder)?;
        let mut new = tempfile::Builder::new().prefix(".manifest").tempfile_in(folder)?;
        new.write_all(manifest.print().as_bytes())?;
        set_readable(new.as_file())?;
        new.as_file().sync_all()?;
        new.persist(path)?;
        File::open(folder)?.sync_all()
    };
    made().map_err(|error| unreachable(path, "cannot be written", &error))
}

fn replace(path: &Path, base: u64, next: &Manifest) -> Result<(), StoreError> {
    let _lock = lock(path)?;
    let now = read(path)?.map_or(0, |manifest| manifest.version);
    if now != base {
        return Err(StoreError::Moved { now, base });
    }
    write(path, next)
}

/// The lock lies beside the file, which is another one after each change.
fn lock(path: &Path) -> Result<Flock<File>, StoreError> {
    let lock = PathBuf::from(format!("{}.lock", path.display()));
    let open = || {
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        OpenOptions::new().create(true).truncate(false).write(true).open(&lock)
    };
    let mut file = open().map_err(|error| unreachable(&lock, "cannot be made", &error))?;
    let end = Instant::now() + LOCK;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, errno)) if Instant::now() > end => {
                return Err(unreachable(&lock, "is held by another editor", &errno.into()));
            }
            Err((file, _)) => file,
        };
        sleep(Duration::from_millis(10));
    }
}

/// Other users' agents and commands may read it.
fn set_readable(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

fn watch(folder: &Path, changed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is no news; it would have us look in circles.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            changed.notify_one();
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let ended = |error| StoreError::Unreachable(format!("the agent is ending: {error}"));
    spawn_blocking(work).await.map_err(ended)?
}

fn unreachable(path: &Path, what: &str, error: &std::io::Error) -> StoreError {
    let path = path.display();
    StoreError::Unreachable(format!("{path}: {what}: {error}; see to its folder and permissions"))
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
