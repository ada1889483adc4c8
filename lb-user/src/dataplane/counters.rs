//! Reading counters: per reason, summed over CPUs.

use super::Result;
use super::per_cpu::PerCpu;

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
    map: &PerCpu<u64>,
    program: &'static str,
    reasons: impl ExactSizeIterator<Item = (&'static str, &'static str)>,
) -> Result<Vec<Counter>> {
    let values = map.read(reasons.len() as u32, |sum, cpu| sum + cpu)?;
    let counter = |((name, help), value)| Counter { program, name, help, value };
    Ok(reasons.zip(values).map(counter).collect())
}
