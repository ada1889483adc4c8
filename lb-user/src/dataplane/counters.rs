//! Reading counters: per reason, summed over CPUs.

use aya::Pod;
use aya::maps::{MapData, MapError, PerCpuArray, PerCpuValues};

use super::pools::map_error;
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

/// Clears one counter on all CPUs: what it counted was of another thing.
pub fn zero<T: Pod + Default>(
    map: &mut PerCpuArray<MapData, T>,
    name: &'static str,
    index: u32,
) -> Result<()> {
    let cpus = map.get(&index, 0).map_err(map_error(name))?.len();
    let zero = PerCpuValues::try_from((0..cpus).map(|_| T::default()).collect::<Vec<_>>());
    let zero = zero.map_err(|error| map_error(name)(MapError::IoError(error)))?;
    map.set(index, zero, 0).map_err(map_error(name))
}
