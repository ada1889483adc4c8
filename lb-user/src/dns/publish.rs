//! What secondaries get of a zone: the same for everybody, numbered by the serial of its SOA record. Pure.
//!
//! A secondary cannot choose by client or chance, so it gets what [`Choice::for_everybody`] says. Where nothing is known
//! of a name, or SERVFAIL would be answered, it keeps what it had; a name that never had anything gets all members but
//! those that the operator took out, since no address never works. Nothing is published before the first checks.
//!
//! Serials rise by RFC 1982 with each change, and never fall, also not over a restart: the file of the name server has a
//! bound that is ahead of what has been published, and an agent that starts goes on behind it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::{LowerName, Name, RData, Record, SerialNumber};

use super::policy::{Choice, Standing};
use super::snapshot::{Data, Snapshot};
use super::zone::Zone;
use crate::model::Family;

/// So far ahead of what is published is the bound of serials when it is moved, and so far at least it stays.
const AHEAD: u32 = 100;
/// Records of changes that are kept of any zone; of a larger one, as many as it has.
const HISTORY: usize = 1000;

/// A zone as it was published.
#[derive(Clone, Debug)]
pub struct Edition {
    soa: Record,
    /// Static records but for the SOA; most editions share them.
    fixed: Arc<[Record]>,
    /// Addresses that are chosen.
    chosen: Vec<Record>,
    /// What led here, the oldest first.
    changes: Vec<Arc<Change>>,
}

/// The difference between two editions, with the SOA record of each.
#[derive(Debug)]
struct Change {
    before: Record,
    removed: Vec<Record>,
    after: Record,
    added: Vec<Record>,
}

/// Zones as they were last published, by name.
pub type Editions = BTreeMap<LowerName, Arc<Edition>>;

impl Edition {
    /// The SOA record.
    pub fn soa(&self) -> &Record {
        &self.soa
    }

    /// The serial.
    pub fn serial(&self) -> u32 {
        serial(&self.soa)
    }

    /// One after the other, all records but for the SOA.
    pub fn record(&self, number: usize) -> Option<&Record> {
        match number.checked_sub(self.fixed.len()) {
            None => self.fixed.get(number),
            Some(number) => self.chosen.get(number),
        }
    }

    /// Number of records but for the SOA.
    pub(super) fn len(&self) -> usize {
        self.fixed.len() + self.chosen.len()
    }

    /// What has changed since a serial, as IXFR tells it between two SOA records (RFC 1995, section 4); `None`: that is
    /// not known any more, or more than all there is.
    pub fn since(&self, known: u32) -> Option<Vec<Record>> {
        let first = self.changes.iter().position(|change| serial(&change.before) == known)?;
        let changes = &self.changes[first..];
        if changes.iter().map(|change| change.len()).sum::<usize>() > self.len() + 2 {
            return None;
        }
        let mut told = Vec::new();
        for change in changes {
            told.push(change.before.clone());
            told.extend_from_slice(&change.removed);
            told.push(change.after.clone());
            told.extend_from_slice(&change.added);
        }
        Some(told)
    }
}

impl Change {
    fn len(&self) -> usize {
        2 + self.removed.len() + self.added.len()
    }
}

/// Whether a serial is ahead of another one (RFC 1982, section 3.2).
pub fn is_ahead(serial: u32, of: u32) -> bool {
    SerialNumber::from(serial) > SerialNumber::from(of)
}

/// Numbers what is published.
#[derive(Debug, Default)]
pub struct Publisher {
    /// No zone has been published by a serial behind its bound.
    bounds: BTreeMap<LowerName, u32>,
    /// Serials of zones that have not been published yet.
    first: BTreeMap<LowerName, u32>,
    zones: BTreeMap<LowerName, Published>,
    data: Arc<Data>,
}

/// Addresses of a name: their TTL, and they themselves.
type Addresses = (u32, BTreeSet<IpAddr>);
/// Addresses by number of the choice.
type Places = BTreeMap<(usize, Family), Addresses>;

