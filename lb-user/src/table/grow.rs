//! The population of more hosts, from that of fewer: the very one that [`Population::new`] makes, in a fraction of the time.
//!
//! Turns take their rows in the order of their times, as they would without what is known. But all of them take what they
//! took before, unless another got it meanwhile: so only turns for which something is different are looked at, from the
//! earliest on. A row that is taken by a turn that did not take it before is *lost* to the host that did.
//!
//! **Ahead.** A host that comes to a row of its own that is lost goes on to the next that is free, which nearly always is the row of its
//! next turn. Then its next turn does the same, and so on: the host has the rows that it had before, each one turn earlier.
//! It is *ahead*, by one row for each that it lost, and nothing needs to be done for these turns. At any time, a row that its host's
//! turn `i` took before is free if it is not lost and turn `i − ahead` of its host is yet to come.
//!
//! **Near.** What ends this is a row that the host passed because somebody had taken it shortly before: being ahead, the host comes
//! first. These rows are the [`Roots`] of a population, found by walking all walks, once it is in force. They are known for hosts
//! that are ahead by up to [`super::roots::DEPTH`] rows. If one gets further, many hosts are new for those that there are, and everything
//! is computed anew. Where the rows of a host end, it goes on along its walk, as a new host does from the start.
//!
//! Hosts may be added, and nothing else: without a host, or with another weight, turns would find rows that they were refused.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::maglev::{Member, TableError, Walk, check};
use super::roots::{Near, Roots};
use super::turns::{Moment, Turn, counts};

/// A population to grow from.
pub(super) struct From<'a> {
    pub members: &'a [Member<'a>],
    pub roots: &'a Roots,
    /// Where each of the members is among those that there will be, see [`places`].
    pub places: &'a [u16],
}

/// A row that goes to another host, as an index into the members that there are now.
pub(super) type Moved = (u32, u16);

/// The rows that are another host's if there are `members`, sorted by name, each once; `None` if it has to be computed anew. Both
/// populations are of the same seed.
pub(super) fn grow(
    from: From<'_>,
    members: &[Member<'_>],
    seed: u64,
) -> Result<Option<Vec<Moved>>, TableError> {
    check(members, from.roots.takers.len() as u32)?;
    let mut growing = Growing::new(from, members, seed);
    Ok(growing.run().then_some(growing.moved))
}

/// Where each of `some` is in `all`, both sorted by name; `None` if one is none of them or has another weight.
pub(super) fn places(some: &[Member<'_>], all: &[Member<'_>]) -> Option<Vec<u16>> {
    let mut all = all.iter().zip(0..);
    some.iter().map(|member| all.find(|(of_all, _)| *of_all == member).map(|(_, place)| place)).collect()
}

/// A bit for each row.
struct Bits(Vec<u64>);

impl Bits {
    fn none(size: u32) -> Self {
        Bits(vec![0; size.div_ceil(64) as usize])
    }

    #[inline]
    fn has(&self, row: u32) -> bool {
        self.0[(row / 64) as usize] >> (row % 64) & 1 == 1
    }

    fn set(&mut self, row: u32) {
        self.0[(row / 64) as usize] |= 1 << (row % 64);
    }
}

struct Growing<'a> {
    roots: &'a Roots,
    places: &'a [u16],
    hosts: Vec<Host<'a>>,
    moved: Vec<Moved>,
    /// The rows that have moved.
    lost: Bits,
    /// Rows that the last turns took before, the latest first, without those of which it is known that they are not free.
    latest: Vec<Latest>,
    /// The turns that took `latest` are those from here on.
    late: Moment,
    /// When a host may take something else than before, the earliest first. Also times that have become others.
    events: BinaryHeap<Reverse<Turn>>,
}

struct Host<'a> {
    /// On from its rows.
    walk: Walk,
    weight: u32,
    /// How many turns it has in the end.
    count: i64,
    /// How many it had before.
    had: i64,
    /// By how many rows; negative for a new host, by those that it has.
    ahead: i64,
    /// Turns whose rows are lost, the next one last.
    lost: Vec<i64>,
    /// Near rows that are not behind it.
    near: &'a [Near],
}

struct Latest {
    turn: Turn,
    row: u32,
}

