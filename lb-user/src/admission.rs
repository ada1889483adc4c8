//! Who may hold a connection to one of our listeners, and how many at once.
//!
//! Each TCP listener asks an [`Admission`] right after `accept`, before it reads a byte. Limits hold in all and per source, so
//! that nobody can use up the descriptors of the agent, and one source cannot lock the others out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// How many connections may be open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub total: usize,
    /// From one IPv4 address or one IPv6 /64.
    pub per_source: usize,
}

/// Counts the open connections of one listener, or of several that share limits.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    open: Mutex<Occupancy>,
    refused: AtomicU64,
}

/// Keeps the place of a connection until it is dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    source: IpAddr,
}

impl Admission {
    /// Nobody is connected yet.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Admission { limits, open: Mutex::default(), refused: AtomicU64::new(0) })
    }

    /// Takes a place for a connection from `from`; `None` when there is none, which is counted.
    pub fn admit(self: &Arc<Self>, from: IpAddr) -> Option<Permit> {
        let source = source(from);
        let admitted = self.lock().enter(source, self.limits);
        if !admitted {
            self.refused.fetch_add(1, Relaxed);
        }
        admitted.then(|| Permit { admission: Arc::clone(self), source })
    }

    /// Connections that found no place.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Occupancy> {
        // Nothing panics while it is held.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.lock().leave(self.source);
    }
}

/// What limits per source go by: a host has a whole /64 in IPv6.
pub fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

/// Open connections by source; as large as the number of open connections at most.
#[derive(Debug, Default)]
struct Occupancy {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

impl Occupancy {
    fn enter(&mut self, source: IpAddr, limits: Limits) -> bool {
        let of_source = self.by_source.get(&source).copied().unwrap_or(0);
        if self.total >= limits.total || of_source >= limits.per_source {
            return false;
        }
        self.total += 1;
        self.by_source.insert(source, of_source + 1);
        true
    }

    fn leave(&mut self, source: IpAddr) {
        let Entry::Occupied(mut open) = self.by_source.entry(source) else { return };
        self.total -= 1;
        *open.get_mut() -= 1;
        if *open.get() == 0 {
            open.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_source_cannot_take_the_place_of_others() {
        let admission = Admission::new(Limits { total: 4, per_source: 2 });
        let held: Vec<_> = (0..3).map(|_| admission.admit(address("192.0.2.1"))).collect();
        assert_eq!(held.iter().flatten().count(), 2);
        let other = admission.admit(address("192.0.2.2"));
        assert!(other.is_some());
        assert!(admission.admit(address("192.0.2.3")).is_some(), "its place is free again at once");
        drop(held);
        assert!(admission.admit(address("192.0.2.1")).is_some());
        assert_eq!(admission.refused(), 1);
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_64() {
        assert_eq!(source(address("::ffff:192.0.2.1")), address("192.0.2.1"));
        assert_eq!(source(address("2001:db8:0:1:2:3:4:5")), address("2001:db8:0:1::"));
        assert_ne!(source(address("2001:db8:0:1::1")), source(address("2001:db8:0:2::1")));
    }

    proptest! {
        /// Whoever comes and goes: the limits hold, nobody is counted twice, and nothing is left at the end.
        #[test]
        fn limits_hold_for_any_coming_and_going(steps in prop::collection::vec((0u8..5, any::<bool>()), 0..200)) {
            let limits = Limits { total: 6, per_source: 3 };
            let admission = Admission::new(limits);
            let mut held: Vec<(u8, Permit)> = Vec::new();
            for (source, comes) in steps {
                let of_source = held.iter().filter(|(of, _)| *of == source).count();
                if comes {
                    let from = IpAddr::from([192, 0, 2, source]);
                    let admitted = admission.admit(from);
                    prop_assert_eq!(admitted.is_some(), held.len() < limits.total && of_source < limits.per_source);
                    held.extend(admitted.map(|permit| (source, permit)));
                } else if let Some(at) = held.iter().position(|(of, _)| *of == source) {
                    held.remove(at);
                }
                prop_assert_eq!(admission.lock().total, held.len());
            }
            held.clear();
            prop_assert!(admission.lock().by_source.is_empty());
        }
    }
}
