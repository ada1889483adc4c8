//! What to do next about a server: read everything, write what differs, or wait. Pure: times are passed in.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Addresses, Changes, Place, Records, SinkError, SinkStatus, Spot, Value, Wanted, changes};

/// When things happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// After so long without one, everything is read again: somebody else may have changed it.
    pub full_sync: Duration,
    /// After the first failure it is tried again in this time, after each more in twice as long,
    pub retry: Duration,
    /// at most this.
    pub slowest: Duration,
}

impl Timing {
    /// A failure is tried again after 1 s, and after 30 s at the slowest.
    pub const fn new(full_sync: Duration) -> Self {
        Timing { full_sync, retry: Duration::from_secs(1), slowest: Duration::from_secs(30) }
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<P = Place, V = Addresses> {
    /// Read what these places hold.
    Read(BTreeSet<P>),
    /// Write this.
    Write(Changes<P, V>),
    /// See that what it holds is in force.
    Settle,
    /// Wait for news until then.
    Wait(Instant),
}

/// What is known of a server.
#[derive(Debug)]
pub struct Keeper<P = Place, V = Addresses> {
    timing: Timing,
    want: Wanted<P, V>,
    /// Another node writes.
    standby: bool,
    /// Places that are named, and those that were, until they are empty.
    owned: BTreeSet<P>,
    /// What the server holds at the places owned; `None`: it must be asked.
    held: Option<Records<P, V>>,
    /// What it holds is in force.
    settled: bool,
    read_at: Option<Instant>,
    /// Since when the server lacks something.
    behind_since: Option<Instant>,
    failures: u32,
    retry_at: Option<Instant>,
    error: Option<String>,
    written: u64,
    full_syncs: u64,
}

impl<P: Spot, V: Value> Keeper<P, V> {
    /// Of a server to which `owned` was written before.
    pub fn new(timing: Timing, owned: BTreeSet<P>, now: Instant) -> Self {
        Keeper {
            timing,
            want: Wanted::new(),
            standby: false,
            owned,
            held: None,
            settled: false,
            read_at: None,
            behind_since: Some(now),
            failures: 0,
            retry_at: None,
            error: None,
            written: 0,
            full_syncs: 0,
        }
    }

    /// From now on the server is to hold this.
    pub fn want(&mut self, want: Wanted<P, V>, now: Instant) {
        let fresh = want.keys().any(|place| !self.owned.contains(place));
        self.owned.extend(want.keys().cloned());
        if fresh {
            // What stands at new places is not known.
            self.held = None;
        }
        self.want = want;
        self.standby = false;
        if self.behind_since.is_none() && !self.is_in_step() {
            self.behind_since = Some(now);
        }
    }

    /// Until something is wanted again, the server is somebody else's affair, and may hold anything.
    pub fn stand_by(&mut self) {
        self.standby = true;
        (self.held, self.behind_since, self.error) = (None, None, None);
        (self.failures, self.retry_at) = (0, None);
    }

    /// Places that are named, and those that were, until they are empty: what must be remembered before a step is done.
    pub fn owned(&self) -> &BTreeSet<P> {
        &self.owned
    }

    /// What to do now.
    pub fn next(&self, now: Instant) -> Step<P, V> {
        if let Some(at) = self.retry_at.filter(|at| *at > now) {
            return Step::Wait(at);
        }
        let again = self.read_at.map(|at| at + self.timing.full_sync);
        match &self.held {
            Some(held) if again.is_some_and(|again| again > now) => {
                let changes = changes(&self.owned, &self.want, held);
                match changes.is_empty() {
                    true if self.settled => Step::Wait(again.unwrap_or(now)),
                    true => Step::Settle,
                    false => Step::Write(changes),
                }
            }
            _ => Step::Read(self.owned.clone()),
        }
    }

    /// A [`Step::Read`] came to this.
    pub fn read(&mut self, result: Result<Records<P, V>, SinkError>, now: Instant) {
        match result {
            Ok(held) => {
                self.held = Some(held);
                self.read_at = Some(now);
                self.full_syncs += 1;
                self.settled = false;
                self.succeeded(now);
            }
            Err(error) => self.failed(&error, now),
        }
    }

    /// A [`Step::Write`] of this came to that.
    pub fn wrote(&mut self, changes: &Changes<P, V>, result: Result<(), SinkError>, now: Instant) {
        match (result, &mut self.held) {
            (Ok(()), Some(held)) => {
                self.written += changes.len() as u64;
                self.settled = false;
                for (place, value) in changes {
                    match value {
                        Some(value) => held.insert(place.clone(), value.clone()),
                        None => held.remove(place),
                    };
                }
                self.succeeded(now);
            }
            (Ok(()), None) => self.succeeded(now),
            (Err(error), _) => self.failed(&error, now),
        }
    }

    /// A [`Step::Settle`] came to this.
    pub fn settle(&mut self, result: Result<(), SinkError>, now: Instant) {
        match result {
            Ok(()) => {
                self.settled = true;
                self.succeeded(now);
            }
            Err(error) => self.failed(&error, now),
        }
    }

    /// What is to be said of it.
    pub fn status(&self, name: &str, kind: &str, now: Instant) -> SinkStatus {
        let lag = self.behind_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        SinkStatus {
            name: name.into(),
            kind: kind.into(),
            standby: self.standby,
            in_step: self.behind_since.is_none() && !self.standby,
            lag_ms: lag.as_millis() as u64,
            error: self.error.clone(),
            places: self.owned.len(),
            written: self.written,
            full_syncs: self.full_syncs,
        }
    }

    fn is_in_step(&self) -> bool {
        self.settled
            && self.held.as_ref().is_some_and(|held| changes(&self.owned, &self.want, held).is_empty())
    }

    fn succeeded(&mut self, now: Instant) {
        self.retry_at = None;
        if let Some(held) = &self.held {
            self.owned.retain(|place| self.want.contains_key(place) || held.contains_key(place));
        }
        if self.is_in_step() {
            // Not before: a server that can be read may still refuse what is written.
            (self.behind_since, self.failures, self.error) = (None, 0, None);
        } else {
            self.behind_since = self.behind_since.or(Some(now));
        }
    }

    /// What the server holds is not known any more.
    fn failed(&mut self, error: &SinkError, now: Instant) {
        let wait = self.timing.retry * 2_u32.saturating_pow(self.failures.min(16));
        self.retry_at = Some(now + wait.min(self.timing.slowest));
        self.failures += 1;
        self.error = Some(error.to_string());
        self.held = None;
        self.settled = false;
        self.behind_since = self.behind_since.or(Some(now));
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
