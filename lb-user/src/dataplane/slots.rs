//! Which slot of the next hop map belongs to which host.
//!
//! A slot keeps its host's address for as long as any table may name it; a host with a new address is a new host with
//! a new slot. So a packet in flight never meets a half-changed destination.

use std::collections::BTreeMap;

use crate::model::{Host, HostId};
use crate::table::host_id;

/// The stable id of a host: of its pool, name and addresses. Two machines with the same manifest have the same ids.
pub fn stable_id(id: &HostId, host: &Host) -> u64 {
    let text = |address: Option<String>| address.unwrap_or_default();
    let (v4, v6) = (host.address4.map(|a| a.to_string()), host.address6.map(|a| a.to_string()));
    host_id(&format!("{}\n{}\n{}\n{}", id.pool, id.host, text(v4), text(v6)))
}

/// Slots by stable id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    by_id: BTreeMap<u64, u16>,
}

impl Slots {
    /// As found in the kernel: the ids in order of their slots, zero for a free one.
    pub fn adopt(ids: impl IntoIterator<Item = u64>) -> Self {
        let taken = ids.into_iter().enumerate().filter(|(_, id)| *id != 0);
        Slots { by_id: taken.filter_map(|(slot, id)| Some((id, u16::try_from(slot).ok()?))).collect() }
    }

    /// The slot of a host.
    pub fn get(&self, id: u64) -> Option<u16> {
        self.by_id.get(&id).copied()
    }

    /// Ids and slots.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u16)> + '_ {
        self.by_id.iter().map(|(id, slot)| (*id, *slot))
    }

    /// Gives each of `wanted` a slot below `capacity`, the lowest free ones, and returns the new ones; `None` if there
    /// are too few. Hosts that have a slot keep it, also those no longer wanted: see [`Slots::release`].
    pub fn assign(
        &mut self,
        wanted: impl IntoIterator<Item = u64>,
        capacity: u16,
    ) -> Option<Vec<(u64, u16)>> {
        let mut next = self.clone();
        let mut taken: Vec<bool> = vec![false; usize::from(capacity)];
        for slot in next.by_id.values() {
            taken[usize::from(*slot)] = true;
        }
        let mut free = (0..capacity).filter(|slot| !taken[usize::from(*slot)]);
        let mut new = Vec::new();
        for id in wanted {
            if next.by_id.contains_key(&id) {
                continue;
            }
            let slot = free.next()?;
            next.by_id.insert(id, slot);
            new.push((id, slot));
        }
        *self = next;
        Some(new)
    }

    /// Frees the slots of all hosts but `wanted`, once no table names them, and returns them.
    pub fn release(&mut self, wanted: &std::collections::BTreeSet<u64>) -> Vec<u16> {
        let gone: Vec<_> =
            self.by_id.iter().filter(|(id, _)| !wanted.contains(id)).map(|(i, s)| (*i, *s)).collect();
        for (id, _) in &gone {
            self.by_id.remove(id);
        }
        gone.into_iter().map(|(_, slot)| slot).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_keep_their_slots_and_new_ones_take_the_lowest_free() {
        let mut slots = Slots::adopt([7, 0, 9]);
        assert_eq!(slots.assign([9, 11, 7, 13], 8), Some(vec![(11, 1), (13, 3)]));
        assert_eq!(slots.get(9), Some(2));
        assert_eq!(slots.release(&[9, 11].into()), [0, 3]);
        assert_eq!(slots.assign([15], 8), Some(vec![(15, 0)]));
    }

    #[test]
    fn too_many_hosts_change_nothing() {
        let mut slots = Slots::adopt([7]);
        assert_eq!(slots.assign([1, 2], 2), None);
        assert_eq!(slots, Slots::adopt([7]));
    }

    #[test]
    fn another_address_is_another_host() {
        let id = HostId { pool: "web".into(), host: "a".into() };
        let at = |last| Host {
            address4: Some([192, 0, 2, last].into()),
            address6: None,
            weight: 1,
            state: crate::model::HostState::Active,
        };
        assert_ne!(stable_id(&id, &at(1)), stable_id(&id, &at(2)));
        assert_eq!(stable_id(&id, &at(1)), stable_id(&id, &at(1)));
    }
}