impl<'a> Growing<'a> {
    fn new(from: From<'a>, members: &[Member<'_>], seed: u64) -> Self {
        let From { members: before, roots, places } = from;
        let size = roots.takers.len() as u32;
        let host = |(member, (count, walk)): (&Member<'_>, (u32, Walk))| Host {
            walk,
            weight: member.weight,
            count: count.into(),
            had: 0,
            ahead: 0,
            lost: Vec::new(),
            near: &[],
        };
        let mut old = places.iter().zip(&roots.walks).peekable();
        let walks = (0..).zip(members).map(|(place, member)| {
            let known = old.next_if(|(old, _)| **old == place);
            known.map_or_else(|| Walk::new(member.name, seed, size), |(_, walk)| walk.clone())
        });
        let counted = counts(members, size).into_iter().zip(walks);
        let mut hosts: Vec<Host> = members.iter().zip(counted).map(host).collect();
        for (old, (place, had)) in places.iter().zip(counts(before, size)).enumerate() {
            let host = &mut hosts[usize::from(*place)];
            host.had = had.into();
            host.near = roots.near(old);
        }
        let mut growing = Growing {
            roots,
            places,
            hosts,
            moved: Vec::new(),
            lost: Bits::none(size),
            latest: Vec::new(),
            late: roots.late,
            events: BinaryHeap::new(),
        };
        let latest = roots.latest.iter().map(|&row| {
            let (host, turn) = growing.taker(row);
            Latest { turn: growing.turn(host, turn), row }
        });
        growing.latest = latest.collect();
        (0..members.len() as u16).for_each(|host| growing.await_next(host));
        growing
    }

    /// Goes through all events; false if a host gets too far ahead.
    fn run(&mut self) -> bool {
        while let Some(Reverse(turn)) = self.events.pop() {
            // Else it has become another time, which was put there then.
            if self.hosts[usize::from(turn.host)].next() == Some(turn.number.into()) {
                if !self.take_turn(turn) {
                    return false;
                }
                self.await_next(turn.host);
            }
        }
        true
    }

    fn await_next(&mut self, host: u16) {
        if let Some(number) = self.hosts[usize::from(host)].next() {
            self.events.push(Reverse(self.turn(host, number)));
        }
    }

    fn turn(&self, host: u16, number: i64) -> Turn {
        Turn { number: number as u32, weight: self.hosts[usize::from(host)].weight, host }
    }

    /// What the turn takes; false if the host gets too far ahead.
    fn take_turn(&mut self, turn: Turn) -> bool {
        loop {
            let host = &mut self.hosts[usize::from(turn.host)];
            // The turn that took the next row of the host's own.
            let own = i64::from(turn.number) + host.ahead;
            if let Some(place) = host.next_near().filter(|place| i64::from(host.near[*place].before) == own) {
                let near = host.near[place];
                host.near = &host.near[place + 1..];
                if self.is_free(near.row, turn) {
                    self.hosts[usize::from(turn.host)].ahead -= 1;
                    self.take(near.row, turn.host);
                    return true;
                }
            } else if own >= host.had {
                let row = self.search(turn);
                self.hosts[usize::from(turn.host)].ahead -= 1;
                self.take(row, turn.host);
                return true;
            } else if host.lost.pop_if(|lost| *lost == own).is_some() {
                host.ahead += 1;
                let behind = host.near.partition_point(|near| i64::from(near.before) <= own);
                host.near = &host.near[behind..];
                if host.ahead > self.roots.depth.into() {
                    return false;
                }
            } else {
                return true;
            }
        }
    }

    /// Who took the row before, and with which turn.
    #[inline]
    fn taker(&self, row: u32) -> (u16, i64) {
        let taker = self.roots.takers[row as usize];
        (self.places[usize::from(taker.host)], taker.turn.into())
    }

    /// Whether nobody has taken the row when this turn comes.
    #[inline]
    fn is_free(&self, row: u32, turn: Turn) -> bool {
        if self.lost.has(row) {
            return false;
        }
        let (owner, number) = self.taker(row);
        let number = number - self.hosts[usize::from(owner)].ahead;
        number >= 0 && turn.is_before(self.turn(owner, number))
    }

    /// A row that another host had.
    fn take(&mut self, row: u32, host: u16) {
        self.lost.set(row);
        self.moved.push((row, host));
        let (loser, lost) = self.taker(row);
        let rows = &mut self.hosts[usize::from(loser)].lost;
        let place = rows.partition_point(|other| *other > lost);
        rows.insert(place, lost);
        if place + 1 == rows.len() {
            self.await_next(loser);
        }
    }

    /// The next free row on the walk of a host that is past the rows that it had.
    fn search(&mut self, turn: Turn) -> u32 {
        let size = self.roots.takers.len();
        let mut row = self.hosts[usize::from(turn.host)].walk.next;
        let mut found = None;
        if turn.number >= self.late.turns(turn.weight) {
            let mut later = self.latest.partition_point(|latest| turn.is_before(latest.turn));
            // Turns only get later.
            self.latest.truncate(later);
            // A step to another row costs some ten times what a look at one of the latest does.
            while found.is_none() && later > 0 && later * later < 16 * size {
                let rows = self.latest[..later].iter().map(|latest| latest.row);
                let walk = &mut self.hosts[usize::from(turn.host)].walk;
                let Some(nearest) = walk.nearest(row, rows) else { break };
                if let Some(at) = self.latest.iter().position(|latest| latest.row == nearest) {
                    self.latest.remove(at);
                }
                later -= 1;
                found = Some(nearest).filter(|row| self.is_free(*row, turn));
            }
        }
        let walk = |row| self.hosts[usize::from(turn.host)].walk.after(row);
        while found.is_none() {
            found = Some(row).filter(|row| self.is_free(*row, turn));
            row = walk(row);
        }
        let row = found.unwrap_or(row);
        let next = walk(row);
        self.hosts[usize::from(turn.host)].walk.next = next;
        row
    }
}

impl Host<'_> {
    /// The turn at which it may take something else than it is ahead to.
    fn next(&self) -> Option<i64> {
        let near = self.next_near().map(|place| self.near[place].before.into());
        let own = [Some(self.had), self.lost.last().copied(), near].into_iter().flatten().min();
        own.map(|own| own - self.ahead).filter(|turn| *turn < self.count)
    }

    /// Where the next near row is that it may have.
    fn next_near(&self) -> Option<usize> {
        if self.ahead <= 0 {
            None
        } else {
            self.near.iter().position(|near| i64::from(near.ahead) <= self.ahead)
        }
    }
}

#[cfg(test)]
#[path = "grow_tests.rs"]
mod tests;
