//! What a file says, now and whenever it changes.
//!
//! Task: one, owned by the [`Watched`], which looks when inotify reports a change in the file's directory and every
//! [`LOOK`] besides: the directory may not exist yet, may be replaced, or inotify may be exhausted.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

/// How often is looked without being told to.
pub(crate) const LOOK: Duration = Duration::from_millis(200);

/// Watches a file until it is dropped.
pub struct Watched<T> {
    value: watch::Receiver<T>,
    /// Holds the task; dropping it aborts the task.
    _task: JoinSet<()>,
}

impl<T: PartialEq + Send + Sync + 'static> Watched<T> {
    /// Starts with what `look` makes of the file and of `first`; after that, of the file and what it made last. The value
    /// is right when this returns.
    ///
    /// Must be called within a Tokio runtime.
    pub fn start(file: &Path, first: T, look: fn(&Path, &T) -> T) -> Self {
        let watcher = DirectoryWatch::new(file);
        let (publish, value) = watch::channel(look(file, &first));
        let mut tasks = JoinSet::new();
        tasks.spawn(watcher.run(file.into(), publish, look));
        Self { value, _task: tasks }
    }

    /// What the file says, now and whenever that changes.
    pub fn value(&self) -> watch::Receiver<T> {
        self.value.clone()
    }
}

struct DirectoryWatch {
    directory: PathBuf,
    changed: Arc<Notify>,
    /// The watcher, and the device and inode of the directory it sits on.
    watcher: Option<(RecommendedWatcher, (u64, u64))>,
    /// What was last complained about, so that it is said once.
    complaint: Option<String>,
}

impl DirectoryWatch {
    fn new(file: &Path) -> Self {
        let directory = match file.parent() {
            Some(parent) if parent != Path::new("") => parent.into(),
            _ => PathBuf::from("."),
        };
        let mut watched =
            Self { directory, changed: Arc::new(Notify::new()), watcher: None, complaint: None };
        watched.follow_directory();
        watched
    }

    async fn run<T: PartialEq>(mut self, file: PathBuf, publish: watch::Sender<T>, look: fn(&Path, &T) -> T) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Before looking: what happens after the watch is set is reported.
            self.follow_directory();
            let now = look(&file, &publish.borrow());
            publish.send_if_modified(|published| {
                let differs = *published != now;
                *published = now;
                differs
            });
            tokio::select! {
                () = self.changed.notified() => {}
                _ = looks.tick() => {}
            }
        }
    }

    /// Has the watcher on the directory that now has the name, if there is one.
    fn follow_directory(&mut self) {
        let now = fs::metadata(&self.directory).ok().map(|found| (found.dev(), found.ino()));
        if self.watcher.as_ref().map(|(_, at)| *at) == now {
            return;
        }
        self.watcher = None;
        let Some(at) = now else { return };
        match self.watch() {
            Ok(watcher) => {
                self.watcher = Some((watcher, at));
                self.complaint = None;
            }
            Err(error) => {
                let complaint = format!(
                    "cannot watch {}: {error}; looking every {LOOK:?} instead",
                    self.directory.display()
                );
                if self.complaint.as_ref() != Some(&complaint) {
                    warn!("{complaint}");
                }
                self.complaint = Some(complaint);
            }
        }
    }

    fn watch(&self) -> notify::Result<RecommendedWatcher> {
        let changed = Arc::clone(&self.changed);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the directory is no news; it would have us look in circles.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                changed.notify_one();
            }
        })?;
        watcher.watch(&self.directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}
