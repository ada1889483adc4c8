//! A file whose presence switches something: `/etc/lb/disable`.
//!
//! Task: one, owned by the [`Switch`], which looks when inotify reports a change in the file's directory and every
//! [`LOOK`] besides: the directory may not exist yet, may be replaced, or inotify may be exhausted.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

/// How often is looked without being told to.
const LOOK: Duration = Duration::from_millis(200);

/// Watches whether a file is present, until it is dropped.
pub struct Switch {
    present: watch::Receiver<bool>,
    /// Holds the task; dropping it aborts the task.
    _task: JoinSet<()>,
}

impl Switch {
    /// Starts; the state is right when this returns.
    ///
    /// Must be called within a Tokio runtime.
    pub fn start(file: &Path) -> Self {
        let watched = Watched::new(file);
        let (publish, present) = watch::channel(watched.look().unwrap_or(false));
        let mut tasks = JoinSet::new();
        tasks.spawn(watched.run(publish));
        Self { present, _task: tasks }
    }

    /// Whether the file is present, now and whenever that changes.
    pub fn present(&self) -> watch::Receiver<bool> {
        self.present.clone()
    }
}

struct Watched {
    file: PathBuf,
    directory: PathBuf,
    changed: Arc<Notify>,
    /// The watcher, and the device and inode of the directory it sits on.
    watcher: Option<(RecommendedWatcher, (u64, u64))>,
    /// What was last complained about, so that it is said once.
    complaint: Option<String>,
}

impl Watched {
    fn new(file: &Path) -> Self {
        let directory = match file.parent() {
            Some(parent) if parent != Path::new("") => parent.into(),
            _ => PathBuf::from("."),
        };
        let mut watched = Self {
            file: file.into(),
            directory,
            changed: Arc::new(Notify::new()),
            watcher: None,
            complaint: None,
        };
        watched.follow_directory();
        watched
    }

    async fn run(mut self, publish: watch::Sender<bool>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Before looking: what happens after the watch is set is reported.
            self.follow_directory();
            if let Some(present) = self.look() {
                let changed =
                    publish.send_if_modified(|published| std::mem::replace(published, present) != present);
                if changed {
                    info!("{} {}", self.file.display(), if present { "appeared" } else { "is gone" });
                }
            }
            tokio::select! {
                () = self.changed.notified() => {}
                _ = looks.tick() => {}
            }
        }
    }

    /// Whether the file is present; `None` when that cannot be found out, and the last state stays.
    fn look(&self) -> Option<bool> {
        match fs::symlink_metadata(&self.file) {
            Ok(_) => Some(true),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Some(false)
            }
            Err(_) => None,
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

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    /// Waits for a state and returns how long it took.
    async fn until(state: &mut watch::Receiver<bool>, wanted: bool) -> Duration {
        let asked = Instant::now();
        let met = timeout(Duration::from_secs(5), state.wait_for(|present| *present == wanted)).await;
        met.expect("in time").unwrap();
        asked.elapsed()
    }

    #[tokio::test]
    async fn creation_and_removal_are_seen_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("disable");
        let switch = Switch::start(&file);
        let mut state = switch.present();
        assert!(!*state.borrow());
        let mut delays = Vec::new();
        for _ in 0..5 {
            fs::write(&file, "").unwrap();
            delays.push(until(&mut state, true).await);
            fs::remove_file(&file).unwrap();
            delays.push(until(&mut state, false).await);
        }
        delays.sort();
        // Most of them: a busy machine may be late once.
        assert!(delays[delays.len() * 3 / 4] < Duration::from_millis(50), "{delays:?}");
    }

    #[tokio::test]
    async fn a_file_that_is_there_counts_from_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("disable");
        fs::write(&file, "").unwrap();
        assert!(*Switch::start(&file).present().borrow());
    }

    #[tokio::test]
    async fn files_moved_in_and_out_count() {
        let directory = tempfile::tempdir().unwrap();
        let (file, other) = (directory.path().join("disable"), directory.path().join("other"));
        fs::write(&other, "").unwrap();
        let switch = Switch::start(&file);
        fs::rename(&other, &file).unwrap();
        until(&mut switch.present(), true).await;
        fs::rename(&file, &other).unwrap();
        until(&mut switch.present(), false).await;
    }

    #[tokio::test]
    async fn a_directory_may_come_later_go_and_return() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("lb");
        let file = directory.join("disable");
        let switch = Switch::start(&file);
        let mut state = switch.present();
        for _ in 0..2 {
            assert!(!*state.borrow());
            fs::create_dir(&directory).unwrap();
            fs::write(&file, "").unwrap();
            until(&mut state, true).await;
            fs::remove_dir_all(&directory).unwrap();
            until(&mut state, false).await;
        }
        // Back on inotify: faster than looking from time to time.
        fs::create_dir(&directory).unwrap();
        sleep(LOOK * 2).await;
        fs::write(&file, "").unwrap();
        until(&mut state, true).await;
    }

    #[tokio::test]
    async fn other_files_change_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let switch = Switch::start(&directory.path().join("disable"));
        let mut state = switch.present();
        fs::write(directory.path().join("lb.yaml"), "node: a").unwrap();
        sleep(LOOK).await;
        assert!(!state.has_changed().unwrap());
        assert!(!*state.borrow_and_update());
    }
}
