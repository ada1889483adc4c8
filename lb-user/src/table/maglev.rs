//! Maglev population (Eisenbud et al., NSDI 2016, section 3.4): every host walks the rows in an order of its own and
//! takes, turn by turn, the next one that is free.
//!
//! **Order of rows.** Host `h` tries `offset`, `offset + skip`, `offset + 2·skip`, … modulo `size`, with
//! `offset = H(0xdeadbabe, h) mod size` and `skip = H(0xdeadbeef, h) mod (size − 1) + 1`, where `H(n, h)` is
//! SipHash-2-4 with the keys (`KEY0` xor seed, `KEY1`) of: `n` as 4 bytes little endian, the name, one byte 0xff. That
//! is what the crate `maglev` 0.2 computes with such a hasher, which makes it the oracle of the tests here.
//!
//! **Order of turns.** The k-th turn (k = 0, 1, …) of a host of weight `w` comes at time `k / w`; at equal times the
//! heavier host comes first, then the lesser name. So with equal weights hosts take turns in order of name; a host of
//! half the weight takes every second turn; every host has a turn at time 0, hence at least one row; and when all rows
//! are taken at time T, a host of weight `w` holds between `w·T` and `w·T + 1` of them. The times of a host depend on
//! its own weight only: changing one weight leaves the others' turns in their order.

use siphasher::sip::SipHasher24;

use super::turns::Turns;

const KEY0: u64 = u64::from_be_bytes(*b"lb maglv");
const KEY1: u64 = u64::from_be_bytes(*b"rowOrder");

/// No host: what backs up the rows of a single one.
pub const NOBODY: u16 = u16::MAX;

/// A host as the population sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its stable name.
    pub name: &'a str,
    /// Its share of the rows, 1 or more.
    pub weight: u32,
}

/// Why a table cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The rows would not all be reachable.
    #[error("table size {0} is not a prime; use one, such as 65537")]
    NotPrime(u32),
    /// Nothing can own the rows.
    #[error("no hosts to make a table of; give the pool at least one active host")]
    NoHosts,
    /// Some host would own no row.
    #[error(
        "{hosts} hosts do not fit in a table of {size} rows; use a larger prime, 100 times the hosts or more"
    )]
    TooManyHosts {
        /// Hosts asked for.
        hosts: usize,
        /// Rows there are.
        size: u32,
    },
    /// Names are not sorted, or one occurs twice.
    #[error("host {0} is out of order or given twice")]
    Order(String),
    /// The host would take no turn.
    #[error("host {0} has weight 0; use 1 or more, or drain it")]
    NoWeight(String),
}

/// The host of every row, as an index into `members`, which must be sorted by name.
pub fn populate(members: &[Member<'_>], seed: u64, size: u32) -> Result<Vec<u16>, TableError> {
    Ok(Population::new(members, seed, size)?.owners)
}

/// Who has each row, and by which turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Population {
    /// The host of every row, as an index into the members.
    pub owners: Vec<u16>,
    /// The number of the turn, among those of its host, that took the row.
    pub(super) turns: Vec<u32>,
}

impl Population {
    /// Of `members`, which must be sorted by name.
    pub fn new(members: &[Member<'_>], seed: u64, size: u32) -> Result<Self, TableError> {
        check(members, size)?;
        Ok(fill(members, seed, size))
    }
}

/// Whether `n` is a prime: what a table's size must be.
pub fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= u64::from(n)).all(|d| !u64::from(n).is_multiple_of(d))
}

