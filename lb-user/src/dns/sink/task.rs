//! The task that keeps a server at what is wanted, and remembers where it has written.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant as TokioInstant, sleep_until};
use tracing::{info, warn};

use super::keeper::{Keeper, Step, Timing};
use super::server::Kind;
use super::{SinkStatus, Spot, Store, Value, Wanted};
use crate::files;

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
    pub fn start<P: Spot, V: Value>(
        name: String,
        kind: Kind,
        store: Box<dyn Store<P, V>>,
        timing: Timing,
        memory: PathBuf,
        want: watch::Receiver<Option<Wanted<P, V>>>,
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

struct Task<P: Spot, V: Value> {
    name: String,
    kind: Kind,
    store: Box<dyn Store<P, V>>,
    keeper: Keeper<P, V>,
    memory: PathBuf,
    /// What the file says.
    written: BTreeSet<P>,
    publish: watch::Sender<SinkStatus>,
}

impl<P: Spot, V: Value> Task<P, V> {
    async fn run(mut self, mut want: watch::Receiver<Option<Wanted<P, V>>>) {
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
            // A server may take its time; until it has it, it is behind.
            self.tell();
            let until = self.work(&want).await;
            tokio::select! {
                changed = want.changed() => if changed.is_err() { return },
                () = sleep_until(TokioInstant::from_std(until)) => {}
            }
        }
    }

    /// Does what is to be done, step by step, as long as nothing else is wanted; until when to wait then.
    async fn work(&mut self, want: &watch::Receiver<Option<Wanted<P, V>>>) -> Instant {
        loop {
            if want.has_changed().unwrap_or(true) {
                return Instant::now();
            }
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
                Step::Settle => {
                    let done = self.store.settle().await;
                    self.keeper.settle(done, Instant::now());
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
        let text = serde_json::to_string_pretty(owned).unwrap_or_default();
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

fn remembered<P: Spot>(file: &Path) -> Result<BTreeSet<P>, String> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(format!("{}: {error}", file.display())),
    };
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
}
