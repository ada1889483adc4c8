//! Follows the file that says where clients are.
//!
//! Thread: one at a time reads the file, which may take a second; answers go on meanwhile. Started by
//! [`Follower::look`], its result is taken by [`Follower::read`].

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{info, warn};

use super::table::Table;
use super::{Geo, GeoConfig, Networks};
use crate::dns::extfile::{Seen, seen};

/// What is said of where clients are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeoStatus {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// What is in force of it; `None`: no file has been read.
    pub content: Option<Content>,
    /// Networks of the configuration.
    pub networks: usize,
    /// What is wrong with the file.
    pub problem: Option<String>,
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// What it calls itself.
    pub kind: String,
    /// When it was made, in seconds since 1970.
    pub built: u64,
    /// Networks that are in it.
    pub networks: u64,
}

/// The file, and what is known.
#[derive(Debug, Default)]
pub struct Follower {
    config: Option<GeoConfig>,
    /// What was looked at last; `None`: nothing yet.
    seen: Option<Seen>,
    reading: Option<JoinHandle<Result<Table, String>>>,
    geo: Arc<Geo>,
    problem: Option<String>,
}

impl Follower {
    /// Follows the file of this configuration, which is read here and now: nobody is answered yet.
    pub fn start(config: Option<&GeoConfig>) -> Self {
        let mut follower = Follower::default();
        follower.replace(config);
        if let Some(path) = follower.file().map(Path::to_owned) {
            follower.seen = Some(seen(&path));
            follower.take(read(&path));
        }
        follower
    }

    /// Goes by another configuration. If it has another file, that is waited for, lest clients have no region meanwhile.
    pub async fn go_by(&mut self, config: Option<&GeoConfig>) {
        let before = self.file().map(Path::to_owned);
        self.replace(config);
        if self.file() != before.as_deref() {
            (self.seen, self.reading, self.problem) = (None, None, None);
            self.look();
            if self.reading.is_some() {
                self.read().await;
            }
        }
    }

    fn replace(&mut self, config: Option<&GeoConfig>) {
        self.config = config.cloned();
        let networks = config.map(|config| Networks::new(&config.networks)).unwrap_or_default();
        let file = self.geo.file.clone().filter(|_| self.file().is_some());
        self.geo = Arc::new(Geo { file, networks: Arc::new(networks) });
    }

    /// Looks whether the file has changed, and has it read if so.
    pub fn look(&mut self) {
        let Some(path) = self.file().filter(|_| self.reading.is_none()) else { return };
        let now = seen(path);
        if self.seen != Some(now) {
            let path = path.to_owned();
            self.seen = Some(now);
            self.reading = Some(spawn_blocking(move || read(&path)));
        }
    }

    /// Takes what is being read when that is done; waits forever if there is nothing.
    pub async fn read(&mut self) {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let done = reading.await;
        self.reading = None;
        match done {
            Ok(result) => self.take(result),
            // The thread was lost: the next look finds the file again.
            Err(_) => self.seen = None,
        }
    }

    /// All that is known.
    pub fn geo(&self) -> &Arc<Geo> {
        &self.geo
    }

    /// What is wrong with the file.
    pub fn problem(&self) -> Option<&String> {
        self.problem.as_ref()
    }

    /// What there is to say; `None`: nothing is configured.
    pub fn status(&self) -> Option<GeoStatus> {
        let config = self.config.as_ref()?;
        let content = self.geo.file.as_ref().map(|table| Content {
            kind: table.kind.clone(),
            built: table.built,
            networks: table.networks,
        });
        let (file, problem) = (config.file.clone(), self.problem.clone());
        Some(GeoStatus { file, content, networks: config.networks.len(), problem })
    }

    fn file(&self) -> Option<&Path> {
        self.config.as_ref()?.file.as_deref()
    }

    /// A bad file leaves what was there before in force.
    fn take(&mut self, read: Result<Table, String>) {
        match read {
            Ok(table) => {
                info!(kind = table.kind, networks = table.networks, "dns: read where clients are");
                let networks = Arc::clone(&self.geo.networks);
                self.geo = Arc::new(Geo { file: Some(Arc::new(table)), networks });
                self.problem = None;
            }
            Err(problem) => {
                let instead = match self.geo.file {
                    Some(_) => "what was read last stays in force",
                    None => "clients have no region by it",
                };
                warn!("dns: {problem}; {instead}");
                self.problem = Some(format!("{problem}; {instead}"));
            }
        }
    }
}

fn read(path: &Path) -> Result<Table, String> {
    let named = |problem: String| format!("{}: {problem}", path.display());
    let content = fs::read(path).map_err(|error| named(format!("cannot be read: {error}")))?;
    Table::read(&content).map_err(named)
}
