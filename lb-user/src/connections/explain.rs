//! Which generation explains that a connection is on this host. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::flow::{self, Flow};

use super::{ByGeneration, Connection, Explanation, HostConnections, Other};
use crate::model::{Generation, HashBy, HostState, Model, Pool, Protocol};
use crate::table::maglev::{self, Member, TableError};
use crate::table::{self};
use crate::vip::Vip;

/// A connection of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The connection.
    pub connection: Connection,
    /// The VIP of its service.
    pub vip: Vip,
    /// What of it chose its row.
    pub hash: HashBy,
}

/// The tables of one pool, as far as they concern one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explainer {
    pool: Pool,
    host: String,
    rows: Vec<Seat>,
    /// Generations beside the current one, by their bit in [`Seat::needs`].
    others: Vec<u16>,
}

/// This host's part in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seat {
    explanation: Explanation,
    /// Generations without which the row would not hold this host.
    needs: u16,
}

impl Explainer {
    /// Computes the tables; takes some milliseconds per generation.
    pub fn new(pool: &Pool, host: &str) -> Result<Self, TableError> {
        let all = pool.generations();
        let nothing = Seat { explanation: Explanation::Other(Other::Unexplained), needs: 0 };
        let mut rows = vec![nothing; pool.size as usize];
        let held = held(&all, pool, host)?;
        for (seat, held) in rows.iter_mut().zip(&held) {
            if *held {
                seat.explanation = Explanation::Other(Other::Backup);
            }
        }
        // The first generation has the last word.
        for generation in all.iter().rev() {
            for row in owned(generation, pool, host)? {
                rows[row].explanation = Explanation::Generation(generation.number);
            }
        }
        for bit in 0..pool.others.len().min(16) {
            let mut without = all.clone();
            without.remove(bit + 1);
            let still = self::held(&without, pool, host)?;
            for (seat, _) in
                rows.iter_mut().zip(held.iter().zip(still)).filter(|(_, (held, still))| **held && !still)
            {
                seat.needs |= 1 << bit;
            }
        }
        let others = pool.others.iter().map(|generation| generation.number).collect();
        Ok(Explainer { pool: pool.clone(), host: host.to_owned(), rows, others })
    }

    /// Whether it was made for this.
    pub fn is_for(&self, pool: &Pool, host: &str) -> bool {
        self.pool == *pool && self.host == host
    }

    /// Counts `connections`, which must be this pool's.
    pub fn count(&self, name: &str, connections: &[Arrived]) -> HostConnections {
        let mut count = HostConnections {
            pool: name.to_owned(),
            host: self.host.clone(),
            draining: self.pool.hosts.get(&self.host).is_some_and(|host| host.state == HostState::Drain),
            ..HostConnections::default()
        };
        let mut by: BTreeMap<(Vip, Explanation), u64> = BTreeMap::new();
        let mut needs = vec![0; self.others.len()];
        for arrived in connections {
            let Arrived { connection, vip, .. } = arrived;
            let seat = self.rows[self.row(arrived)];
            match connection.established {
                true => *by.entry((*vip, seat.explanation)).or_default() += 1,
                false => count.half_open += 1,
            }
            for (bit, needs) in needs.iter_mut().enumerate().take(16) {
                *needs += u64::from(seat.needs >> bit & 1);
            }
        }
        count.established = by.values().sum();
        count.safe = count.draining && count.established + count.half_open == 0;
        count.by_generation = by
            .into_iter()
            .map(|((vip, generation), established)| ByGeneration { vip, generation, established })
            .collect();
        count.needs = self.others.iter().copied().zip(needs).filter(|(_, needs)| *needs > 0).collect();
        count
    }

    fn row(&self, arrived: &Arrived) -> usize {
        let part = flow_of(&arrived.connection).part(arrived.hash.flags());
        flow::row(flow::hash(self.pool.seed, &part), self.pool.size) as usize
    }
}

/// The flow as the client opened it.
fn flow_of(connection: &Connection) -> Flow {
    let Connection { local, remote, .. } = connection;
    Flow {
        source: remote.ip().into(),
        destination: local.ip().into(),
        ports: Flow::ports(remote.port(), local.port()),
        protocol: Protocol::Tcp.number(),
        v6: local.is_ipv6(),
    }
}

/// The rows that this host owns by one generation.
fn owned(generation: &Generation, pool: &Pool, host: &str) -> Result<Vec<usize>, TableError> {
    let members: Vec<_> = generation.hosts.iter().map(|(name, &weight)| Member { name, weight }).collect();
    let Some(own) = members.iter().position(|member| member.name == host) else { return Ok(Vec::new()) };
    let owners = maglev::populate(&members, pool.seed, pool.size)?;
    Ok(owners
        .iter()
        .enumerate()
        .filter(|(_, owner)| usize::from(**owner) == own)
        .map(|(row, _)| row)
        .collect())
}

/// Whether each row over these generations holds this host.
fn held(generations: &[Generation], pool: &Pool, host: &str) -> Result<Vec<bool>, TableError> {
    // Slots as the data plane gives them: a host that the pool no longer has gets none.
    let slots: BTreeMap<String, u16> = pool.hosts.keys().cloned().zip(0..).collect();
    let Some(own) = slots.get(host) else { return Ok(vec![false; pool.size as usize]) };
    match table::rows(generations, pool.seed, pool.size, &slots) {
        Ok(table) => Ok(table.rows.iter().map(|row| row.contains(own)).collect()),
        Err(TableError::NoHosts) => Ok(vec![false; pool.size as usize]),
        Err(error) => Err(error),
    }
}

/// The connections of each pool: those to a TCP service that it serves.
pub fn by_pool(model: &Model, connections: &[Connection]) -> BTreeMap<String, Vec<Arrived>> {
    let mut pools: BTreeMap<String, Vec<Arrived>> = BTreeMap::new();
    for connection in connections {
        if let Some((key, service)) = model.service(connection.local, Protocol::Tcp) {
            let arrived = Arrived { connection: *connection, vip: key.vip, hash: service.hash };
            pools.entry(service.pool.clone()).or_default().push(arrived);
        }
    }
    pools
}

/// What a machine with these addresses is called in each pool that has it.
pub fn own_names(model: &Model, addresses: &[IpAddr]) -> BTreeMap<String, String> {
    let own = |host: &crate::model::Host| {
        let ends = [host.address4.map(IpAddr::V4), host.address6.map(IpAddr::V6)];
        ends.iter().flatten().any(|end| addresses.contains(end))
    };
    model.hosts().filter(|(_, host)| own(host)).map(|(id, _)| (id.pool, id.host)).collect()
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
