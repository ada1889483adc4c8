//! Reading counters: per reason, summed over CPUs.

use aya::maps::{MapData, PerCpuArray};

use super::{Error, Result};

/// One counter with its place in the list of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Which program: `director`, `probe` or `host`.
    pub program: &'static str,
    /// The reason's name.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Packets.
    pub value: u64,
}

/// Reads the counters of one program; `reasons` gives name and help in the order of the map.
pub fn read(
    map: &PerCpuArray<MapData, u64>,
    program: &'static str,
    reasons: impl Iterator<Item = (&'static str, &'static str)>,
) -> Result<Vec<Counter>> {
    let value = |index: usize| {
        let values = map.get(&(index as u32), 0).map_err(|source| Error::Map { map: "COUNTERS", source })?;
        Ok(values.iter().sum())
    };
    let counter = |(index, (name, help))| Ok(Counter { program, name, help, value: value(index)? });
    reasons.enumerate().map(counter).collect()
}