pub(super) fn check(members: &[Member<'_>], size: u32) -> Result<(), TableError> {
    if !is_prime(size) {
        return Err(TableError::NotPrime(size));
    }
    if members.is_empty() {
        return Err(TableError::NoHosts);
    }
    if members.len() > size as usize || members.len() >= usize::from(NOBODY) {
        return Err(TableError::TooManyHosts { hosts: members.len(), size });
    }
    if let Some(pair) = members.windows(2).find(|pair| pair[0].name >= pair[1].name) {
        return Err(TableError::Order(pair[1].name.into()));
    }
    if let Some(member) = members.iter().find(|member| member.weight == 0) {
        return Err(TableError::NoWeight(member.name.into()));
    }
    Ok(())
}

fn fill(members: &[Member<'_>], seed: u64, size: u32) -> Population {
    let mut owners = vec![NOBODY; size as usize];
    let mut turns = vec![0; size as usize];
    let mut walks: Vec<Walk> = members.iter().map(|member| Walk::new(member.name, seed, size)).collect();
    let mut free = Free::all(size);
    let mut queue = Turns::new(members, |_| 0);
    while let Some(class) = queue.pop().filter(|_| free.left > 0) {
        for &host in &class.hosts {
            let Some(row) = walks[usize::from(host)].take(&mut free) else { break };
            owners[row] = host;
            turns[row] = class.turn as u32;
        }
        queue.push_next(class);
    }
    Population { owners, turns }
}

/// The rows in the order in which a host tries them; each once.
#[derive(Clone)]
pub(super) struct Walk {
    pub next: u32,
    skip: u32,
    size: u32,
    /// 1 / skip modulo size, as a part of size, of 2⁶⁴; once it is needed.
    part: u64,
}

impl Walk {
    pub fn new(name: &str, seed: u64, size: u32) -> Self {
        // Remainders of a number below 2³² fit in 32 bits.
        let offset = hash(name, 0xdead_babe, seed) % u64::from(size);
        let skip = hash(name, 0xdead_beef, seed) % u64::from(size - 1) + 1;
        Walk { next: offset as u32, skip: skip as u32, size, part: 0 }
    }

    /// Goes on to the next free row and takes it; `None` if there is none any more.
    #[inline]
    fn take(&mut self, free: &mut Free) -> Option<usize> {
        if free.are_few() {
            return self.take_of_few(free);
        }
        loop {
            let row = self.next;
            self.next = self.after(row);
            if free.has(row) {
                free.remove(row);
                return Some(row as usize);
            }
        }
    }

    /// The same where few rows are free: a walk would meet hundreds that are taken, so it is asked of each free one how far
    /// off it is.
    fn take_of_few(&mut self, free: &mut Free) -> Option<usize> {
        let row = self.nearest(self.next, free.few.iter().copied())?;
        self.next = self.after(row);
        if let Some(at) = free.few.iter().position(|few| *few == row) {
            free.few.swap_remove(at);
        }
        free.left -= 1;
        Some(row as usize)
    }

    /// Which of `rows` the host tries first from `from` on.
    pub fn nearest(&mut self, from: u32, rows: impl Iterator<Item = u32>) -> Option<u32> {
        self.invert();
        // How far off a row is, as a part of a whole walk, which is 2⁶⁴. Wrong by less than the size, where a step is 2⁶⁴ / size:
        // enough to tell steps apart, if a table has less than 2³¹ rows.
        let off = |row: u32| (i64::from(row) - i64::from(from)) as u64;
        let part = rows.map(|row| off(row).wrapping_mul(self.part)).min()?;
        let steps = (u128::from(part) * u128::from(self.size) + (1 << 63)) >> 64;
        Some(((u64::from(from) + steps as u64 * u64::from(self.skip)) % u64::from(self.size)) as u32)
    }

    /// Computes what [`Walk::nearest`] needs, if that has not been done.
    pub fn invert(&mut self) {
        if self.part == 0 {
            let inverse = inverse(self.skip, self.size);
            self.part = ((u128::from(inverse) << 64) / u128::from(self.size)) as u64;
        }
    }

    /// The row that the host tries after `row`.
    #[inline]
    pub fn after(&self, row: u32) -> u32 {
        step(row, self.skip, self.size)
    }
}

/// (row + stride) mod size without overflow: both are below size.
#[inline]
pub(super) fn step(row: u32, stride: u32, size: u32) -> u32 {
    let to_end = size - row;
    if stride >= to_end { stride - to_end } else { row + stride }
}

/// Rows that nobody has taken yet.
struct Free {
    /// A bit for each row, which fit in the nearest cache, as long as many are free.
    bits: Vec<u64>,
    left: u32,
    /// All of them, once they are few.
    few: Vec<u32>,
    /// How many are few.
    limit: u32,
    size: u32,
}

impl Free {
    fn all(size: u32) -> Self {
        let mut bits = vec![u64::MAX; size.div_ceil(64) as usize];
        if let Some(last) = bits.last_mut() {
            *last >>= (64 - size % 64) % 64;
        }
        // A walk tries size / left rows, at about half of what a look at one of the few costs.
        Free { bits, left: size, few: Vec::new(), limit: (size / 2).isqrt(), size }
    }

    #[inline]
    fn are_few(&self) -> bool {
        self.left <= self.limit
    }

    #[inline]
    fn has(&self, row: u32) -> bool {
        self.bits[(row / 64) as usize] >> (row % 64) & 1 == 1
    }

    #[inline]
    fn remove(&mut self, row: u32) {
        self.bits[(row / 64) as usize] &= !(1 << (row % 64));
        self.left -= 1;
        if self.are_few() {
            self.few = (0..self.size).filter(|row| self.has(*row)).collect();
        }
    }
}

/// 1 / `number` modulo the prime `size`, by Euclid's algorithm.
fn inverse(number: u32, size: u32) -> u32 {
    let (mut a, mut b) = (i64::from(size), i64::from(number));
    let (mut of_a, mut of_b) = (0_i64, 1_i64);
    while b > 1 {
        let quotient = a / b;
        (a, b) = (b, a - quotient * b);
        (of_a, of_b) = (of_b, of_a - quotient * of_b);
    }
    of_b.rem_euclid(i64::from(size)) as u32
}

pub(super) fn hash(name: &str, number: u32, seed: u64) -> u64 {
    let bytes = [&number.to_le_bytes(), name.as_bytes(), &[0xff]].concat();
    SipHasher24::new_with_keys(KEY0 ^ seed, KEY1).hash(&bytes)
}

#[cfg(test)]
#[path = "maglev_tests.rs"]
mod tests;
