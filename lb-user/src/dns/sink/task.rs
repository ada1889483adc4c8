//! The task that keeps a server at what is wanted, and remembers where it has written.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use hickory_proto::rr::LowerName;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant as TokioInstant, sleep_until};
use tracing::{info, warn};

use super::keeper::{Keeper, Step, Timing};
use super::server::Kind;
use super::{Place, SinkStatus, Store, Wanted};
use crate::files;
use crate::model::Family;

/// Keeps a server at what is wanted until it is dropped; its records then stay as they are.
pub struct Sink {
    status: watch::Receiver<SinkStatus>,
    _task: JoinSet<()>,
}

impl Sink {
    /// Starts. While `want` is `None`, nothing is read or written: it is not known what to write, or that is for another
    /// node to do. `memory` is the file that names the places written to.
    ///
    /// Must be called within a Tokio runtime.
    pub fn start(
        name: String,
        kind: Kind,
        store: Box<dyn Store>,
        timing: Timing,
        memory: PathBuf,
        want: watch::Receiver<Option<Wanted>>,
    ) -> Self {
        let owned = remembered(&memory).unwrap_or_else(|problem| {
            warn!(sink = name, problem, "not known what was written before");
            BTreeSet::new()
        });
        let keeper = Keeper::new(timing, owned.clone(), Instant::now());
        let (publish, status) = watch::channel(keeper.status(&name, kind.name(), Instant::now()));
        let mut tasks = JoinSet::new();
        tasks.spawn(Task { name, kind, store, keeper, memory, written: owned, publish }.run(want));
        Sink { status, _task: tasks }
    }

    /// What it does, now and whenever that changes.
    pub fn status(&self) -> watch::Receiver<SinkStatus> {
        self.status.clone()
    }
}

struct Task {
    name: String,
    kind: Kind,
    store: Box<dyn Store>,
    keeper: Keeper,
    memory: PathBuf,
    /// What the file says.
    written: BTreeSet<Place>,
    publish: watch::Sender<SinkStatus>,
}

impl Task {
    async fn run(mut self, mut want: watch::Receiver<Option<Wanted>>) {
        loop {
            let wanted = want.borrow_and_update().clone();
            let Some(wanted) = wanted else {
                self.keeper.stand_by();
                self.tell();
                match want.changed().await {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            };
            self.keeper.want(wanted, Instant::now());
            let until = self.work().await;
            tokio::select! {
                changed = want.changed() => if changed.is_err() { return },
                () = sleep_until(TokioInstant::from_std(until)) => {}
            }
        }
    }

    /// Does what is to be done; until when to wait then.
    async fn work(&mut self) -> Instant {
        loop {
            let step = self.keeper.next(Instant::now());
            if !matches!(step, Step::Wait(_)) {
                self.remember();
            }
            match step {
                Step::Read(places) => {
                    let held = self.store.read(&places).await;
                    self.keeper.read(held, Instant::now());
                }
                Step::Write(changes) => {
                    let done = self.store.write(&changes).await;
                    if done.is_ok() {
                        info!(sink = self.name, places = changes.len(), "written");
                    }
                    self.keeper.wrote(&changes, done, Instant::now());
                }
                Step::Wait(until) => {
                    self.remember();
                    self.tell();
                    return until;
                }
            }
        }
    }

    /// Before anything is written, so that it can be taken away whatever happens.
    fn remember(&mut self) {
        let owned = self.keeper.owned();
        if *owned == self.written {
            return;
        }
        let places: Vec<Remembered> = owned.iter().map(Remembered::of).collect();
        let text = serde_json::to_string_pretty(&places).unwrap_or_default();
        match files::replace(&self.memory, text.as_bytes()) {
            Ok(()) => self.written = owned.clone(),
            Err(error) => {
                let file = self.memory.display();
                warn!(sink = self.name, %file, %error, "cannot remember where it writes");
            }
        }
    }

    fn tell(&self) {
        let status = self.keeper.status(&self.name, self.kind.name(), Instant::now());
        self.publish.send_if_modified(|before| {
            if before.error != status.error
                && let Some(error) = &status.error
            {
                warn!(sink = self.name, error, "behind");
            }
            let differs = *before != status;
            *before = status;
            differs
        });
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remembered {
    zone: String,
    name: String,
    family: u8,
}

impl Remembered {
    fn of(place: &Place) -> Self {
        let family = if place.family == Family::V4 { 4 } else { 6 };
        Remembered { zone: place.zone.to_string(), name: place.name.to_string(), family }
    }

    fn place(&self) -> Option<Place> {
        let lower = |text: &str| text.parse::<LowerName>().ok();
        let family = if self.family == 4 { Family::V4 } else { Family::V6 };
        Some(Place { zone: lower(&self.zone)?, name: lower(&self.name)?, family })
    }
}

fn remembered(file: &Path) -> Result<BTreeSet<Place>, String> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(format!("{}: {error}", file.display())),
    };
    let places: Vec<Remembered> =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(places.iter().filter_map(Remembered::place).collect())
}
