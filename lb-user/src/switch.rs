//! A file whose presence switches something: `/etc/lb/disable`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use tokio::sync::watch;
use tracing::info;

use crate::watched::Watched;

/// Watches whether a file is present, until it is dropped.
pub struct Switch(Watched<bool>);

impl Switch {
    /// Starts; the state is right when this returns.
    ///
    /// Must be called within a Tokio runtime.
    pub fn start(file: &Path) -> Self {
        Switch(Watched::start(file, false, look))
    }

    /// Whether the file is present, now and whenever that changes.
    pub fn present(&self) -> watch::Receiver<bool> {
        self.0.value()
    }
}

/// Whether the file is present; what cannot be found out stays as it was.
fn look(file: &Path, before: &bool) -> bool {
    let present = match fs::symlink_metadata(file) {
        Ok(_) => true,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => false,
        Err(_) => *before,
    };
    if present != *before {
        info!("{} {}", file.display(), if present { "appeared" } else { "is gone" });
    }
    present
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep, timeout};

    use super::*;
    use crate::watched::LOOK;

    /// Waits for a state and returns how long it took.
    async fn until(state: &mut watch::Receiver<bool>, wanted: bool) -> Duration {
        let asked = Instant::now();
        let met = timeout(lb_test_support::PATIENCE, state.wait_for(|present| *present == wanted)).await;
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
        // Half of them, far sooner than by looking from time to time: a busy machine may be late.
        assert!(delays[delays.len() / 2] < LOOK / 4, "{delays:?}");
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
