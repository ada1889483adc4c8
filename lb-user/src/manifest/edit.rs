//! Changes of the manifest, as pure functions: each makes one version, and says what is to follow.
//!
//! ```text
//! add, drain, undrain, weight ─→ prepared ─→ (all have confirmed) ─→ activate
//! remove                      ─→ only of a host that takes no new connections; by force: as drain, then removed
//! retire                      ─→ an old generation is forgotten
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Manifest, PoolManifest};
use crate::config::check_pools::DEFAULT_SIZE;
use crate::model::{Generation, Host, HostState};

/// A change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "edit", rename_all = "lowercase")]
pub enum Edit {
    /// Hosts join a pool; they take new connections once all nodes know them.
    Add {
        /// The pool.
        pool: String,
        /// The hosts by name.
        hosts: BTreeMap<String, NewHost>,
        /// The pool is made, which must not be there yet.
        create: Option<NewPool>,
    },
    /// Hosts get no new connections any more and keep those they have.
    Drain {
        /// The pool.
        pool: String,
        /// The hosts.
        hosts: BTreeSet<String>,
    },
    /// Hosts that were drained or down get new connections again.
    Undrain {
        /// The pool.
        pool: String,
        /// The hosts.
        hosts: BTreeSet<String>,
    },
    /// Hosts get another share of new connections.
    Weight {
        /// The pool.
        pool: String,
        /// The hosts with their weights.
        hosts: BTreeMap<String, u32>,
    },
    /// Hosts leave the pool; the connections that they still have break.
    Remove {
        /// The pool.
        pool: String,
        /// The hosts.
        hosts: BTreeSet<String>,
        /// Also hosts that take new connections.
        force: bool,
    },
    /// What is prepared becomes current.
    Activate {
        /// The pool.
        pool: String,
        /// The generation that is meant, if only that one.
        generation: Option<u16>,
    },
    /// What is prepared is given up. Hosts that it would have added stay, without new connections.
    Abort {
        /// The pool.
        pool: String,
    },
    /// An old generation is forgotten; connections that only it explains break.
    Retire {
        /// The pool.
        pool: String,
        /// Its number.
        generation: u16,
    },
}

/// A host that joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewHost {
    /// Where tunnels end: one address, or one of each family.
    pub addresses: Vec<IpAddr>,
    /// Share of new connections.
    pub weight: u32,
}

/// How the table of a new pool is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPool {
    /// Keys the table and the flow hash.
    pub seed: u64,
    /// Rows of the table.
    pub size: u32,
}

impl Default for NewPool {
    fn default() -> Self {
        NewPool { seed: 0, size: DEFAULT_SIZE }
    }
}

/// A version, and what is to follow once all nodes have confirmed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// The manifest with the change.
    pub manifest: Manifest,
    /// Further steps, in order.
    pub then: Vec<Edit>,
}

/// Why a change is refused; what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

impl Edit {
    /// The pool that it changes.
    pub fn pool(&self) -> &str {
        match self {
            Edit::Add { pool, .. }
            | Edit::Drain { pool, .. }
            | Edit::Undrain { pool, .. }
            | Edit::Weight { pool, .. }
            | Edit::Remove { pool, .. }
            | Edit::Activate { pool, .. }
            | Edit::Abort { pool }
            | Edit::Retire { pool, .. } => pool,
        }
    }
}

/// The next version with this change; nothing is changed where it is refused.
pub fn apply(manifest: &Manifest, edit: &Edit) -> Result<Next, Refused> {
    let name = edit.pool().to_owned();
    let mut next = manifest.clone();
    next.version += 1;
    if let Edit::Add { create: Some(new), .. } = edit {
        if manifest.pools.contains_key(&name) {
            return refused(format!("pool {name:?} is there already; leave out --create"));
        }
        let pool = PoolManifest { seed: new.seed, size: new.size, generation: 1, ..PoolManifest::default() };
        next.pools.insert(name.clone(), pool);
    }
    let Some(pool) = next.pools.get_mut(&name) else {
        let known: Vec<_> = manifest.pools.keys().cloned().collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return refused(format!(
            "no pool {name:?} in the manifest, which has {known}; make it by `lb pool add --create`"
        ));
    };
    let mut change = Change { name, pool, then: Vec::new() };
    change.make(edit)?;
    let then = change.then;
    if let Some(problem) = next.problems().into_iter().next() {
        return refused(format!("{}: {}", problem.key, problem.message));
    }
    Ok(Next { manifest: next, then })
}

