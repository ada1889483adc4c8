//! What became of each kind of load beside long-lived connections and new requests. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::load::mix::LoadKind;
use crate::load::{Count, Summary};

/// A kind of load, as reports have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LoadCount {
    /// Connections, flows or transfers that were established and answered once.
    pub opened: u32,
    /// Went on to the end without a fault.
    pub survived: u32,
    /// Broke.
    pub broken: u32,
    /// Broke as their own host or server was killed.
    pub excused: u32,
    /// Of the survivors, those that ended when they were asked to.
    pub closed: u32,
    /// Transfers that could not begin.
    pub failed: u32,
    /// The longest wait for an answer or for progress, in ms.
    pub slowest_ms: u64,
    /// Bytes of transfers, verified.
    pub bytes: u64,
    /// Datagrams without an echo.
    pub lost: u64,
}

impl From<&Count> for LoadCount {
    fn from(count: &Count) -> Self {
        Self {
            opened: count.opened,
            survived: count.survived,
            closed: count.closed,
            failed: count.failed,
            slowest_ms: count.slowest_ms,
            bytes: count.bytes,
            lost: count.lost,
            ..Self::default()
        }
    }
}

/// Long-lived connections and all other kinds together; new requests are among those that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Established and answered once.
    pub opened: u64,
    /// Went on to the end without a fault.
    pub survived: u64,
    /// Broke.
    pub broken: u64,
    /// Broke as their own host or server was killed.
    pub excused: u64,
    /// New requests without a good answer, and transfers that could not begin.
    pub failed: u64,
}

/// Counts by kind.
pub type ByKind = BTreeMap<LoadKind, LoadCount>;

/// The kinds that were wanted or seen; broken and excused ones are counted later.
pub fn counts(wanted: &BTreeMap<LoadKind, u32>, summary: &Summary) -> ByKind {
    let is_there = |kind: &LoadKind| wanted_of(wanted, *kind) > 0 || summary.kinds.contains_key(kind);
    let count = |kind: LoadKind| (kind, summary.kinds.get(&kind).map(LoadCount::from).unwrap_or_default());
    LoadKind::OTHERS.into_iter().filter(is_there).map(count).collect()
}

fn wanted_of(wanted: &BTreeMap<LoadKind, u32>, kind: LoadKind) -> u32 {
    wanted.get(&kind).copied().unwrap_or_default()
}

/// All kinds together.
pub fn sum(load: &ByKind, field: impl Fn(&LoadCount) -> u32) -> u32 {
    load.values().map(field).sum()
}

/// `others` and all kinds together.
pub fn total(others: Total, load: &ByKind) -> Total {
    load.values().fold(others, |total, count| Total {
        opened: total.opened + u64::from(count.opened),
        survived: total.survived + u64::from(count.survived),
        broken: total.broken + u64::from(count.broken),
        excused: total.excused + u64::from(count.excused),
        failed: total.failed + u64::from(count.failed),
    })
}

/// Which kinds broke, for messages: `2 udp, 1 idle`.
pub fn broken(load: &ByKind, long_lived: u32) -> String {
    let others = load.iter().map(|(kind, count)| (*kind, count.broken));
    let all = [(LoadKind::LongLived, long_lived)].into_iter().chain(others);
    let words = all.filter(|(_, broken)| *broken > 0).map(|(kind, n)| format!("{n} {}", kind.word()));
    words.collect::<Vec<_>>().join(", ")
}

/// What was not opened, or got lost.
pub fn shortcomings(load: &ByKind, wanted: &BTreeMap<LoadKind, u32>) -> Vec<String> {
    let mut problems = Vec::new();
    for (kind, count) in load {
        let (word, wanted) = (kind.word(), wanted_of(wanted, *kind));
        if count.opened < wanted {
            problems.push(format!("{word}: {} of {wanted} could be opened", count.opened));
        }
        if count.opened != count.survived + count.broken + count.excused {
            problems.push(format!("{word}: some are missing: the load ended early"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(kind: LoadKind, count: Count) -> (BTreeMap<LoadKind, u32>, ByKind) {
        let wanted = [(kind, 2)].into();
        let summary = Summary { kinds: [(kind, count)].into(), ..Summary::default() };
        let counts = counts(&wanted, &summary);
        (wanted, counts)
    }

    #[test]
    fn kind_that_was_wanted_must_have_been_opened() {
        let (wanted, few) = load(LoadKind::Udp, Count { opened: 1, survived: 1, ..Count::default() });
        assert_eq!(shortcomings(&few, &wanted), ["udp: 1 of 2 could be opened"]);
        let none = counts(&wanted, &Summary::default());
        assert_eq!(shortcomings(&none, &wanted), ["udp: 0 of 2 could be opened"]);
        let (wanted, more) = load(LoadKind::Uploads, Count { opened: 7, survived: 7, ..Count::default() });
        assert!(shortcomings(&more, &wanted).is_empty());
    }

    #[test]
    fn what_neither_survived_nor_broke_is_missing() {
        let (wanted, mut lost) = load(LoadKind::Idle, Count { opened: 3, survived: 2, ..Count::default() });
        assert_eq!(shortcomings(&lost, &wanted), ["idle: some are missing: the load ended early"]);
        lost.entry(LoadKind::Idle).or_default().excused = 1;
        assert!(shortcomings(&lost, &wanted).is_empty());
    }

    #[test]
    fn broken_kinds_are_named() {
        let (_, mut both) = load(LoadKind::Idle, Count::default());
        both.entry(LoadKind::Idle).or_default().broken = 2;
        assert_eq!((broken(&both, 1), sum(&both, |count| count.broken)), ("1 long_lived, 2 idle".into(), 2));
    }
}
