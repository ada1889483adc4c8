//! What must be known of a population to [`super::grow`] it.

use std::cmp::Reverse;
use std::panic::resume_unwind;
use std::thread;

use super::maglev::{Member, Walk};
use super::turns::{Moment, Turn, counts};

/// How far ahead a host may get, in rows.
pub(super) const DEPTH: u32 = 8;

/// Of one population.
pub(super) struct Roots {
    /// By row, who took it: both in one place, since rows are looked at here and there.
    pub takers: Vec<Taker>,
    /// Of each host, on from the row of its last turn.
    pub walks: Vec<Walk>,
    pub depth: u32,
    near: Vec<Vec<Near>>,
    /// The rows of turns from `late` on, the latest first: some more than are to be looked at.
    pub latest: Vec<u32>,
    pub late: Moment,
}

/// The turn that took a row.
#[derive(Clone, Copy, Default)]
pub(super) struct Taker {
    /// Its number, among those of the host.
    pub turn: u32,
    pub host: u16,
}

/// A row on the walk of a host that it would have had if it had been ahead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Near {
    pub row: u32,
    /// How many of the host's own rows come before it.
    pub before: u32,
    /// By how much it has to be ahead to come first.
    pub ahead: u32,
}

impl Roots {
    /// Of the population of `members`.
    pub fn new(members: &[Member<'_>], seed: u64, taken: Taken<'_>, depth: u32) -> Self {
        let size = taken.owners.len() as u32;
        let late = Moment::new(members, size.saturating_sub(4 * size.isqrt()));
        let is_late = |turn: Turn| turn.number >= late.turns(turn.weight);
        let latest = (0..size).map(|row| (taken.turn(members, row), row)).filter(|(turn, _)| is_late(*turn));
        let mut latest: Vec<_> = latest.collect();
        latest.sort_by_key(|(turn, _)| Reverse(*turn));
        let times = times(members, &taken);
        let known = Walks { members, seed, counts: counts(members, size), times, taken, depth };
        let hosts: Vec<u16> = (0..members.len() as u16).collect();
        let (first, second) = hosts.split_at(hosts.len() / 2);
        let all = |hosts: &[u16]| hosts.iter().map(|host| known.walk(*host)).collect::<Vec<_>>();
        let (near, walks) = thread::scope(|scope| {
            let second = scope.spawn(|| all(second));
            let first = all(first);
            let second = second.join().unwrap_or_else(|panic| resume_unwind(panic));
            first.into_iter().chain(second).unzip()
        });
        let latest = latest.into_iter().map(|(_, row)| row).collect();
        let Taken { owners, turns } = known.taken;
        let takers =
            turns.iter().zip(owners).map(|(turn, host)| Taker { turn: *turn, host: *host }).collect();
        Roots { near, walks, depth, latest, late, takers }
    }

    /// Near rows of a host, in the order of its walk.
    pub fn near(&self, host: usize) -> &[Near] {
        &self.near[host]
    }
}

/// Who took each row, and with which turn.
pub(super) struct Taken<'a> {
    pub owners: &'a [u16],
    pub turns: Vec<u32>,
}

impl Taken<'_> {
    fn turn(&self, members: &[Member<'_>], row: u32) -> Turn {
        let host = self.owners[row as usize];
        Turn { number: self.turns[row as usize], weight: members[usize::from(host)].weight, host }
    }
}

/// The times of the turns that took the rows, in 256 steps.
struct Times {
    step: f64,
    rows: Vec<u8>,
}

fn times(members: &[Member<'_>], taken: &Taken<'_>) -> Times {
    let time = |row| {
        let turn = taken.turn(members, row);
        f64::from(turn.number) / f64::from(turn.weight)
    };
    let all = 0..taken.owners.len() as u32;
    let step = all.clone().map(time).fold(f64::MIN_POSITIVE, f64::max) / 255.0;
    Times { step, rows: all.map(|row| of_steps(time(row), step)).collect() }
}

/// Rounding keeps order: the later of two times never has the lesser step.
fn of_steps(time: f64, step: f64) -> u8 {
    (time / step) as u8
}

struct Walks<'a> {
    members: &'a [Member<'a>],
    seed: u64,
    taken: Taken<'a>,
    counts: Vec<u32>,
    times: Times,
    depth: u32,
}

impl Walks<'_> {
    /// Near rows of a host, and its walk on from its last row.
    fn walk(&self, host: u16) -> (Vec<Near>, Walk) {
        let Member { name, weight } = self.members[usize::from(host)];
        let mut walk = Walk::new(name, self.seed, self.taken.owners.len() as u32);
        let (mut near, mut row, mut before) = (Vec::new(), walk.next, 0);
        loop {
            // A host that is ahead by `depth` rows comes at this turn, and takes what is taken later.
            let turn = Turn { number: u32::saturating_sub(before, self.depth), weight, host };
            let step = of_steps(f64::from(turn.number) / f64::from(weight), self.times.step);
            // The next own row has a later time than any that is passed before it.
            let seen = loop {
                if self.times.rows[row as usize] >= step {
                    let taker = self.taken.turn(self.members, row);
                    if taker.host == host {
                        break row;
                    }
                    let is_first = |ahead: &u32| Turn { number: before - ahead, ..turn }.is_before(taker);
                    if let Some(ahead) = (1..=self.depth.min(before)).find(is_first) {
                        near.push(Near { row, before, ahead });
                    }
                }
                row = walk.after(row);
            };
            before += 1;
            if before == self.counts[usize::from(host)] {
                walk.next = walk.after(seen);
                walk.invert();
                return (near, walk);
            }
            row = walk.after(seen);
        }
    }
}
