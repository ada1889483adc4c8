//! Who stands in for the host of a row: the host of another row, not far from it.
//!
//! **Order of backups.** With the key `K = H(0xdeadbacc, h)` (`H` as in [`super::maglev`]), the upper 32 bits of
//! [`digest::step`] of `K` and `r`, scaled to the lesser of 4096 and `size − 1`, are how many rows are left out after row `r` of host
//! `h`. The first row from there on, modulo `size`, that is not `h`'s names the backup. So the rows of a host that fails go to
//! the others as rows picked at random would, in proportion to what each has; and a backup changes only where a row does
//! that it was found by.
//!
//! No fixed distance would do: hosts have many rows at equal distances, the first ones that they asked for, and what is shifted
//! from there comes to rows at equal distances, too often of one host. And no more than 4096, so that the rows that are
//! looked at lie in the nearest cache.

use lb_common::digest;

use super::maglev::{Member, NOBODY, hash, step};
use super::parallel;
use super::turns::counts;

/// Rows among which a backup is looked for first.
const NEAR: u32 = 4096;

/// Backups of the rows of one population.
pub(super) struct Backups<'a> {
    owners: &'a [u16],
    /// By host.
    keys: Vec<u64>,
    /// A host that has more than half of the rows, and the next other host from each row, which would be ever farther away.
    most: Option<(u16, Vec<u16>)>,
}

impl<'a> Backups<'a> {
    /// Of the population `owners` of `members`.
    pub fn new(members: &[Member<'_>], seed: u64, owners: &'a [u16]) -> Self {
        let keys = members.iter().map(|member| hash(member.name, 0xdead_bacc, seed)).collect();
        let size = owners.len() as u32;
        let most = (0..).zip(counts(members, size)).find(|(_, count)| *count > size / 2);
        Backups { owners, keys, most: most.map(|(host, _)| (host, others(host, owners))) }
    }

    /// How far it is from the row to the first one that is looked at: from 1 to 4096.
    #[inline]
    fn distance(&self, row: u32) -> u32 {
        let drawn = digest::step(self.keys[usize::from(self.owners[row as usize])], row.into()) >> 32;
        1 + ((drawn * u64::from(NEAR.min(self.size() - 1))) >> 32) as u32
    }

    fn size(&self) -> u32 {
        self.owners.len() as u32
    }

    /// Of the row; [`NOBODY`] if one host has all rows.
    #[inline]
    pub fn of(&self, row: u32) -> u16 {
        let size = self.size();
        let host = self.owners[row as usize];
        let mut row = step(row, self.distance(row), size);
        loop {
            let owner = self.owners[row as usize];
            if owner != host {
                return owner;
            }
            if let Some((most, others)) = &self.most
                && *most == host
            {
                return others[row as usize];
            }
            row = step(row, 1, size);
        }
    }
}

/// For which rows the backups of one population were found where.
pub(super) struct Found {
    /// By row: where those begin whose backup was found at it; and where the last ones end.
    starts: Vec<u32>,
    /// How far before it they are.
    distances: Vec<u16>,
    /// The rows for which more than one was looked at.
    far: Vec<u32>,
}

impl Found {
    /// Those of `backups`.
    pub fn new(backups: &Backups<'_>) -> Self {
        let size = backups.size();
        // 0 if more than one row was looked at.
        let off = parallel::rows(size as usize, |row| {
            let distance = backups.distance(row as u32);
            let found = backups.owners[step(row as u32, distance, size) as usize];
            if found == backups.owners[row] { 0 } else { distance as u16 }
        });
        let at_once = || (0..size).zip(&off).filter(|(_, off)| **off > 0);
        let place = |(row, off): (u32, &u16)| step(row, u32::from(*off), size) as usize;
        let mut starts = vec![0; size as usize + 1];
        at_once().for_each(|found| starts[place(found)] += 1);
        // Where they end, from which the places are given out backwards.
        let mut all = 0;
        for start in &mut starts {
            all += *start;
            *start = all;
        }
        let mut distances = vec![0; all as usize];
        for found in at_once() {
            let start = &mut starts[place(found)];
            *start -= 1;
            distances[*start as usize] = *found.1;
        }
        let far = (0..size).zip(&off).filter(|(_, off)| **off == 0).map(|(row, _)| row).collect();
        Found { starts, distances, far }
    }

    /// The rows, in order, whose backups may be others when the rows `moved` are other hosts'; also these rows.
    pub fn may_differ(&self, moved: impl Iterator<Item = u32>) -> Vec<u32> {
        let size = self.starts.len() as u32 - 1;
        let mut rows = self.far.clone();
        for row in moved {
            let [start, end] = [row, row + 1].map(|row| self.starts[row as usize] as usize);
            let found = self.distances[start..end].iter().map(|off| step(row, size - u32::from(*off), size));
            rows.extend(found.chain([row]));
        }
        rows.sort_unstable();
        rows.dedup();
        rows
    }
}

/// The next host from each row on that is another one.
fn others(host: u16, owners: &[u16]) -> Vec<u16> {
    let mut others = vec![NOBODY; owners.len()];
    let mut other = owners.iter().copied().find(|owner| *owner != host).unwrap_or(NOBODY);
    for (row, owner) in owners.iter().enumerate().rev() {
        if *owner != host {
            other = *owner;
        }
        others[row] = other;
    }
    others
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