/// All versions that a change goes through, one after the other.
pub fn steps(manifest: &Manifest, edit: &Edit) -> Result<Vec<Manifest>, Refused> {
    let mut versions = Vec::new();
    let mut left = vec![edit.clone()];
    while !left.is_empty() {
        let next = apply(versions.last().unwrap_or(manifest), &left.remove(0))?;
        versions.push(next.manifest);
        left.splice(0..0, next.then);
    }
    Ok(versions)
}

fn refused<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(why.into()))
}

/// A pool that is being changed.
struct Change<'a> {
    name: String,
    pool: &'a mut PoolManifest,
    then: Vec<Edit>,
}

impl Change<'_> {
    fn make(&mut self, edit: &Edit) -> Result<(), Refused> {
        match edit {
            Edit::Add { hosts, create, .. } => self.add(hosts, create.is_some()),
            Edit::Drain { hosts, .. } => self.drain(hosts),
            Edit::Undrain { hosts, .. } => self.undrain(hosts),
            Edit::Weight { hosts, .. } => self.weigh(hosts),
            Edit::Remove { hosts, force, .. } => self.remove(hosts, *force),
            Edit::Activate { generation, .. } => self.activate(*generation),
            Edit::Abort { .. } => match self.pool.prepared.take() {
                Some(_) => Ok(()),
                None => {
                    refused(format!("nothing is prepared in pool {}; there is nothing to give up", self.name))
                }
            },
            Edit::Retire { generation, .. } => self.retire(*generation),
        }
    }

    fn add(&mut self, hosts: &BTreeMap<String, NewHost>, created: bool) -> Result<(), Refused> {
        if hosts.is_empty() {
            return refused("no host named; name at least one");
        }
        for (name, new) in hosts {
            if name.is_empty()
                || name.contains(|c: char| c.is_whitespace() || c.is_control() || "=,/".contains(c))
            {
                return refused(format!(
                    "{name:?} is no name for a host; leave out spaces, =, commas and slashes"
                ));
            }
            if let Some(there) = self.pool.hosts.get(name) {
                let advice = match there.state {
                    HostState::Active => "nothing is to be done",
                    _ => "give it new connections by `lb undrain`",
                };
                return refused(format!("host {name} is in pool {} already; {advice}", self.name));
            }
            let mut host =
                Host { address4: None, address6: None, weight: new.weight, state: HostState::Drain };
            for address in &new.addresses {
                let twice = match *address {
                    IpAddr::V4(address) => host.address4.replace(address).is_some(),
                    IpAddr::V6(address) => host.address6.replace(address).is_some(),
                };
                if twice {
                    return refused(format!(
                        "host {name} has two addresses of one family; give one of each at most"
                    ));
                }
            }
            self.pool.hosts.insert(name.clone(), host);
        }
        if created {
            self.pool.hosts.values_mut().for_each(|host| host.state = HostState::Active);
            return Ok(());
        }
        let mut set = self.set();
        set.extend(hosts.iter().map(|(name, new)| (name.clone(), new.weight)));
        self.prepare(set)
    }

    fn drain(&mut self, hosts: &BTreeSet<String>) -> Result<(), Refused> {
        let mut set = self.set();
        for name in hosts {
            let state = self.host(name)?.state;
            if set.remove(name).is_none() {
                let state = format!("{state:?}").to_lowercase();
                return refused(format!(
                    "host {name} of pool {} takes no new connections: it is in state {state}",
                    self.name
                ));
            }
        }
        self.prepare(set)
    }

    fn undrain(&mut self, hosts: &BTreeSet<String>) -> Result<(), Refused> {
        let mut set = self.set();
        for name in hosts {
            let weight = self.host(name)?.weight;
            if set.insert(name.clone(), weight).is_some() {
                return refused(format!("host {name} of pool {} is active already", self.name));
            }
        }
        // One that is down gets its packets first, as prepared and then as active.
        for name in hosts {
            self.host(name)?.state = HostState::Drain;
        }
        self.prepare(set)
    }

    fn weigh(&mut self, hosts: &BTreeMap<String, u32>) -> Result<(), Refused> {
        let mut set = self.set();
        for (name, weight) in hosts {
            let host = self.host(name)?;
            if host.state == HostState::Active {
                set.insert(name.clone(), *weight);
            } else {
                host.weight = *weight;
            }
        }
        match set == self.set() {
            true => Ok(()),
            false => self.prepare(set),
        }
    }

    fn remove(&mut self, hosts: &BTreeSet<String>, force: bool) -> Result<(), Refused> {
        let mut set = self.set();
        for name in hosts {
            self.host(name)?;
            if self.pool.prepared.as_ref().is_some_and(|prepared| prepared.hosts.contains_key(name)) {
                return refused(self.preparing());
            }
            if set.remove(name).is_some() && !force {
                return refused(format!(
                    "host {name} of pool {} is active; `lb drain {name}` first, and remove it when it is safe, or add \
                     --force and break its connections",
                    self.name
                ));
            }
        }
        if hosts.len() == self.pool.hosts.len() {
            return refused(format!("pool {} would have no hosts; add others first", self.name));
        }
        if set != self.set() {
            let remove = Edit::Remove { pool: self.name.clone(), hosts: hosts.clone(), force };
            self.prepare(set)?;
            self.then.push(remove);
            return Ok(());
        }
        self.pool.hosts.retain(|name, _| !hosts.contains(name));
        Ok(())
    }

    fn activate(&mut self, generation: Option<u16>) -> Result<(), Refused> {
        let pool = &mut *self.pool;
        let Some(prepared) = pool.prepared.take() else {
            return refused(format!(
                "nothing is prepared in pool {}; somebody has activated it or given it up",
                self.name
            ));
        };
        if let Some(wanted) = generation.filter(|wanted| *wanted != prepared.number) {
            return refused(format!(
                "generation {} of pool {} is prepared, not {wanted}: somebody else has changed the pool; look at `lb \
                 pool show`",
                prepared.number, self.name
            ));
        }
        let last = pool.current();
        if !last.hosts.is_empty() {
            pool.old.insert(0, last);
        }
        for (name, host) in &mut pool.hosts {
            match prepared.hosts.get(name) {
                Some(weight) => (host.state, host.weight) = (HostState::Active, *weight),
                None if host.state == HostState::Active => host.state = HostState::Drain,
                None => {}
            }
        }
        pool.generation = prepared.number;
        Ok(())
    }

    fn retire(&mut self, generation: u16) -> Result<(), Refused> {
        let old: Vec<u16> = self.pool.old.iter().map(|old| old.number).collect();
        if !old.contains(&generation) {
            let what = match generation == self.pool.generation {
                true => "is the current generation",
                false => "is no old generation",
            };
            return refused(format!("{generation} {what} of pool {}; old ones: {old:?}", self.name));
        }
        self.pool.old.retain(|old| old.number != generation);
        Ok(())
    }

    /// The current set of hosts with their weights.
    fn set(&self) -> BTreeMap<String, u32> {
        self.pool.current().hosts
    }

    fn host(&mut self, name: &str) -> Result<&mut Host, Refused> {
        let known: Vec<_> = self.pool.hosts.keys().cloned().collect();
        let why = || Refused(format!("no host {name} in pool {}, which has {}", self.name, known.join(", ")));
        self.pool.hosts.get_mut(name).ok_or_else(why)
    }

    fn prepare(&mut self, hosts: BTreeMap<String, u32>) -> Result<(), Refused> {
        if self.pool.prepared.is_some() {
            return refused(self.preparing());
        }
        if hosts.is_empty() {
            return refused(format!(
                "nobody in pool {} would take new connections; add or undrain others first",
                self.name
            ));
        }
        let number = self.pool.next_number();
        self.pool.prepared = Some(Generation { number, hosts });
        self.then.push(Edit::Activate { pool: self.name.clone(), generation: Some(number) });
        Ok(())
    }

    fn preparing(&self) -> String {
        let number = self.pool.prepared.as_ref().map_or(0, |prepared| prepared.number);
        format!(
            "generation {number} of pool {name} is being prepared; wait, or if its editor is gone, end it by `lb pool \
             activate {name}` or `lb pool abort {name}`",
            name = self.name
        )
    }
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod tests;