#[derive(Debug)]
struct Published {
    edition: Arc<Edition>,
    /// Names may have other numbers after a reload.
    places: BTreeMap<(LowerName, Family), Addresses>,
}

impl Publisher {
    /// One that goes on behind these bounds.
    pub fn new(bounds: BTreeMap<LowerName, u32>) -> Self {
        Publisher { bounds, ..Publisher::default() }
    }

    /// Finds the first serials of zones that are new: the configured ones, unless they went on before. Returns whether
    /// bounds have moved; they must be in the file before the zones are published.
    pub fn prepare(&mut self, data: &Data) -> bool {
        let zones = data.transfers.keys().filter_map(|apex| data.zones.get(apex));
        let new: Vec<&Zone> = zones.filter(|zone| !self.zones.contains_key(zone.apex())).collect();
        for zone in &new {
            let first = match self.bounds.get(zone.apex()) {
                Some(bound) if !is_ahead(zone.serial(), *bound) => next(*bound),
                _ => zone.serial(),
            };
            self.first.insert(zone.apex().clone(), first);
            self.bounds.insert(zone.apex().clone(), first.wrapping_add(AHEAD));
        }
        !new.is_empty()
    }

    /// Must be in the file before many more changes.
    pub fn bounds(&self) -> &BTreeMap<LowerName, u32> {
        &self.bounds
    }

    /// What secondaries get now.
    pub fn publish(&mut self, snapshot: &Snapshot) -> Editions {
        let same_data = Arc::ptr_eq(&self.data, &snapshot.data);
        self.data = Arc::clone(&snapshot.data);
        let transfers = &snapshot.data.transfers;
        self.zones.retain(|apex, _| transfers.contains_key(apex));
        for zone in transfers.keys().filter_map(|apex| snapshot.data.zones.get(apex)) {
            let before = self.zones.remove(zone.apex());
            let published = match places(snapshot, zone, before.as_ref()) {
                Some(places) => Some(self.renew(snapshot, zone, before, &places, same_data)),
                None => before,
            };
            if let Some(published) = published {
                self.zones.insert(zone.apex().clone(), published);
            }
        }
        self.zones.iter().map(|(apex, zone)| (apex.clone(), Arc::clone(&zone.edition))).collect()
    }

    /// The edition before if it has the same content, else the next one.
    fn renew(
        &mut self,
        snapshot: &Snapshot,
        zone: &Zone,
        before: Option<Published>,
        places: &Places,
        same_data: bool,
    ) -> Published {
        let data = &snapshot.data;
        let chosen: Vec<Record> = places
            .iter()
            .flat_map(|((choice, _), (ttl, all))| {
                let name = &data.choices[*choice].name;
                all.iter().map(|address| Record::from_rdata(name.clone(), *ttl, RData::from(*address)))
            })
            .collect();
        let Some(Published { edition: old, .. }) = before else {
            let first = self.first.remove(zone.apex()).unwrap_or_else(|| zone.serial());
            let edition = Edition { soa: soa(zone, first), fixed: fixed(zone), chosen, changes: Vec::new() };
            return self.published(zone, Arc::new(edition), data, places);
        };
        let fixed = if same_data { Arc::clone(&old.fixed) } else { fixed(zone) };
        let of = |fixed: &Arc<[Record]>, chosen: &[Record]| {
            let fixed = if same_data { Arc::default() } else { Arc::clone(fixed) };
            fixed.iter().chain(chosen).cloned().collect::<Vec<Record>>()
        };
        let (had, has) = (of(&old.fixed, &old.chosen), of(&fixed, &chosen));
        let (removed, added) = (difference(&had, &has), difference(&has, &had));
        let same_soa = soa(zone, old.serial());
        let is_same =
            removed.is_empty() && added.is_empty() && same_soa == old.soa && same_soa.ttl == old.soa.ttl;
        if is_same && !is_ahead(zone.serial(), old.serial()) {
            return self.published(zone, old, data, places);
        }
        let serial = match is_ahead(zone.serial(), old.serial()) {
            true => zone.serial(),
            false => next(old.serial()),
        };
        let after = soa(zone, serial);
        let mut changes = old.changes.clone();
        changes.push(Arc::new(Change { before: old.soa.clone(), removed, after: after.clone(), added }));
        let mut edition = Edition { soa: after, fixed, chosen, changes };
        let most = edition.len().max(HISTORY);
        while edition.changes.iter().map(|change| change.len()).sum::<usize>() > most {
            edition.changes.remove(0);
        }
        self.published(zone, Arc::new(edition), data, places)
    }

