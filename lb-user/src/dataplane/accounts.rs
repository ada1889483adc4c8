//! What a host's program did with packets of each service and generation.
//!
//! A generation keeps its place among the accounts of its pool as long as it is in force. The places are kept beside the
//! table, so that an agent that adopts the maps goes on with them.

use std::collections::BTreeMap;

use aya::maps::{Array, MapData};
use lb_common::maps::{self, Account, GENERATIONS, View, account_index};

use super::Result;
use super::load::Loaded;
use super::per_cpu::PerCpu;
use super::pools::{PoolTable, map_error};
use crate::model::{Model, Pool, ServiceKey};

/// An account of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByGeneration {
    /// The service.
    pub service: ServiceKey,
    /// Whose table the director went by; `None`: one that is not in force here.
    pub generation: Option<u16>,
    /// Sum over all processors.
    pub account: Account,
}

/// The maps of accounts and of the places in them.
pub(super) struct Accounts {
    views: Array<MapData, View>,
    accounts: PerCpu<Account>,
    /// Places by pool.
    places: BTreeMap<String, [u16; GENERATIONS]>,
}

impl Accounts {
    pub fn take(loaded: &mut Loaded) -> Result<Self> {
        Ok(Accounts {
            views: loaded.map("VIEWS")?,
            accounts: PerCpu::take(loaded, "ACCOUNTS")?,
            places: BTreeMap::new(),
        })
    }

    /// Writes what the program must know beside the tables, before `services`, which are those in force, name them.
    pub fn write_views(
        &mut self,
        services: &BTreeMap<ServiceKey, maps::Service>,
        model: &Model,
        tables: &BTreeMap<String, PoolTable>,
        own: impl Fn(&str) -> u64,
    ) -> Result<()> {
        let mut next = BTreeMap::new();
        for (name, table) in tables {
            let of_pool = || {
                let of = |key: &ServiceKey| model.services.get(key).is_some_and(|s| s.pool == *name);
                services.iter().filter(move |(key, _)| of(key)).map(|(_, service)| service)
            };
            let before = match self.places.get(name) {
                Some(places) => *places,
                None => match of_pool().next() {
                    Some(service) => self.view(service.table)?.generations,
                    None => Default::default(),
                },
            };
            let places = places(&before, &table.made_of);
            for (place, (is, was)) in places.iter().zip(&before).enumerate() {
                if is != was && *is != 0 {
                    for service in of_pool() {
                        self.accounts.zero(account_index(service.id, place))?;
                    }
                }
            }
            let view = View { own: own(name), generations: places };
            if self.view(table.slot)? != view {
                self.views.set(table.slot, view, 0).map_err(map_error("VIEWS"))?;
            }
            next.insert(name.clone(), places);
        }
        self.places = next;
        Ok(())
    }

    /// Clears all accounts of a service that had another one's id.
    pub fn clear(&mut self, service: u32) -> Result<()> {
        (0..=GENERATIONS).try_for_each(|place| self.accounts.zero(account_index(service, place)))
    }

    /// All accounts of these services that may have something in them.
    pub fn read(&self, services: &BTreeMap<ServiceKey, maps::Service>) -> Result<Vec<ByGeneration>> {
        let end = services.values().map(|service| account_index(service.id + 1, 0)).max().unwrap_or(0);
        let accounts = self.accounts.read(end, add)?;
        let mut all = Vec::new();
        for (key, service) in services {
            let view = self.view(service.table)?;
            for place in 0..=GENERATIONS {
                let generation = view.generations.get(place).copied();
                if generation == Some(0) {
                    continue;
                }
                let account =
                    accounts.get(account_index(service.id, place) as usize).copied().unwrap_or_default();
                all.push(ByGeneration { service: *key, generation, account });
            }
        }
        Ok(all)
    }

    fn view(&self, table: u32) -> Result<View> {
        self.views.get(&table, 0).map_err(map_error("VIEWS"))
    }
}

/// Generations in force keep their places, new ones take the first free ones; what finds none is not told apart.
fn places(before: &[u16; GENERATIONS], pool: &Pool) -> [u16; GENERATIONS] {
    let numbers: Vec<u16> = pool.generations().iter().map(|generation| generation.number).collect();
    let mut places = before.map(|number| if numbers.contains(&number) { number } else { 0 });
    for number in numbers {
        if !places.contains(&number)
            && let Some(free) = places.iter_mut().find(|place| **place == 0)
        {
            *free = number;
        }
    }
    places
}

fn add(sum: Account, cpu: &Account) -> Account {
    let mut rescued = sum.rescued;
    rescued.iter_mut().zip(cpu.rescued).for_each(|(sum, cpu)| *sum += cpu);
    Account {
        local: sum.local + cpu.local,
        rescued,
        passed_on: sum.passed_on + cpu.passed_on,
        last_resort: sum.last_resort + cpu.last_resort,
        over_budget: sum.over_budget + cpu.over_budget,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Generation;

    #[test]
    fn generations_keep_their_places_while_in_force() {
        let pool = |generation, others: &[u16]| Pool {
            generation,
            others: others.iter().map(|&number| Generation { number, ..Generation::default() }).collect(),
            ..Pool::default()
        };
        let first = places(&[0; 8], &pool(5, &[]));
        assert_eq!(first, [5, 0, 0, 0, 0, 0, 0, 0]);
        let second = places(&first, &pool(6, &[5]));
        assert_eq!(second, [5, 6, 0, 0, 0, 0, 0, 0]);
        assert_eq!(places(&second, &pool(7, &[6])), [7, 6, 0, 0, 0, 0, 0, 0]);
        assert_eq!(places(&[1; 8], &pool(9, &[1])), [1; 8], "no room: not told apart");
    }
}
