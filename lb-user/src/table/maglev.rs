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

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

use siphasher::sip::SipHasher24;

const KEY0: u64 = u64::from_be_bytes(*b"lb maglv");
const KEY1: u64 = u64::from_be_bytes(*b"rowOrder");

/// Row without a host; only in tables of [`backup`] over a single host.
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
    check(members, size)?;
    Ok(fill(members, seed, size, |_, _| true))
}

/// The host that stands in for the one of `primary`, which is what [`populate`] gave for the same arguments.
///
/// The same turns over the same rows, but no host takes a row that is its own in `primary`. A host that has walked all
/// rows drops out. It ends with every row taken, since any host but its primary can take it; a single host backs
/// nobody up, and its rows are [`NOBODY`]'s.
pub fn backup(members: &[Member<'_>], seed: u64, size: u32, primary: &[u16]) -> Result<Vec<u16>, TableError> {
    check(members, size)?;
    Ok(fill(members, seed, size, |row, host| primary[row] != host))
}

/// Whether `n` is a prime: what a table's size must be.
pub fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= u64::from(n)).all(|d| !u64::from(n).is_multiple_of(d))
}

fn check(members: &[Member<'_>], size: u32) -> Result<(), TableError> {
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

fn fill(members: &[Member<'_>], seed: u64, size: u32, may: impl Fn(usize, u16) -> bool) -> Vec<u16> {
    let mut rows = vec![NOBODY; size as usize];
    let mut walks: Vec<Walk> = members.iter().map(|member| Walk::new(member.name, seed, size)).collect();
    let mut free = Free::all(size);
    let mut turns = Turns::new(members);
    while let Some(mut class) = turns.pop() {
        class.hosts.retain(|&host| {
            let Some(row) = walks[usize::from(host)].take(&mut free, |row| may(row, host)) else {
                return false;
            };
            rows[row] = host;
            true
        });
        turns.push_next(class);
    }
    rows
}

/// The rows in the order in which a host tries them; each once.
struct Walk {
    next: u32,
    skip: u32,
    size: u32,
    left: u32,
    /// 1 / skip modulo size, once it is needed.
    inverse: u32,
}

impl Walk {
    fn new(name: &str, seed: u64, size: u32) -> Self {
        // Remainders of a number below 2³² fit in 32 bits.
        let offset = hash(name, 0xdead_babe, seed) % u64::from(size);
        let skip = hash(name, 0xdead_beef, seed) % u64::from(size - 1) + 1;
        Walk { next: offset as u32, skip: skip as u32, size, left: size, inverse: 0 }
    }

    /// Goes on to the next free row that the host may have, and takes it; `None` if there is none any more.
    #[inline]
    fn take(&mut self, free: &mut Free, may: impl Fn(usize) -> bool) -> Option<usize> {
        if free.are_few() {
            return self.take_of_few(free, may);
        }
        loop {
            self.left = self.left.checked_sub(1)?;
            let row = self.next;
            self.next = self.after(row);
            if free.has(row) && may(row as usize) {
                free.remove(row);
                return Some(row as usize);
            }
        }
    }

    /// The same where few rows are free: a walk would meet hundreds that are taken, so it is asked of each free one how far
    /// off it is.
    fn take_of_few(&mut self, free: &mut Free, may: impl Fn(usize) -> bool) -> Option<usize> {
        if self.inverse == 0 {
            self.inverse = inverse(self.skip, self.size);
        }
        let off = |row: u32| {
            let from_here = if row >= self.next { row - self.next } else { row + (self.size - self.next) };
            free.modulus.times(from_here, self.inverse)
        };
        let may_be = free.few.iter().enumerate().map(|(at, &row)| (off(row), at, row));
        let ahead = may_be.filter(|(off, _, row)| *off < self.left && may(*row as usize));
        let (off, at, row) = ahead.min()?;
        self.left -= off + 1;
        self.next = self.after(row);
        free.few.swap_remove(at);
        Some(row as usize)
    }

    /// (row + skip) mod size without overflow: both are at most size.
    #[inline]
    fn after(&self, row: u32) -> u32 {
        let to_end = self.size - row;
        if self.skip >= to_end { self.skip - to_end } else { row + self.skip }
    }
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
    modulus: Modulus,
}

impl Free {
    fn all(size: u32) -> Self {
        let mut bits = vec![u64::MAX; size.div_ceil(64) as usize];
        if let Some(last) = bits.last_mut() {
            *last >>= (64 - size % 64) % 64;
        }
        // A walk tries size / left rows, at about half of what a look at one of the few costs.
        Free { bits, left: size, few: Vec::new(), limit: (size / 2).isqrt(), modulus: Modulus::new(size) }
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
            self.few = (0..self.modulus.size).filter(|row| self.has(*row)).collect();
        }
    }
}

/// Multiplication modulo a number, without division.
struct Modulus {
    size: u32,
    /// 2⁶⁴ / size, rounded down.
    reciprocal: u64,
}

impl Modulus {
    fn new(size: u32) -> Self {
        Modulus { size, reciprocal: u64::MAX / u64::from(size) }
    }

    #[inline]
    fn times(&self, a: u32, b: u32) -> u32 {
        let product = u64::from(a) * u64::from(b);
        // One too small at most.
        let quotient = ((u128::from(product) * u128::from(self.reciprocal)) >> 64) as u64;
        let rest = product - quotient * u64::from(self.size);
        let size = u64::from(self.size);
        (if rest >= size { rest - size } else { rest }) as u32
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

fn hash(name: &str, number: u32, seed: u64) -> u64 {
    let bytes = [&number.to_le_bytes(), name.as_bytes(), &[0xff]].concat();
    SipHasher24::new_with_keys(KEY0 ^ seed, KEY1).hash(&bytes)
}

/// Whose turn it is: hosts of equal weight always come together, so only classes of weight need ordering.
struct Turns(BinaryHeap<Reverse<Class>>);

/// The hosts of one weight, by name, before their next turn.
struct Class {
    turn: u64,
    weight: u32,
    hosts: Vec<u16>,
}

impl Turns {
    fn new(members: &[Member<'_>]) -> Self {
        let mut classes: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
        for (host, member) in members.iter().enumerate() {
            classes.entry(member.weight).or_default().push(host as u16);
        }
        let class = |(weight, hosts)| Reverse(Class { turn: 0, weight, hosts });
        Turns(classes.into_iter().map(class).collect())
    }

    fn pop(&mut self) -> Option<Class> {
        self.0.pop().map(|Reverse(class)| class)
    }

    fn push_next(&mut self, class: Class) {
        if !class.hosts.is_empty() {
            self.0.push(Reverse(Class { turn: class.turn + 1, ..class }));
        }
    }
}

impl Ord for Class {
    /// By time, turn / weight (as integers: a turn is at most 2³², a weight below it); the heavier first.
    fn cmp(&self, other: &Self) -> Ordering {
        let (this, that) = (self.turn * u64::from(other.weight), other.turn * u64::from(self.weight));
        this.cmp(&that).then(other.weight.cmp(&self.weight))
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
#[path = "maglev_tests.rs"]
mod tests;