    fn published(&mut self, zone: &Zone, edition: Arc<Edition>, data: &Data, places: &Places) -> Published {
        let serial = edition.serial();
        let bound = self.bounds.entry(zone.apex().clone()).or_insert(serial);
        if !is_ahead(*bound, serial.wrapping_add(AHEAD / 2)) {
            *bound = serial.wrapping_add(AHEAD);
        }
        let name = |choice: usize| LowerName::new(&data.choices[choice].name);
        let places = places.iter().map(|((n, family), all)| ((name(*n), *family), all.clone()));
        Published { edition, places: places.collect() }
    }
}

/// What everybody gets of the chosen names; `None`: it is too early to say.
fn places(snapshot: &Snapshot, zone: &Zone, before: Option<&Published>) -> Option<Places> {
    let mut places = Places::new();
    for (name, node) in zone.nodes() {
        let Some(number) = node.choice else { continue };
        let choice = &snapshot.data.choices[number];
        let standings = snapshot.standings(number);
        for family in Family::ALL {
            let had = || before.and_then(|before| before.places.get(&(name.clone(), family)));
            let addresses = match choice.for_everybody(family, standings, snapshot.starting) {
                Some(all) => (choice.ttl, all.into_iter().collect()),
                None => match had() {
                    Some(had) => had.clone(),
                    None if snapshot.starting => return None,
                    None => (choice.ttl, last_resort(choice, family, standings)),
                },
            };
            places.insert((number, family), addresses);
        }
    }
    Some(places)
}

fn last_resort(choice: &Choice, family: Family, standings: &[Standing]) -> BTreeSet<IpAddr> {
    let members = choice.members.iter().zip(standings);
    let may = members.filter(|(member, standing)| {
        Family::of(member.address) == family && !matches!(standing, Standing::Down)
    });
    may.map(|(member, _)| member.address).collect()
}

/// The static records but for the SOA.
fn fixed(zone: &Zone) -> Arc<[Record]> {
    let records = zone.records().into_iter().filter(|record| !matches!(record.data, RData::SOA(_)));
    records.map(|record| Record::from_rdata(record.name, record.ttl, record.data)).collect()
}

/// The SOA record of a zone with another serial.
pub fn soa(zone: &Zone, serial: u32) -> Record {
    let soa = zone.soa();
    let mut record = Record::from_rdata(soa.name.clone(), soa.ttl, soa.data.clone());
    if let RData::SOA(soa) = &mut record.data {
        soa.serial = serial;
    }
    record
}

/// The serial of an SOA record.
pub fn serial(soa: &Record) -> u32 {
    match &soa.data {
        RData::SOA(soa) => soa.serial,
        _ => 0,
    }
}

/// The serial after another one. Zero is left out: some take it for none at all.
pub fn next(serial: u32) -> u32 {
    serial.wrapping_add(1).max(1)
}

/// Records of the first that are not, with the same TTL, among the second.
fn difference(of: &[Record], without: &[Record]) -> Vec<Record> {
    let without: HashSet<(&Name, u32, &RData)> =
        without.iter().map(|record| (&record.name, record.ttl, &record.data)).collect();
    of.iter().filter(|record| !without.contains(&(&record.name, record.ttl, &record.data))).cloned().collect()
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
