//! VIPs that are prefixes, in the kernel: the trie that tells programs which prefix holds an address; and how services
//! are named there.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData};
use lb_common::maps::ServiceKey;
use lb_common::prefixes::{KIND_BITS, Prefix, PrefixKey};

use super::Result;
use super::director::NO_PREALLOC;
use super::load::{Capacities, Loaded, MapShape, kind};
use super::pools::{map_error, shape};
use super::services;
use crate::model::{self, Fragments, Model, Protocol};
use crate::vip::Vip;

/// See the programs. An entry takes memory only once it is there.
pub(super) const PREFIXES: MapShape = MapShape {
    flags: NO_PREALLOC,
    ..shape("PREFIXES", kind::LPM_TRIE, 24, size_of::<Prefix>(), services::entries(1024))
};

/// The global of the programs that is not 0 if some VIP is a prefix. It is no map, but is told to them like the size of
/// one.
pub(super) const ANY_PREFIX: &str = "ANY_PREFIX";

/// Its value, for [`Object::load`](super::load::Object::load).
pub(super) fn tell(any: bool, entries: &mut Capacities) {
    entries.insert(ANY_PREFIX, any.into());
}

/// Programs that run over these pinned maps have to look for prefixes.
pub(super) fn any_in(maps: &Path) -> bool {
    let open = || LpmTrie::try_from(Map::from_map_data(MapData::from_pin(maps.join("PREFIXES"))?)?);
    let trie: Option<LpmTrie<MapData, PrefixKey, Prefix>> = open().ok();
    trie.is_some_and(|trie| trie.keys().next().is_some())
}

/// The trie, and what is in it.
pub(super) struct Prefixes {
    trie: LpmTrie<MapData, PrefixKey, Prefix>,
    have: BTreeSet<ServiceKey>,
}

impl Prefixes {
    /// Takes the map, with what it holds.
    pub fn take(loaded: &mut Loaded) -> Result<Self> {
        let trie: LpmTrie<MapData, PrefixKey, Prefix> = loaded.map("PREFIXES")?;
        let mut have = BTreeSet::new();
        for key in trie.keys() {
            let key = key.map_err(map_error("PREFIXES"))?;
            have.insert(ServiceKey::from_trie(key.data(), key.prefix_len() - KIND_BITS));
        }
        Ok(Prefixes { trie, have })
    }

    /// What is in it.
    pub fn iter(&self) -> impl Iterator<Item = ServiceKey> {
        self.have.iter().copied()
    }

    /// Makes the prefix of a key be found; nothing, if its VIP is an address.
    pub fn insert(&mut self, key: ServiceKey) -> Result<()> {
        let Some(length) = key.prefix().filter(|_| !self.have.contains(&key)) else { return Ok(()) };
        let prefix = Prefix { first: key.vip(), length: length.into() };
        self.trie.insert(&in_trie(&key, length), prefix, 0).map_err(map_error("PREFIXES"))?;
        self.have.insert(key);
        Ok(())
    }

    /// Makes it be found no more.
    pub fn remove(&mut self, key: &ServiceKey) -> Result<()> {
        let Some(length) = key.prefix().filter(|_| self.have.contains(key)) else { return Ok(()) };
        self.trie.remove(&in_trie(key, length)).map_err(map_error("PREFIXES"))?;
        self.have.remove(key);
        Ok(())
    }

    /// Makes exactly these be found, of all that are `ours`: new ones first.
    pub fn set(&mut self, ours: impl Fn(&ServiceKey) -> bool, want: &BTreeSet<ServiceKey>) -> Result<()> {
        want.iter().try_for_each(|key| self.insert(*key))?;
        let idle: Vec<_> = self.iter().filter(|key| ours(key) && !want.contains(key)).collect();
        idle.iter().try_for_each(|key| self.remove(key))
    }

    /// Makes these VIPs be found, as far as they are prefixes, and no others.
    pub fn set_vips(&mut self, vips: &BTreeSet<Vip>) -> Result<()> {
        let prefixes = vips.iter().filter(|vip| vip.is_prefix());
        let want = prefixes.map(|vip| of_vip(ServiceKey::of_vip(vip.first().into()), *vip)).collect();
        self.set(ServiceKey::is_vip, &want)
    }

    /// Makes the keys of fragments be found that are forwarded, and no others. A VIP in such a prefix that forwards
    /// none has an entry, too, which leads to nothing in the directory.
    pub fn set_fragments(
        &mut self,
        model: &Model,
        forwarded: impl Iterator<Item = ServiceKey>,
    ) -> Result<()> {
        let mut want: BTreeSet<_> = forwarded.filter(|key| key.prefix().is_some()).collect();
        if !want.is_empty() {
            let dropped = model.services.iter().filter(|(_, s)| s.fragments == Fragments::Drop);
            let hidden = dropped.filter(|(key, _)| {
                model.vips_over(key.vip).any(|over| want.contains(&fragments_key(over, key.protocol)))
            });
            let key = |key: &model::ServiceKey| {
                ServiceKey::of_fragments(key.vip.first().into(), key.protocol.number())
                    .within(prefix_of(key.vip))
            };
            let hidden: Vec<_> = hidden.map(|(hidden, _)| key(hidden)).collect();
            want.extend(hidden);
        }
        self.set(|key| !key.is_vip() && !key.is_service(), &want)
    }
}

/// The key of a service, as the programs have it.
pub(super) fn kernel_key(key: &model::ServiceKey) -> ServiceKey {
    let first = ServiceKey::new(key.vip.first().into(), key.port.to_be(), key.protocol.number());
    of_vip(first, key.vip)
}

/// The same of the fragments of a protocol for a VIP.
pub(super) fn fragments_key(vip: Vip, protocol: Protocol) -> ServiceKey {
    of_vip(ServiceKey::of_fragments(vip.first().into(), protocol.number()), vip)
}

/// None for a VIP, and for fragments.
pub(super) fn user_key(key: &ServiceKey) -> Option<model::ServiceKey> {
    if !key.is_service() {
        return None;
    }
    let protocol = Protocol::from_number(key.protocol())?;
    let first = IpAddr::from(key.vip());
    let vip = match key.prefix() {
        None => first.into(),
        Some(length) => Vip::new(crate::bgp::Prefix { address: first, length }),
    };
    Some(model::ServiceKey { vip, port: key.port(), protocol })
}

/// The key for a VIP, given that for its first address.
fn of_vip(key: ServiceKey, vip: Vip) -> ServiceKey {
    match vip.is_prefix() {
        true => key.within(prefix_of(vip)),
        false => key,
    }
}

/// A VIP as the trie has it, an address too.
fn prefix_of(vip: Vip) -> Prefix {
    Prefix { first: vip.first().into(), length: vip.prefix().length.into() }
}

fn in_trie(key: &ServiceKey, length: u8) -> Key<PrefixKey> {
    Key::new(KIND_BITS + u32::from(length), key.in_trie())
}
