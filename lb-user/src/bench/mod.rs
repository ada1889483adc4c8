//! `lb bench`: what the programs cost per packet, against the least that any director must do.
//!
//! Everything is run in the kernel by `BPF_PROG_TEST_RUN`, through a wrapper that restores the packet before every repeat
//! (see `lb-ebpf/src/bin/bench`). Rounds go through all paths in turn, the floor among them, so that whatever else the
//! machine does hits all alike; medians are given, and their ratio to the floor's. No figure says anything of another
//! machine; the ratios nearly do.
//!
//! Packets in a row have warm caches, and their average hides the dear ones. So packets are also run alone, each by a
//! system call of its own that lies between it and the one before, and percentiles are given. The kernel takes the time
//! right before and right after the program, so that the call itself is not in them.

mod machine;
mod packets;
mod report;
mod verifier;

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, include_bytes_aligned};
use lb_common::bench::{Case, HEAD};

use machine::Subjects;
pub use machine::in_own_network;
use report::Times;
pub use report::{Alone, Difference, Figure, Nanoseconds, Report, Size};

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

/// A program, the packet that it is run on, and what it must return.
struct Subject {
    path: &'static str,
    program: ProgramFd,
    packet: Vec<u8>,
    /// Flows are two to this power.
    flows: u32,
    vary_at: u32,
    returns: u32,
}

/// Measures, in a network namespace of its own ([`in_own_network`]). `progress` is told each round.
pub fn run(options: &Options, mut progress: impl FnMut(usize)) -> Result<Report> {
    for path in &options.paths {
        ensure!(PATHS.contains(&path.as_str()), "no path {path}; there are {}", PATHS.join(", "));
    }
    let mut machine = Subjects::make()?;
    let mut subjects = yardsticks(&machine)?;
    let programs = machine.sizes()?;
    if options.large {
        subjects.extend(machine::large_subjects()?);
    }
    subjects.extend(machine.subjects()?);
    let wanted = |subject: &Subject| {
        subject.path == "floor" || options.paths.is_empty() || options.paths.iter().any(|p| p == subject.path)
    };
    subjects.retain(wanted);
    subjects.sort_by_key(|subject| (PATHS.iter().position(|path| *path == subject.path), subject.flows));
    let wrapped = subjects.into_iter().map(Wrapper::around).collect::<Result<Vec<_>>>()?;
    let mut times: Vec<Times> = wrapped.iter().map(Wrapper::no_times).collect();
    for round in 0..options.rounds {
        for (wrapper, times) in wrapped.iter().zip(&mut times) {
            // The kernel tells the average of all repeats, in whole nanoseconds.
            times.rounds.push(wrapper.measure(options.repeat)?.into());
        }
        progress(round + 1);
    }
    let mut order: Vec<usize> = (0..wrapped.len()).collect();
    let mut seed = 1;
    for _ in 0..options.alone {
        shuffle(&mut order, &mut seed);
        for at in &order {
            times[*at].alone.push(wrapped[*at].measure(1)?);
        }
    }
    Ok(Report::of(&times, programs))
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

/// What figures are held against.
fn yardsticks(machine: &Subjects) -> Result<Vec<Subject>> {
    let mut object = object()?;
    let tcp = machine.plain_packet();
    let tunnelled = machine.held_packet();
    let mut subject = |path, name, packet: &[u8], returns| -> Result<Subject> {
        let program = descriptor(loaded(&mut object, name)?)?;
        Ok(Subject { path, program, packet: packet.to_vec(), flows: 0, vary_at: 0, returns })
    };
    Ok(vec![
        subject("floor", "floor", &tcp, XDP_TX)?,
        subject("null", "null", &tcp, XDP_TX)?,
        subject("socket_lookup4", "lookup4", &tunnelled, XDP_PASS)?,
    ])
}

/// A wrapper around what is measured. Each subject has one of its own, so that to go from one to another is a system call
/// and no more.
struct Wrapper {
    subject: Subject,
    object: Ebpf,
    /// The kernel empties it when its last descriptor is closed.
    _measured: ProgramArray<MapData>,
}

impl Wrapper {
    fn around(subject: Subject) -> Result<Self> {
        let mut object = object()?;
        loaded(&mut object, "bench")?;
        let mut take = |name| object.take_map(name).with_context(|| format!("no map {name}"));
        let mut case: Array<MapData, Case> = take("CASE")?.try_into()?;
        case.set(0, subject.case()?, 0)?;
        let mut measured: ProgramArray<MapData> = take("MEASURED")?.try_into()?;
        measured.set(0, &subject.program, 0)?;
        Ok(Wrapper { subject, object, _measured: measured })
    }

    fn no_times(&self) -> Times {
        Times { path: self.subject.path, flows: 1 << self.subject.flows, ..Times::default() }
    }

    /// Nanoseconds per packet.
    fn measure(&self, repeat: u32) -> Result<u32> {
        let Subject { path, packet, returns, .. } = &self.subject;
        let program: &Xdp = self.object.program("bench").context("no program bench")?.try_into()?;
        let options = TestRunOptions { data_in: Some(packet), repeat, ..TestRunOptions::default() };
        let result = program.test_run(options)?;
        // A program that does something else than it should measures nothing.
        ensure!(
            result.return_value == *returns,
            "{path}: the program returned {}, not {returns}: this is a mistake of lb bench",
            result.return_value
        );
        Ok(result.duration.as_nanos().try_into()?)
    }
}

impl Subject {
    fn case(&self) -> Result<Case> {
        let mut head = [0; HEAD / 8];
        for (word, bytes) in head.iter_mut().zip(self.packet.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into()?);
        }
        let at = self.vary_at as usize;
        let vary_from = u32::from_ne_bytes(self.packet[at..at + 4].try_into()?)
            & !(u32::MAX.checked_shr(32 - self.flows).unwrap_or(0)).to_be();
        let (flows, vary_at) = (self.flows, self.vary_at);
        Ok(Case { len: self.packet.len() as u32, flows, vary_at, vary_from, head })
    }
}

fn object() -> Result<Ebpf> {
    let bytes = include_bytes_aligned!("../../prebuilt/bench.o");
    Ebpf::load(bytes).context("loading the bench's programs")
}

fn loaded<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program: &mut Xdp =
        object.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
    program.load().with_context(|| format!("loading {name}"))?;
    Ok(program)
}

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// A program's descriptor of its own.
fn descriptor(program: &Xdp) -> Result<ProgramFd> {
    Ok(program.fd()?.try_clone()?)
}

/// Where the word lies that tells flows apart: the last four bytes of the source, behind `outer` bytes of outer header.
fn vary_at(source: IpAddr, outer: usize) -> u32 {
    (14 + outer + if source.is_ipv4() { 12 } else { 20 }) as u32
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
