//! The undo log: what a run changes, as it was before. Written before each action, on the lab's tmpfs, so that the next
//! command finishes what a run left that was killed.
//!
//! A record holds a thing as it was *before* the run first touched it, and as the run left it *after* its last action. What
//! is neither the one nor the other when the log is played back was changed by somebody else, and stays.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::lock::Holder;
use crate::paths::Paths;

/// A file's content; none if there is no such file.
pub type Content = Option<String>;

/// A link of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub is_up: bool,
    /// Its MTU.
    pub mtu: u32,
}

/// Something of a lab that a run can change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Thing {
    /// A process of a node is halted.
    Halted(String, String),
    /// All links of a node.
    Links(String),
    /// A file of a node, settings of its kernel included.
    File(String, String),
    /// Which processes of a node run.
    Processes(String),
    /// The agent of a node is another program.
    Program(String),
    /// The HAProxy backend of an L7 host that its health check counts.
    Enabler(String),
    /// The pools in the manifest.
    Pools,
}

impl Thing {
    /// The node that it is of, if of one.
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::Halted(node, _)
            | Self::Links(node)
            | Self::File(node, _)
            | Self::Processes(node)
            | Self::Program(node)
            | Self::Enabler(node) => Some(node),
            Self::Pools => None,
        }
    }

    /// For messages.
    pub fn words(&self) -> String {
        match self {
            Self::Halted(node, process) => format!("{process} of {node}"),
            Self::Links(node) => format!("the links of {node}"),
            Self::File(node, path) => format!("{path} of {node}"),
            Self::Processes(node) => format!("the processes of {node}"),
            Self::Program(node) => format!("the agent of {node}"),
            Self::Enabler(node) => format!("the health check of {node}"),
            Self::Pools => "the pools".to_owned(),
        }
    }
}

/// How something is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// Of what only runs change (halted processes, programs, HAProxy's enabler): as a lab that is ready has it.
    Usual,
    /// Of the same: changed.
    Changed,
    /// Of links.
    Links(Vec<Link>),
    /// Of a file, and of pools.
    Content(Content),
    /// Names of processes that run, in order.
    Running(Vec<String>),
}

/// A thing that the run has touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What.
    pub thing: Thing,
    /// As it was before.
    pub before: Value,
    /// As the run left it; none while an action is at work on it.
    pub after: Option<Value>,
}

/// What to do about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is as it was.
    Nothing,
    /// It is as the run left it, or may be.
    Restore,
    /// Somebody else has changed it.
    Keep,
}

impl Record {
    /// What to do if the thing is like `now`.
    pub fn fate(&self, now: &Value) -> Fate {
        if *now == self.before {
            return Fate::Nothing;
        }
        match &self.after {
            Some(after) if after != now => Fate::Keep,
            _ => Fate::Restore,
        }
    }
}

/// All that a run has touched, in the order in which it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// The run.
    pub by: Holder,
    /// Each thing once.
    pub records: Vec<Record>,
}

impl Log {
    /// Of a run that has not done anything.
    pub fn new(by: Holder) -> Self {
        Self { by, records: Vec::new() }
    }

    /// Whether this thing has been touched.
    pub fn has(&self, thing: &Thing) -> bool {
        self.records.iter().any(|record| record.thing == *thing)
    }

    /// An action is about to change `thing`, which is like `now` if it was not touched before.
    pub fn begin(&mut self, thing: Thing, now: Value) {
        match self.records.iter_mut().find(|record| record.thing == thing) {
            Some(record) => record.after = None,
            None => self.records.push(Record { thing, before: now, after: None }),
        }
    }

    /// The action has ended, and left `thing` like `now`.
    pub fn end(&mut self, thing: &Thing, now: Value) {
        if let Some(record) = self.records.iter_mut().find(|record| record.thing == *thing) {
            record.after = Some(now);
        }
    }

    /// Writes the log; a log of nothing is no file.
    pub fn save(&self, paths: &Paths) -> Result<()> {
        let file = file(paths);
        if self.records.is_empty() {
            return match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(error).with_context(|| format!("removing {}", file.display()))
                }
                _ => Ok(()),
            };
        }
        let new = file.with_extension("new");
        let json = serde_json::to_vec_pretty(self).context("writing the undo log as JSON")?;
        fs::write(&new, json)
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("writing {}", file.display()))
    }

    /// Reads the log that a run has left, if one has.
    pub fn load(paths: &Paths) -> Result<Option<Self>> {
        let file = file(paths);
        match fs::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
            Ok(json) => serde_json::from_slice(&json).map(Some).with_context(|| {
                format!("{} is no undo log; rebuild the lab: lab down --name {}", file.display(), paths.name)
            }),
        }
    }

    /// Whom it is about: `lb4-1, r1, the pools`.
    pub fn describe(&self) -> String {
        let mut nodes: Vec<&str> =
            self.records.iter().map(|record| record.thing.node().unwrap_or("the pools")).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.join(", ")
    }
}

fn file(paths: &Paths) -> PathBuf {
    paths.folder.join("undo.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;

    fn content(text: &str) -> Value {
        Value::Content(Some(text.to_owned()))
    }

    fn log() -> Log {
        Log::new(Holder { process: process::own().unwrap(), since: 0 })
    }

    #[test]
    fn only_what_the_run_left_is_restored() {
        let thing = Thing::File("lb4-1".to_owned(), "/etc/lb/lb.yaml".to_owned());
        let record = |after| Record { thing: thing.clone(), before: content("a"), after };
        let left = record(Some(content("b")));
        assert_eq!(left.fate(&content("a")), Fate::Nothing);
        assert_eq!(left.fate(&content("b")), Fate::Restore);
        assert_eq!(left.fate(&content("c")), Fate::Keep);
        assert_eq!(left.fate(&Value::Content(None)), Fate::Keep);
        // Killed at work: what is there is the run's as far as anybody knows.
        assert_eq!(record(None).fate(&content("c")), Fate::Restore);
    }

    #[test]
    fn what_was_before_the_first_action_counts_and_what_is_after_the_last() {
        let mut log = log();
        let thing = Thing::File("lb7-1".to_owned(), "/etc/lb/agent-check".to_owned());
        log.begin(thing.clone(), content("ready"));
        log.end(&thing, content("down"));
        log.begin(thing.clone(), content("down"));
        assert_eq!(log.records[0].after, None, "at work");
        log.end(&thing, content("drain"));
        assert_eq!(log.records.len(), 1);
        assert_eq!(
            (&log.records[0].before, &log.records[0].after),
            (&content("ready"), &Some(content("drain")))
        );
    }

    #[test]
    fn log_is_read_as_it_was_written_and_gone_when_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let paths = Paths { name: "x".to_owned(), folder: folder.into(), cgroup: folder.join("cgroup") };
        let mut log = log();
        log.begin(Thing::Pools, content("version: 1\n"));
        log.begin(Thing::File("lb4-1".to_owned(), "/x".to_owned()), Value::Content(None));
        let link = Link { name: "eth0".to_owned(), is_up: true, mtu: 1600 };
        log.begin(Thing::Links("r1".to_owned()), Value::Links(vec![link]));
        log.save(&paths).unwrap();
        assert_eq!(Log::load(&paths).unwrap(), Some(log.clone()));
        assert_eq!(log.describe(), "lb4-1, r1, the pools");
        log.records.clear();
        log.save(&paths).unwrap();
        assert_eq!(Log::load(&paths).unwrap(), None);
        fs::write(file(&paths), "{").unwrap();
        assert!(Log::load(&paths).unwrap_err().to_string().contains("lab down --name x"));
    }
}
