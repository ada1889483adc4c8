//! Who stands in for the host of a row: the host of another row, which the one that has it goes to.
//!
//! **Order of backups.** With the key `K = H(0xdeadbacc, h)` (`H` as in [`super::maglev`]), one goes from row `r` of host `h` to the
//! row that [`digest::step`] of `K` and `r` names by its upper 32 bits, scaled to `size`; and from there, as long as rows
//! are `h`'s own, on by `K mod (size − 1) + 1` rows, modulo `size`. So the rows of a host that fails go to the others as
//! rows picked at random would, in proportion to what each has; and a backup changes only where a row does that it was
//! found by.
//!
//! No stride alone would do for a start: hosts have many rows at equal distances, the first ones that they asked for, and
//! what is shifted from there comes to rows at equal distances, too often of one host.

use lb_common::digest;

use super::maglev::{Member, NOBODY, hash, step};
use super::turns::counts;

/// Backups of the rows of one population.
pub(super) struct Backups<'a> {
    owners: &'a [u16],
    /// By host.
    orders: Vec<Order>,
    /// Of the host that has more than half of the rows, if there is one: a walk from each of its rows to another host's
    /// would take ever longer.
    most: Option<(u16, Vec<u16>)>,
}

struct Order {
    key: u64,
    stride: u32,
}

impl Order {
    fn new(name: &str, seed: u64, size: u32) -> Self {
        let key = hash(name, 0xdead_bacc, seed);
        Order { key, stride: (key % u64::from(size - 1) + 1) as u32 }
    }

    #[inline]
    fn start(&self, row: u32, size: u32) -> u32 {
        ((digest::step(self.key, row.into()) >> 32) * u64::from(size) >> 32) as u32
    }
}

impl<'a> Backups<'a> {
    /// Of the population `owners` of `members`.
    pub fn new(members: &[Member<'_>], seed: u64, owners: &'a [u16]) -> Self {
        let size = owners.len() as u32;
        let orders = members.iter().map(|member| Order::new(member.name, seed, size)).collect();
        let mut backups = Backups { owners, orders, most: None };
        let most = (0..).zip(counts(members, size)).find(|(_, count)| *count > size / 2);
        backups.most = most.map(|(host, _)| (host, backups.around(host)));
        backups
    }

    /// Of the row; [`NOBODY`] if one host has all rows.
    #[inline]
    pub fn of(&self, row: u32) -> u16 {
        let size = self.owners.len() as u32;
        let host = self.owners[row as usize];
        let order = &self.orders[usize::from(host)];
        let mut row = order.start(row, size);
        loop {
            let owner = self.owners[row as usize];
            if owner != host {
                return owner;
            }
            if let Some((most, next)) = &self.most
                && *most == host
            {
                return next[row as usize];
            }
            row = step(row, order.stride, size);
        }
    }

    /// The next other host from each row of a host, all at once: backwards by its stride, from a row that another host has.
    fn around(&self, host: u16) -> Vec<u16> {
        let size = self.owners.len() as u32;
        let mut next = vec![NOBODY; size as usize];
        let Some(start) = self.owners.iter().position(|owner| *owner != host) else { return next };
        let (mut row, mut other) = (start as u32, NOBODY);
        for _ in 0..size {
            match self.owners[row as usize] {
                owner if owner == host => next[row as usize] = other,
                owner => other = owner,
            }
            row = step(row, size - self.orders[usize::from(host)].stride, size);
        }
        next
    }
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
