//! The population of more hosts, from that of fewer: the very one that [`Population::new`] makes, in a fraction of the time.
//!
//! That a turn takes the next free row of its host's walk is the same as this: every row goes to the first of all turns that
//! have not found a row earlier on their walks. So turns may ask for rows in any order, if a row leaves its turn for an
//! earlier one and the turn that lost it goes on along its walk (deferred acceptance, Gale and Shapley 1962, whose outcome
//! does not depend on the order of proposals: McVitie and Wilson 1971; all rows prefer turns alike here, which makes it the
//! same as choosing one after the other). Where hosts are added, all turns that had rows have asked already; only those of
//! new hosts have not. A turn that is not among the first `size` has no row in the end, so it stops asking when it
//! loses its own.
//!
//! It holds for added hosts alone: without a host, or with another weight, some turns come later than they did, and rows
//! that they were given would have to be offered to turns that asked for them before.

use super::maglev::{Member, Population, TableError, Walk, check};
use super::turns::{Moment, Turn, counts};

/// The population of `members`, sorted by name, from that of some of them; `None` if that had a host that is none of them, or
/// that has another weight. Both are of the same seed.
pub fn grow(
    from: (&[Member<'_>], &Population),
    members: &[Member<'_>],
    seed: u64,
) -> Result<Option<Population>, TableError> {
    let (before, population) = from;
    let size = population.owners.len() as u32;
    check(members, size)?;
    let Some(places) = places(before, members) else { return Ok(None) };
    let mut growing = Growing::new(population, &places, members, seed);
    let mut known = places.iter().peekable();
    for host in 0..members.len() as u16 {
        if known.next_if_eq(&&host).is_none() {
            growing.add(host);
        }
    }
    Ok(Some(Population { owners: growing.owners, turns: growing.turns }))
}

/// Where each of `some` is in `all`; both are sorted by name.
fn places(some: &[Member<'_>], all: &[Member<'_>]) -> Option<Vec<u16>> {
    let mut all = all.iter().zip(0..);
    some.iter().map(|member| all.find(|(of_all, _)| *of_all == member).map(|(_, place)| place)).collect()
}

/// Late times are told apart by how much of the table is left to be taken: 1/4, 1/16, … of it.
const LEVELS: usize = 6;

struct Growing {
    hosts: Vec<Host>,
    owners: Vec<u16>,
    turns: Vec<u32>,
    /// How late the turn of each row is: a row refuses a later one without further ado. Nearly all do, since turns that
    /// lose a row are late ones soon; and this fits in a near cache.
    lateness: Vec<u8>,
}

struct Host {
    walk: Walk,
    weight: u32,
    /// How many turns it has in the end.
    count: u32,
    /// Its first turn of each level of lateness.
    late: [u32; LEVELS],
}

impl Host {
    #[inline]
    fn lateness(&self, turn: u32) -> u8 {
        self.late.iter().map(|late| u8::from(turn >= *late)).sum()
    }
}

impl Growing {
    fn new(population: &Population, places: &[u16], members: &[Member<'_>], seed: u64) -> Self {
        let size = population.owners.len() as u32;
        let late: [Moment; LEVELS] =
            std::array::from_fn(|level| Moment::new(members, size - (size >> (2 * level + 2))));
        let host = |(member, count): (&Member<'_>, u32)| Host {
            walk: Walk::new(member.name, seed, size),
            weight: member.weight,
            count,
            late: late.map(|moment| moment.turns(member.weight)),
        };
        let hosts: Vec<Host> = members.iter().zip(counts(members, size)).map(host).collect();
        let owners: Vec<u16> = population.owners.iter().map(|owner| places[usize::from(*owner)]).collect();
        let lateness = owners
            .iter()
            .zip(&population.turns)
            .map(|(owner, turn)| hosts[usize::from(*owner)].lateness(*turn));
        Growing { lateness: lateness.collect(), hosts, owners, turns: population.turns.clone() }
    }

    /// All turns of a host ask for rows, and those that lose theirs.
    fn add(&mut self, host: u16) {
        let mut row = self.hosts[usize::from(host)].walk.next;
        for number in 0..self.hosts[usize::from(host)].count {
            // Rows that refused the turn before refuse this one.
            row = self.ask(host, number, row);
            let mut at = row;
            let mut loser = self.give(row, host, number);
            while let Some((host, number)) = loser {
                at = self.ask(host, number, self.hosts[usize::from(host)].walk.after(at));
                loser = self.give(at, host, number);
            }
        }
    }

    /// The first row on the host's walk, from `row` on, whose turn is later than this one.
    fn ask(&self, host: u16, number: u32, mut row: u32) -> u32 {
        let Host { walk, weight, .. } = &self.hosts[usize::from(host)];
        let turn = Turn { number, weight: *weight, host };
        let lateness = self.hosts[usize::from(host)].lateness(number);
        loop {
            if self.lateness[row as usize] >= lateness && turn.is_before(self.turn(row as usize)) {
                return row;
            }
            row = walk.after(row);
        }
    }

    fn turn(&self, row: usize) -> Turn {
        let host = self.owners[row];
        Turn { number: self.turns[row], weight: self.hosts[usize::from(host)].weight, host }
    }

    /// Gives a row to a turn, and returns the one that loses it, if that is one that has a row in the end.
    fn give(&mut self, row: u32, host: u16, number: u32) -> Option<(u16, u32)> {
        let (at, lateness) = (row as usize, self.hosts[usize::from(host)].lateness(number));
        self.lateness[at] = lateness;
        let loser = std::mem::replace(&mut self.owners[at], host);
        let lost = std::mem::replace(&mut self.turns[at], number);
        (lost < self.hosts[usize::from(loser)].count).then_some((loser, lost))
    }
}

#[cfg(test)]
#[path = "grow_tests.rs"]
mod tests;
