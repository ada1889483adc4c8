//! `lb bench`: what the programs cost per packet, against doing nothing and against the least that any director must do.
//!
//! Everything is run in the kernel by `BPF_PROG_TEST_RUN`, through a wrapper that restores the packet before every repeat
//! (see `lb-ebpf/src/bin/bench`). The wrapper does the same work for all programs, and `null` is a program that does
//! nothing: what a path takes longer than `null` is what its program costs. Rounds go through all paths in turn, `null` and
//! the floor among them, so that whatever else the machine does hits all alike; medians and quartiles are given. No figure
//! says anything of another machine; ratios to the floor nearly do. Whether one object is slower than another is judged
//! with both in one run ([`against`]).
//!
//! Packets in a row have warm caches, and their average hides the dear ones. So packets are also run alone, each by a
//! system call of its own that lies between it and the one before, and percentiles are given. The kernel takes the time
//! right before and right after the program, so that the call itself is not in them.

pub mod against;
mod machine;
mod packets;
mod report;
mod spread;
mod verifier;
mod wrapper;

use anyhow::{Result, ensure};

pub use machine::in_own_network;
use machine::{Connection, Machine, Objects};
use report::Times;
pub use report::{Alone, Difference, Figure, Report, Size};
pub use spread::Spread;
use wrapper::{Subject, Wrapper, XDP_PASS, XDP_TX};

/// What is measured, in order of the report.
const PATHS: [&str; 22] = [
    "floor",
    "null",
    "tcp4",
    "tcp6",
    "udp4",
    "udp6",
    "syn4",
    "syn6",
    "icmp4_error",
    "icmp6_error",
    "pass4",
    "pass6",
    "flow_table4",
    "flow_table6",
    "large_tcp4",
    "large_tcp6",
    "large_udp4",
    "large_pass4",
    "large_flow_table4",
    "socket_lookup4",
    "host_local4",
    "host_rescue4",
];

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rounds over all paths; the median is over them.
    pub rounds: usize,
    /// Packets per path and round.
    pub repeat: u32,
    /// Packets per path that are run alone.
    pub alone: usize,
    /// Paths to measure; empty: all.
    pub paths: Vec<String>,
    /// Also measure a director that has much loaded: 10 000 services, 256 pools, 65 535 hosts.
    pub large: bool,
}

impl Options {
    /// All paths that are asked for exist.
    fn check(&self) -> Result<()> {
        for path in &self.paths {
            ensure!(PATHS.contains(&path.as_str()), "no path {path}; there are {}", PATHS.join(", "));
        }
        Ok(())
    }
}

/// The path is to be measured.
fn is_wanted(options: &Options, path: &str) -> bool {
    options.paths.is_empty() || options.paths.iter().any(|wanted| wanted == path)
}

/// Where it stands in the report.
fn place(subject: &Subject) -> (Option<usize>, u32) {
    (PATHS.iter().position(|path| *path == subject.path), subject.flows)
}

/// Measures, in a network namespace of its own ([`in_own_network`]). `progress` is told each round.
pub fn run(options: &Options, mut progress: impl FnMut(usize)) -> Result<Report> {
    options.check()?;
    let connection = Connection::open()?;
    let mut machine = Machine::make(Objects::PRESENT, &connection, options.large)?;
    let mut subjects = vec![
        yardstick("floor", "floor", connection.packet())?,
        yardstick("null", "null", connection.packet())?,
        yardstick("socket_lookup4", "lookup4", machine.held_packet())?,
    ];
    let programs = machine.sizes()?;
    subjects.extend(machine.subjects()?);
    subjects.retain(|Subject { path, .. }| matches!(*path, "floor" | "null") || is_wanted(options, path));
    subjects.sort_by_key(place);
    let wrapped = subjects.into_iter().map(Wrapper::around).collect::<Result<Vec<_>>>()?;
    let mut times: Vec<Times> = wrapped.iter().map(no_times).collect();
    for round in 0..options.rounds {
        for (wrapper, times) in wrapped.iter().zip(&mut times) {
            times.rounds.push(wrapper.many(options.repeat)?);
        }
        progress(round + 1);
    }
    let mut order: Vec<usize> = (0..wrapped.len()).collect();
    let mut seed = 1;
    for _ in 0..options.alone {
        shuffle(&mut order, &mut seed);
        for at in &order {
            times[*at].alone.push(wrapped[*at].alone()?);
        }
    }
    Ok(Report::of(&times, programs))
}

fn no_times(Wrapper { subject, .. }: &Wrapper) -> Times {
    Times { path: subject.path, flows: 1 << subject.flows, ..Times::default() }
}

/// Another order every time: what ran just before may have warmed the caches, and must not always be the same.
fn shuffle(order: &mut [usize], seed: &mut u64) {
    for last in (1..order.len()).rev() {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        order.swap(last, (*seed % (last as u64 + 1)) as usize);
    }
}

/// One of the bench's own programs, which figures are held against.
fn yardstick(path: &'static str, program: &str, packet: Vec<u8>) -> Result<Subject> {
    let mut object = wrapper::object()?;
    let program = wrapper::descriptor(wrapper::loaded(&mut object, program)?)?;
    let returns = if path == "socket_lookup4" { XDP_PASS } else { XDP_TX };
    Ok(Subject { path, program, packet, flows: 0, vary_at: 0, returns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_turn_goes_through_all_in_another_order() {
        let mut order: Vec<usize> = (0..12).collect();
        let mut before = vec![std::collections::BTreeSet::new(); order.len()];
        let mut seed = 1;
        for _ in 0..200 {
            shuffle(&mut order, &mut seed);
            assert_eq!(order.iter().collect::<std::collections::BTreeSet<_>>().len(), 12);
            for pair in order.windows(2) {
                before[pair[1]].insert(pair[0]);
            }
        }
        assert!(before.iter().all(|others| others.len() == 11), "{before:?}");
    }
}
