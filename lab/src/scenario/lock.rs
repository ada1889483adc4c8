//! Who plays on a lab: one `lab run` at a time.
//!
//! The lock is the kernel's, on a file on the lab's tmpfs, so that a process that was killed does not hold it. A lab that
//! `lab run` brought up for itself belongs to it from its first moment on, by its state file.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::paths::Paths;
use crate::process::{self, Process};
use crate::state::State;

/// Holds the lock while it lives.
pub struct Lock(#[allow(dead_code, reason = "held, not read")] Flock<File>);

/// A process that plays on the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    pub process: Process,
    /// Since when, in seconds of Unix time.
    pub since: u64,
}

impl Holder {
    /// This process, from now on.
    pub fn own() -> Result<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(Self { process: process::own()?, since })
    }

    /// Of one that runs: `process 4711 (lab run 05), since 17:20:01 UTC, for 35 s`.
    pub fn describe(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let lasted = now.saturating_sub(Duration::from_secs(self.since)).as_secs();
        format!("{}, since {} UTC, for {lasted} s", self.name(), time_of_day(self.since))
    }

    /// Of one that was killed: `process 4711 (lab run 05), begun at 17:20:01 UTC`.
    pub fn describe_dead(&self) -> String {
        format!("{}, begun at {} UTC", self.name(), time_of_day(self.since))
    }

    fn name(&self) -> String {
        let mut words = self.process.argv.clone();
        if let Some(program) = words.first_mut() {
            *program = program.rsplit('/').next().unwrap_or_default().to_owned();
        }
        let command: String = words.join(" ").chars().take(80).collect();
        format!("process {} ({command})", self.process.pid)
    }
}

fn time_of_day(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// Takes the lock; an error says who has it.
pub fn take(paths: &Paths) -> Result<Lock> {
    match try_take(paths)? {
        Ok(lock) => Ok(lock),
        Err(holder) => bail!(
            "lab {} is in use by {}; wait for it, or take another lab by --name",
            paths.name,
            holder.map_or_else(|| "another lab run".to_owned(), |holder| holder.describe())
        ),
    }
}

/// Takes the lock if nobody has it; else says who has, as far as that is known.
pub fn try_take(paths: &Paths) -> Result<std::result::Result<Lock, Option<Holder>>> {
    if let Some(owner) = owner(paths)? {
        return Ok(Err(Some(owner)));
    }
    let path = file(paths);
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let open = open.with_context(|| format!("opening {}", path.display()))?;
    let mut lock = match Flock::lock(open, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((mut file, Errno::EWOULDBLOCK)) => return Ok(Err(read(&mut file))),
        Err((_, error)) => return Err(error).with_context(|| format!("locking {}", path.display())),
    };
    let text = serde_json::to_vec(&Holder::own()?).context("writing the lock's holder")?;
    lock.set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| lock.write_all(&text))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(Ok(Lock(lock)))
}

/// Who has the lock now, if anybody; that is not asked for the lock's sake.
pub fn holder(paths: &Paths) -> Option<Holder> {
    if let Ok(Some(owner)) = owner(paths) {
        return Some(owner);
    }
    let mut file = File::open(file(paths)).ok()?;
    let holder = read(&mut file);
    // Somebody who locks it in this very moment is told that we have it, and comes again.
    let is_free = Flock::lock(file, FlockArg::LockSharedNonblock).is_ok();
    holder.filter(|holder| !is_free && holder.process.is_running())
}

/// The process that brought the lab up for itself, if it runs and is not this one.
fn owner(paths: &Paths) -> Result<Option<Holder>> {
    let Some(state) = State::load(paths)?.filter(|state| state.temporary) else { return Ok(None) };
    let is_other = state.creator.is_running() && state.creator != process::own()?;
    Ok(is_other.then(|| {
        let written = std::fs::metadata(paths.state()).and_then(|state| state.modified()).ok();
        let written = written.and_then(|written| written.duration_since(UNIX_EPOCH).ok());
        let since = written.unwrap_or_default().as_secs();
        let known = File::open(file(paths)).ok().and_then(|mut file| read(&mut file));
        let known = known.filter(|known| known.process == state.creator);
        known.unwrap_or(Holder { process: state.creator, since })
    }))
}

fn file(paths: &Paths) -> PathBuf {
    paths.folder.join("run.lock")
}

fn read(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.take(1 << 16).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(folder: &std::path::Path) -> Paths {
        Paths { name: "x".to_owned(), folder: folder.to_owned(), cgroup: folder.join("cgroup") }
    }

    #[test]
    fn second_lock_is_refused_with_its_holder_and_a_dropped_one_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(folder.path());
        assert_eq!(holder(&paths), None);
        let first = take(&paths).unwrap();
        let error = take(&paths).err().unwrap().to_string();
        let own = format!("lab x is in use by process {} (", std::process::id());
        assert!(error.starts_with(&own) && error.contains("), since "), "{error}");
        assert_eq!(holder(&paths).unwrap().process.pid.unsigned_abs(), std::process::id());
        drop(first);
        assert_eq!(holder(&paths), None);
        take(&paths).unwrap();
    }

    #[test]
    fn holder_is_described_with_its_time() {
        let process = Process {
            name: "lab".to_owned(),
            pid: 7,
            start_time: 1,
            argv: ["/usr/bin/lab", "run", "05"].map(str::to_owned).into(),
        };
        let holder = Holder { process, since: 3 * 3600 + 25 * 60 + 45 };
        let text = holder.describe();
        assert!(text.starts_with("process 7 (lab run 05), since 03:25:45 UTC, for "), "{text}");
        assert_eq!(holder.describe_dead(), "process 7 (lab run 05), begun at 03:25:45 UTC");
    }
}
