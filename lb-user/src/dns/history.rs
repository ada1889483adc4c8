//! What has changed of members, and when: what checks said of an address, and what the operator ordered. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::snapshot::{Data, Observed, Order, Watch};
use super::status::{OrderRequest, absolute};
use crate::model::HostId;

/// Most changes that are kept of an address.
pub const OF_ADDRESS: usize = 32;
/// Most changes that are kept of all addresses.
pub const OF_ALL: usize = 10_000;

/// What an address has become by a check or an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Turn {
    /// The check passes.
    Up,
    /// The check passes, and says that the address will not be there for long: its VIP leaves.
    Leaves,
    /// The check fails, or the operator took the address out.
    Down,
    /// The operator wants no new clients there while others work.
    Drain,
    /// The operator has left it to the checks again.
    Checks,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The address.
    pub address: IpAddr,
    /// The check that said so; `None`: the operator.
    pub check: Option<String>,
    /// The only name that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it has become.
    pub turn: Turn,
    /// Why, in words.
    pub reason: String,
}

impl Turn {
    /// What an address is by what a check says; `None`: nothing is known.
    pub fn of(seen: &Observed) -> Option<Self> {
        seen.up.map(|up| match (up, seen.leaving) {
            (true, false) => Turn::Up,
            (true, true) => Turn::Leaves,
            (false, _) => Turn::Down,
        })
    }
}

/// What an order of the operator, which is about these names, has changed.
pub fn ordered(request: &OrderRequest, names: &[String], at_ms: u64) -> Change {
    let turn = match request.state {
        Some(Order::Drain) => Turn::Drain,
        Some(Order::Down) => Turn::Down,
        None => Turn::Checks,
    };
    let name = request.name.as_ref().and_then(|_| names.first().cloned());
    Change { at_ms, address: request.address, check: None, name, turn, reason: "ordered".into() }
}

/// What has changed in what checks say. `before` says what was known of a watch, of which it gets the number, too.
pub fn observed(
    watches: &[Watch],
    seen: &[Observed],
    before: impl Fn(usize, &HostId) -> Option<Turn>,
    at_ms: u64,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for (number, (watch, seen)) in watches.iter().zip(seen).enumerate() {
        // That a check passes from the start is no change.
        let was = || before(number, &watch.id).unwrap_or(Turn::Up);
        if let Some(turn) = Turn::of(seen).filter(|turn| *turn != was()) {
            let (check, reason) = (Some(watch.check().to_owned()), seen.reason.to_string());
            changes.push(Change { at_ms, address: watch.address, check, name: None, turn, reason });
        }
    }
    changes
}

/// The last changes of all addresses.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// By address, the oldest first.
    changes: BTreeMap<IpAddr, VecDeque<Change>>,
    all: usize,
}

impl History {
    /// These changes, in the order in which they happened.
    pub fn of(changes: impl IntoIterator<Item = Change>) -> Self {
        let mut history = History::default();
        history.note(changes);
        history
    }

    /// All changes, in the order in which they happened.
    pub fn all(&self) -> Vec<Change> {
        let mut all: Vec<Change> = self.changes.values().flatten().cloned().collect();
        // Of one moment, those of an address stay in their order.
        all.sort_by_key(|change| change.at_ms);
        all
    }

    /// The changes that `of` is about, an address or a name with members; `None`: all.
    pub fn about(&self, of: Option<&str>, data: &Data) -> Result<Vec<Change>, String> {
        let Some(of) = of else { return Ok(self.all()) };
        if let Ok(address) = of.parse() {
            return Ok(self.changes.get(&address).into_iter().flatten().cloned().collect());
        }
        let name = absolute(of)?.to_lowercase();
        let choice = data.choices.iter().find(|choice| choice.name.to_lowercase() == name);
        let choice = choice.ok_or_else(|| {
            format!("{of} is no address and no name with members; `lb dns status` shows all")
        })?;
        let ascii = name.to_ascii();
        let mut all = self.all();
        all.retain(|change| {
            let member = choice.members.iter().find(|member| member.address == change.address);
            member.is_some_and(|member| match &change.check {
                Some(check) => member.checks.contains(check),
                None => change.name.as_ref().is_none_or(|name| *name == ascii),
            })
        });
        Ok(all)
    }

    /// Adds changes that happened after all others.
    pub fn note(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes.into_iter().for_each(|change| self.add(change));
        self.make_room();
    }

    fn add(&mut self, change: Change) {
        let changes = self.changes.entry(change.address).or_default();
        changes.push_back(change);
        if changes.len() > OF_ADDRESS {
            changes.pop_front();
        } else {
            self.all += 1;
        }
    }

    /// Forgets the oldest, and some more at once: to find them takes a look at all.
    fn make_room(&mut self) {
        if self.all <= OF_ALL {
            return;
        }
        let all = self.all();
        let kept = all.into_iter().skip(self.all - OF_ALL * 3 / 4);
        *self = History::default();
        kept.for_each(|change| self.add(change));
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
