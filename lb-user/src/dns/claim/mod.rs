//! A name that one of several machines holds: each looks who holds it, and takes it over from one that does not answer.
//!
//! The name has the addresses of one holder at any time, since whoever takes it replaces all of them at once. So nobody
//! is told of two holders; caches tell of the one before for a TTL. [`Claimant`] decides, and is pure; [`task`] asks and
//! writes.

pub mod task;

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::rr::LowerName;

use super::sink::{Addresses, Place, Records};
use crate::health;
use crate::model::Family;

/// A name that this node may hold, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimConfig {
    /// The sink whose server has the name.
    pub sink: String,
    /// The zone of the name.
    pub zone: LowerName,
    /// This node's addresses, which it puts there.
    pub addresses: BTreeSet<IpAddr>,
    /// Seconds that resolvers may keep them.
    pub ttl: u32,
    /// Name of the check that a holder must pass.
    pub check_name: String,
    /// The check: whoever holds the name is looked at every `interval`, and loses it after `fall` failures in a row.
    pub check: health::Check,
    /// What the check asks for; `None`: the name.
    pub host: Option<String>,
    /// A name that has this node's addresses in any case.
    pub own: Option<LowerName>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// All is well until the next look.
    Wait,
    /// Check whether these answer, and tell [`Claimant::checked`].
    Check(BTreeSet<IpAddr>),
    /// Replace what was seen by these, if it is still the same.
    Take(Records),
    /// Remove what was seen, if it is still the same.
    Release,
}

/// Who holds the name, as far as this machine knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody has looked yet, or the server did not answer.
    Unknown,
    /// The name has no addresses.
    Nobody,
    /// This machine.
    Us,
    /// A machine with these addresses, which has failed so many checks in a row.
    Other(BTreeSet<IpAddr>, u32),
}

/// One of the machines that may hold the name.
#[derive(Clone, Debug)]
pub struct Claimant {
    own: Records,
    /// So many failures in a row lose a holder the name.
    fall: u32,
    holder: Holder,
}

impl Claimant {
    /// A machine that would put these addresses at the name.
    pub fn new(own: Records, fall: u32) -> Self {
        Claimant { own, fall: fall.max(1), holder: Holder::Unknown }
    }

    /// Who holds the name.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// What to do when the name has been looked at. `able`: this machine can serve, and is meant to.
    pub fn looked(&mut self, seen: &Records, able: bool) -> Step {
        let addresses: BTreeSet<IpAddr> = seen.values().flat_map(|addresses| addresses.all.clone()).collect();
        let own: BTreeSet<IpAddr> = self.own.values().flat_map(|addresses| addresses.all.clone()).collect();
        self.holder = match &self.holder {
            _ if addresses.is_empty() => Holder::Nobody,
            _ if addresses == own => Holder::Us,
            Holder::Other(same, failures) if *same == addresses => Holder::Other(addresses, *failures),
            _ => Holder::Other(addresses, 0),
        };
        match (&self.holder, able) {
            (Holder::Us, false) => Step::Release,
            // Somebody may have changed its TTL.
            (Holder::Us, true) if *seen != self.own => Step::Take(self.own.clone()),
            (Holder::Nobody, true) => Step::Take(self.own.clone()),
            (Holder::Other(addresses, _), true) => Step::Check(addresses.clone()),
            _ => Step::Wait,
        }
    }

    /// What to do when the holder has been checked.
    pub fn checked(&mut self, answers: bool) -> Step {
        let Holder::Other(_, failures) = &mut self.holder else { return Step::Wait };
        *failures = if answers { 0 } else { *failures + 1 };
        match *failures >= self.fall {
            true => Step::Take(self.own.clone()),
            false => Step::Wait,
        }
    }

    /// The name could not be looked at: whoever held it may do so no more.
    pub fn blind(&mut self) {
        if !matches!(self.holder, Holder::Other(..)) {
            self.holder = Holder::Unknown;
        }
    }

    /// The server has taken what was to be taken, or removed what was to be removed.
    pub fn done(&mut self, step: &Step) {
        match step {
            Step::Take(_) => self.holder = Holder::Us,
            Step::Release => self.holder = Holder::Nobody,
            Step::Wait | Step::Check(_) => {}
        }
    }
}

/// The records of a name that has these addresses.
pub fn records(places: impl IntoIterator<Item = Place>, addresses: &BTreeSet<IpAddr>, ttl: u32) -> Records {
    let of = |place: Place| {
        let all: BTreeSet<IpAddr> =
            addresses.iter().copied().filter(|address| Family::of(*address) == place.family).collect();
        (!all.is_empty()).then_some((place, Addresses { ttl, all }))
    };
    places.into_iter().filter_map(of).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
