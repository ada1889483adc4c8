//! The directory of services in the kernel (see [`Entry`]): a hash table with chains, which programs read while it changes.
//!
//! What can be found is never changed. A new value is a new entry that takes the old one's place in the chain, by one write
//! of one word; the old one is used again only after a grace period of the kernel, when no program reads it any more.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use aya::maps::MapData;
use lb_common::maps::{CHAINS, ENTRY_WORDS as WORDS, Entry, LINKS, Service, ServiceKey};

use super::memory::Memory;

/// The word of [`Entry::next`].
const NEXT: usize = std::mem::offset_of!(Entry, next) / size_of::<u64>();

/// Entries for so many services, as many VIPs, as many for their fragments, and as many that wait for the end of a grace
/// period; the first is not used.
pub const fn entries(services: u32) -> u32 {
    4 * services + 1
}

/// Why an entry could not be added.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// The directory.
pub struct Services {
    chains: Memory,
    entries: Memory,
    /// Where the entry of a key is.
    places: BTreeMap<ServiceKey, usize>,
    free: Vec<usize>,
    /// Not to be found any more, but a program may still be reading them.
    left: Vec<usize>,
}

impl Services {
    /// Takes the directory over with what is in it.
    pub fn take(chains: &MapData, entries: &MapData, capacity: u32) -> io::Result<Self> {
        let capacity = capacity as usize;
        let mut services = Services {
            chains: Memory::of(chains, CHAINS)?,
            entries: Memory::of(entries, capacity * WORDS)?,
            places: BTreeMap::new(),
            free: Vec::new(),
            left: Vec::new(),
        };
        let mut used = vec![false; capacity];
        used[0] = true;
        for chain in 0..CHAINS {
            let places: Vec<usize> = services.chain(chain).collect();
            for place in places {
                used[place] = true;
                let key = services.entry(place).key;
                services.places.insert(key, place);
            }
        }
        // An agent before this one may have left some a moment ago.
        services.left = (0..capacity).rev().filter(|place| !used[*place]).collect();
        Ok(services)
    }

    /// What the programs find.
    pub fn get(&self, key: &ServiceKey) -> Option<Service> {
        let found =
            self.chain(key.chain() as usize).map(|place| self.entry(place)).find(|entry| entry.key == *key);
        found.map(|entry| entry.service)
    }

    /// All of them, VIPs too.
    pub fn iter(&self) -> impl Iterator<Item = (ServiceKey, Service)> + '_ {
        self.places.iter().map(|(key, place)| (*key, self.entry(*place).service))
    }

    /// Adds an entry, or replaces that of the key.
    pub fn insert(&mut self, key: ServiceKey, service: Service) -> Result<(), Full> {
        let (chain, old) = (key.chain() as usize, self.places.get(&key).copied());
        if old.is_none() && self.chain(chain).count() >= LINKS {
            return Err(Full);
        }
        let new = self.free_place().ok_or(Full)?;
        let next = match old {
            Some(old) => self.next(old),
            None => self.chains.words()[chain].load(Relaxed),
        };
        for (word, value) in self.words(new).iter().zip(Entry { key, next, service }.words()) {
            word.store(value, Relaxed);
        }
        self.link(chain, old, new as u64);
        self.places.insert(key, new);
        Ok(())
    }

    /// Removes the entry of a key, if there is one.
    pub fn remove(&mut self, key: &ServiceKey) {
        if let Some(old) = self.places.remove(key) {
            self.link(key.chain() as usize, Some(old), self.next(old));
        }
    }

    /// Makes what names `old` (or else the chain itself) name `new`.
    fn link(&mut self, chain: usize, old: Option<usize>, new: u64) {
        let before = old.and_then(|old| self.chain(chain).find(|place| self.next(*place) == old as u64));
        let word = match before {
            Some(before) => &self.words(before)[NEXT],
            None => &self.chains.words()[chain],
        };
        word.store(new, Release);
        self.left.extend(old);
    }

    fn free_place(&mut self) -> Option<usize> {
        if self.free.is_empty() && !self.left.is_empty() {
            self.reclaim();
        }
        self.free.pop()
    }

    /// Waits until no program reads what was to be found before; its places are free then.
    pub fn reclaim(&mut self) {
        grace_period();
        self.free.append(&mut self.left);
    }

    /// Places of the entries of a chain.
    fn chain(&self, chain: usize) -> impl Iterator<Item = usize> + '_ {
        let first = self.chains.words()[chain].load(Acquire) as usize;
        let next = |place: &usize| Some(self.next(*place) as usize).filter(|next| *next != 0);
        std::iter::successors(Some(first).filter(|first| *first != 0), next).take(LINKS)
    }

    fn next(&self, place: usize) -> u64 {
        self.words(place)[NEXT].load(Acquire)
    }

    fn words(&self, place: usize) -> &[AtomicU64] {
        &self.entries.words()[place * WORDS..][..WORDS]
    }

    fn entry(&self, place: usize) -> Entry {
        Entry::from_words(std::array::from_fn(|word| self.words(place)[word].load(Relaxed)))
    }
}

/// Waits until every program that runs now is done.
pub(super) fn grace_period() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: a system call without pointers.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } == 0;
    if !done {
        // Refused where `nohz_full` is set. No packet takes a second.
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}
