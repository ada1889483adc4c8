//! What services ask for beyond a table, in the kernel.
//!
//! Nothing that a service names is ever changed: a new list gets a new number, and what names it a new place. Services then
//! follow by one write each, so that at every moment either the old list or the new one is in force. What none names any more
//! goes after a grace period of the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, MapData, MapError};
use lb_common::extras::{self as kernel, ALLOWED, BY_ID, DENIED, LIMITED, LIST_BITS, SOURCES, SourceKey};
use lb_common::flow::Addr;
use lb_common::limit::{Buckets, SETS};

use crate::dataplane::load::{Loaded, MapShape, kind};
use crate::dataplane::pools::{Named, map_error, shape};
use crate::dataplane::services::grace_period;
use crate::dataplane::{Error, Result};
use crate::extras::{Counted, Limit, SourceList};
use crate::model::{Family, Host, HostId, Model, ServiceKey};

use super::NO_PREALLOC;
use super::server_ids::Groups;

/// See the program.
pub(super) const EXTRAS: MapShape =
    shape("EXTRAS", kind::ARRAY, 4, size_of::<kernel::Extras>(), entries(1024));
/// As many prefixes as this map holds in all; each takes memory only once it is there.
const PREFIXES: u32 = 1 << 20;
/// See the program.
pub(super) const SOURCE_LISTS: MapShape =
    MapShape { flags: NO_PREALLOC, ..shape("SOURCE_LISTS", kind::LPM_TRIE, 24, 4, PREFIXES) };

/// See the program.
pub(super) const BUCKETS: MapShape = shape("BUCKETS", kind::ARRAY, 4, size_of::<Buckets>(), SETS);

/// Places for so many services, and as many that wait for the end of a grace period; the first is not used.
pub(super) const fn entries(services: u32) -> u32 {
    2 * services + 1
}

/// A list of sources as the kernel has it: what becomes of sources by prefix length, of which addresses have 128 bits, and
/// address.
type Rules = BTreeMap<(u32, [u8; 16]), u32>;

/// A list that is in the kernel.
struct List {
    /// What it was made of, unless an agent before this one made it.
    made_of: Option<Arc<SourceList>>,
    rules: Rules,
}

/// All that services ask for.
pub(super) struct Extras {
    records: Array<MapData, kernel::Extras>,
    sources: LpmTrie<MapData, SourceKey, u32>,
    lists: BTreeMap<u32, List>,
    groups: Groups,
    /// What each place holds that a service names, or may have named a moment ago.
    places: BTreeMap<u32, kernel::Extras>,
    /// Lists with numbers up to this one have been used.
    last_list: u32,
}

impl Extras {
    /// Takes the maps, with what `named` services in the kernel name.
    pub fn take(loaded: &mut Loaded, named: impl Iterator<Item = Named>) -> Result<Self> {
        let mut extras = Extras {
            records: loaded.map("EXTRAS")?,
            sources: loaded.map("SOURCE_LISTS")?,
            groups: Groups::take(loaded.map("SERVER_IDS")?)?,
            lists: BTreeMap::new(),
            places: BTreeMap::new(),
            last_list: 0,
        };
        for key in extras.sources.keys() {
            let key = key.map_err(map_error("SOURCE_LISTS"))?;
            let SourceKey { list, address } = key.data();
            let allowed = extras.sources.get(&key, 0).map_err(map_error("SOURCE_LISTS"))?;
            let list = extras.lists.entry(list).or_insert(List { made_of: None, rules: Rules::new() });
            list.rules.insert((key.prefix_len() - LIST_BITS, address.octets()), allowed);
        }
        extras.last_list = extras.lists.keys().next_back().copied().unwrap_or(0);
        for Named { flags, extras: place } in named {
            if flags & kernel::EXTRA != 0 {
                let record = extras.records.get(&place, 0).map_err(map_error("EXTRAS"))?;
                extras.places.insert(place, record);
            }
        }
        Ok(extras)
    }

    /// Writes what the services of a model ask for and the kernel does not have yet: the flags and place of each.
    pub fn write(
        &mut self,
        model: &Model,
        slot: impl Fn(&HostId, &Host) -> Option<u16>,
    ) -> Result<BTreeMap<ServiceKey, Named>> {
        let mut named = BTreeMap::new();
        for (key, service) in &model.services {
            let mut record = kernel::Extras::default();
            let mut flags = 0;
            if let Some(list) = &service.extras.sources {
                record.list = self.list(list)?;
                flags |= SOURCES;
            }
            if let Some(limit) = &service.extras.limit {
                limited(&mut record, limit, key.vip.family() == Family::V4);
                flags |= LIMITED;
            }
            if let (Some(quic), Some(pool)) = (&service.extras.quic, model.pools.get(&service.pool)) {
                let ids = quic.server_ids(&service.pool, &pool.hosts);
                let slot = |host: &String| {
                    slot(&HostId { pool: service.pool.clone(), host: host.clone() }, pool.hosts.get(host)?)
                };
                let ids = ids.iter().filter_map(|(id, host)| Some((*id, u32::from(slot(host)?)))).collect();
                (record.rotation, record.id_len) = (quic.rotation, quic.length);
                record.group = self.groups.number(ids)?;
                flags |= BY_ID;
            }
            if flags != 0 {
                named.insert(*key, Named { flags, extras: self.place(record)? });
            }
        }
        Ok(named)
    }

