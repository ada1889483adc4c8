//! Whose turn it is, and how many turns each host has; see the order of turns in [`super::maglev`].

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

use super::maglev::Member;

/// A turn of a host, by the host's place among the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub number: u32,
    pub weight: u32,
    pub host: u16,
}

impl Turn {
    /// Whether it comes before `other`.
    #[inline]
    pub fn is_before(self, other: Turn) -> bool {
        self.cmp(&other).is_lt()
    }
}

impl Ord for Turn {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        let time = time(self.number.into(), self.weight, other.number.into(), other.weight);
        time.then(other.weight.cmp(&self.weight)).then(self.host.cmp(&other.host))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The order of two turns by time, turn / weight, as integers: a turn is at most 2³², a weight below it.
#[inline]
fn time(turn: u64, weight: u32, other: u64, of_weight: u32) -> Ordering {
    (turn * u64::from(of_weight)).cmp(&(other * u64::from(weight)))
}

/// The time at which so many rows would be taken if rows could be taken in parts, all hosts at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    rows: u32,
    weights: u64,
}

impl Moment {
    pub fn new(members: &[Member<'_>], rows: u32) -> Self {
        Moment { rows, weights: members.iter().map(|member| u64::from(member.weight)).sum() }
    }

    /// How many turns a host of this weight has before this time.
    pub fn turns(self, weight: u32) -> u32 {
        // At most the rows, since a weight is at most the sum of all.
        (u64::from(weight) * u64::from(self.rows)).div_ceil(self.weights) as u32
    }
}

/// How many of the first `size` turns each host has: the rows that it owns in the end.
pub(super) fn counts(members: &[Member<'_>], size: u32) -> Vec<u32> {
    // A host has less than one turn more than its part until a moment. So until the one when a row per host is left to be
    // taken, no more turns have been than rows, and no more are left than hosts.
    let early = Moment::new(members, size - members.len() as u32);
    let mut counts: Vec<u32> = members.iter().map(|member| early.turns(member.weight)).collect();
    let mut left = size as usize - counts.iter().map(|count| *count as usize).sum::<usize>();
    let mut queue = Turns::new(members, |weight| early.turns(weight));
    while let Some(class) = queue.pop().filter(|_| left > 0) {
        for host in class.hosts.iter().take(left) {
            counts[usize::from(*host)] += 1;
        }
        left = left.saturating_sub(class.hosts.len());
        queue.push_next(class);
    }
    counts
}

/// Whose turn it is: hosts of equal weight always come together, so only classes of weight need ordering.
pub(super) struct Turns(BinaryHeap<Reverse<Class>>);

/// The hosts of one weight, by name, before their next turn.
pub(super) struct Class {
    pub turn: u64,
    weight: u32,
    pub hosts: Vec<u16>,
}

impl Turns {
    /// Where hosts of each weight have had `had` turns.
    pub fn new(members: &[Member<'_>], had: impl Fn(u32) -> u32) -> Self {
        let mut classes: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
        for (host, member) in members.iter().enumerate() {
            classes.entry(member.weight).or_default().push(host as u16);
        }
        let class = |(weight, hosts)| Reverse(Class { turn: had(weight).into(), weight, hosts });
        Turns(classes.into_iter().map(class).collect())
    }

    pub fn pop(&mut self) -> Option<Class> {
        self.0.pop().map(|Reverse(class)| class)
    }

    pub fn push_next(&mut self, class: Class) {
        self.0.push(Reverse(Class { turn: class.turn + 1, ..class }));
    }
}

impl Ord for Class {
    /// By time; the heavier first.
    fn cmp(&self, other: &Self) -> Ordering {
        time(self.turn, self.weight, other.turn, other.weight).then(other.weight.cmp(&self.weight))
    }
}

impl PartialOrd for Class {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Class {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Class {}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
