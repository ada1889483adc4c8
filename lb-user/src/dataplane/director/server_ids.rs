//! Groups of server ids in the kernel: which host each names. Like lists of sources, a group is never changed.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{HashMap, MapData, MapError};
use lb_common::extras::ServerKey;

use crate::dataplane::Result;
use crate::dataplane::load::{MapShape, kind};
use crate::dataplane::pools::{map_error, shape};

use super::NO_PREALLOC;

/// See the program. Each takes memory only once it is there.
pub(super) const SERVER_IDS: MapShape = MapShape {
    flags: NO_PREALLOC,
    ..shape("SERVER_IDS", kind::HASH, size_of::<ServerKey>() as u32, 4, 1 << 18)
};

/// Slots by server id.
type Group = BTreeMap<u64, u32>;

/// All groups in the kernel, by their numbers.
pub(super) struct Groups {
    map: HashMap<MapData, ServerKey, u32>,
    groups: BTreeMap<u32, Group>,
    last: u32,
}

impl Groups {
    /// Takes the map with what it holds.
    pub fn take(map: HashMap<MapData, ServerKey, u32>) -> Result<Self> {
        let mut groups: BTreeMap<u32, Group> = BTreeMap::new();
        for entry in map.iter() {
            let (ServerKey { id, group, .. }, slot) = entry.map_err(map_error("SERVER_IDS"))?;
            groups.entry(group).or_default().insert(id, slot);
        }
        let last = groups.keys().next_back().copied().unwrap_or(0);
        Ok(Groups { map, groups, last })
    }

    /// The number of a group of these ids, which is written if there is none. A group without ids has number 0.
    pub fn number(&mut self, ids: Group) -> Result<u32> {
        if ids.is_empty() {
            return Ok(0);
        }
        if let Some((number, _)) = self.groups.iter().find(|(_, group)| **group == ids) {
            return Ok(*number);
        }
        let group = self.last + 1;
        self.last = group;
        // Known from now on, so that it goes if it cannot be written to its end.
        let ids = self.groups.entry(group).or_insert(ids);
        for (id, slot) in ids.iter() {
            let key = ServerKey { id: *id, group, pad: 0 };
            self.map.insert(key, slot, 0).map_err(map_error("SERVER_IDS"))?;
        }
        Ok(group)
    }

    /// Some group is none of these.
    pub fn has_others(&self, named: &BTreeSet<u32>) -> bool {
        self.groups.keys().any(|group| !named.contains(group))
    }

    /// Removes all other groups.
    pub fn retain(&mut self, named: &BTreeSet<u32>) -> Result<()> {
        let idle: Vec<u32> = self.groups.keys().filter(|group| !named.contains(group)).copied().collect();
        for group in idle {
            for id in self.groups.remove(&group).unwrap_or_default().into_keys() {
                match self.map.remove(&ServerKey { id, group, pad: 0 }) {
                    Ok(()) | Err(MapError::KeyNotFound) => {}
                    Err(error) => return Err(map_error("SERVER_IDS")(error)),
                }
            }
        }
        Ok(())
    }
}