    /// Gives up what `named` services do not name, once no program reads it any more.
    pub fn settle(&mut self, named: impl Iterator<Item = Named>) -> Result<()> {
        let named: BTreeSet<u32> = named.filter(|n| n.flags & kernel::EXTRA != 0).map(|n| n.extras).collect();
        let mut places = self.places.clone();
        places.retain(|place, _| named.contains(place));
        let lists: BTreeSet<u32> = places.values().map(|record| record.list).collect();
        let groups: BTreeSet<u32> = places.values().map(|record| record.group).collect();
        let idle: Vec<u32> = self.lists.keys().filter(|list| !lists.contains(list)).copied().collect();
        if places.len() < self.places.len() || !idle.is_empty() || self.groups.has_others(&groups) {
            grace_period();
        }
        self.places = places;
        self.groups.retain(&groups)?;
        for list in idle {
            if let Some(List { rules, .. }) = self.lists.remove(&list) {
                self.remove(list, &rules)?;
            }
        }
        Ok(())
    }

    /// Prefixes of all lists in the kernel, with the rule for all others of each.
    pub fn prefixes(&self) -> usize {
        self.sources.keys().count()
    }

    /// The number of a list that says the same.
    fn list(&mut self, wanted: &Arc<SourceList>) -> Result<u32> {
        let is_it = |list: &List| list.made_of.as_ref().is_some_and(|of| Arc::ptr_eq(of, wanted));
        if let Some((number, _)) = self.lists.iter().find(|(_, list)| is_it(list)) {
            return Ok(*number);
        }
        let rules = rules(wanted);
        if let Some((number, list)) = self.lists.iter_mut().find(|(_, list)| list.rules == rules) {
            list.made_of = Some(wanted.clone());
            return Ok(*number);
        }
        let list = self.last_list + 1;
        if let Err(error) = self.add(list, &rules) {
            // What was added takes room, and nothing names it.
            let _ = self.remove(list, &rules);
            return Err(error);
        }
        self.last_list = list;
        self.lists.insert(list, List { made_of: Some(wanted.clone()), rules });
        Ok(list)
    }

    fn add(&mut self, list: u32, rules: &Rules) -> Result<()> {
        let have: usize = self.lists.values().map(|list| list.rules.len()).sum();
        if have + rules.len() > PREFIXES as usize {
            return Err(Error::Prefixes { want: have + rules.len(), room: PREFIXES as usize });
        }
        for (rule, allowed) in rules {
            self.sources.insert(&key(list, *rule), allowed, 0).map_err(map_error("SOURCE_LISTS"))?;
        }
        Ok(())
    }

    fn remove(&mut self, list: u32, rules: &Rules) -> Result<()> {
        for rule in rules.keys() {
            match self.sources.remove(&key(list, *rule)) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(map_error("SOURCE_LISTS")(error)),
            }
        }
        Ok(())
    }

    /// A place that holds a record.
    fn place(&mut self, record: kernel::Extras) -> Result<u32> {
        if let Some((place, _)) = self.places.iter().find(|(_, have)| **have == record) {
            return Ok(*place);
        }
        // There are twice as many as services, and what no service names is given up after each change.
        let place = (1..).find(|place| !self.places.contains_key(place)).unwrap_or(0);
        self.records.set(place, record, 0).map_err(map_error("EXTRAS"))?;
        self.places.insert(place, record);
        Ok(place)
    }
}

fn limited(record: &mut kernel::Extras, limit: &Limit, v4: bool) {
    record.interval = limit.interval();
    record.tolerance = record.interval * u64::from(limit.burst - 1);
    record.prefix = if v4 { 96 + limit.prefix4 } else { limit.prefix6 };
    record.connections = u8::from(limit.of == Counted::Connections);
}

fn key(list: u32, (length, address): (u32, [u8; 16])) -> Key<SourceKey> {
    Key::new(LIST_BITS + length, SourceKey { list, address: Addr::from_octets(address) })
}

/// IPv4 prefixes stand as IPv4-mapped ones. A prefix of no bits takes the place of the rule for all others.
fn rules(list: &SourceList) -> Rules {
    let others = ((0, [0; 16]), if list.allows_others() { ALLOWED } else { DENIED });
    let allow = list.allow.iter().map(|prefix| (prefix, ALLOWED));
    let deny = list.deny.iter().map(|prefix| (prefix, DENIED));
    let rule = |(prefix, allowed): (&crate::bgp::Prefix, u32)| {
        let mapped = if prefix.address.is_ipv4() { 96 } else { 0 };
        ((mapped + u32::from(prefix.length), Addr::from(prefix.address).octets()), allowed)
    };
    std::iter::once(others).chain(allow.chain(deny).map(rule)).collect()
}
