//! `lb bench`: what the programs cost per packet, against the least that any director must do.
//!
//! Everything is run in the kernel by `BPF_PROG_TEST_RUN`, through a wrapper that restores the packet before every repeat
//! (see `lb-ebpf/src/bin/bench`). Rounds go through all paths in turn, the floor among them, so that whatever else the
//! machine does hits all alike; medians are given, and their ratio to the floor's. No figure says anything of another
//! machine; the ratios nearly do.

mod machine;
mod packets;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, include_bytes_aligned};
use lb_common::bench::{Case, HEAD};
use serde::Serialize;

use machine::Subjects;
pub use machine::in_own_network;

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
    /// Paths to measure; empty: all.
    pub paths: Vec<String>,
    /// Also measure a director that has much loaded: 10 000 services, 256 pools, 65 535 hosts.
    pub large: bool,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub path: &'static str,
    /// Different flows in turn.
    pub flows: u32,
    /// Per packet.
    pub ns: Nanoseconds,
    /// Median over the median of the floor.
    pub over_floor: f64,
    /// Nanoseconds more than the floor's median: what depends least on the wrapper, whose time is in both.
    pub above_floor_ns: f64,
}

/// What the kernel says of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    /// Its name.
    pub program: &'static str,
    /// Instructions that the verifier went through, on all ways.
    pub verified: u32,
    /// Instructions of the program as it runs.
    pub instructions: u32,
    /// Bytes of machine code.
    pub bytes: u32,
}

/// Nanoseconds per packet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Nanoseconds {
    /// Median of the rounds.
    pub median: f64,
    /// The quickest round.
    pub min: f64,
    /// The slowest.
    pub max: f64,
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
pub fn run(options: &Options, mut progress: impl FnMut(usize)) -> Result<(Vec<Figure>, Vec<Size>)> {
    for path in &options.paths {
        ensure!(PATHS.contains(&path.as_str()), "no path {path}; there are {}", PATHS.join(", "));
    }
    let mut wrapper = Wrapper::load()?;
    let mut machine = Subjects::make()?;
    let mut subjects = wrapper.own_subjects(&machine)?;
    let sizes = machine.sizes()?;
    if options.large {
        subjects.extend(machine::large_subjects()?);
    }
    subjects.extend(machine.subjects()?);
    let wanted = |subject: &Subject| {
        subject.path == "floor" || options.paths.is_empty() || options.paths.iter().any(|p| p == subject.path)
    };
    subjects.retain(wanted);
    subjects.sort_by_key(|subject| (PATHS.iter().position(|path| *path == subject.path), subject.flows));
    let mut times = vec![Vec::new(); subjects.len()];
    for round in 0..options.rounds {
        for (subject, times) in subjects.iter().zip(&mut times) {
            times.push(wrapper.measure(subject, options.repeat)?);
        }
        progress(round + 1);
    }
    let figures = figures(&subjects.iter().map(|s| (s.path, 1 << s.flows)).collect::<Vec<_>>(), &times);
    Ok((figures, sizes))
}

/// The report of what was measured: times in nanoseconds per path and round.
fn figures(subjects: &[(&'static str, u32)], times: &[Vec<f64>]) -> Vec<Figure> {
    let medians: Vec<Nanoseconds> = times.iter().map(|times| nanoseconds(times)).collect();
    let floor =
        subjects.iter().position(|(path, _)| *path == "floor").map_or(f64::NAN, |at| medians[at].median);
    subjects
        .iter()
        .zip(medians)
        .map(|((path, flows), ns)| {
            let (over_floor, above_floor_ns) = (ns.median / floor, ns.median - floor);
            Figure { path, flows: *flows, ns, over_floor, above_floor_ns }
        })
        .collect()
}

fn nanoseconds(times: &[f64]) -> Nanoseconds {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    Nanoseconds { median: at(sorted.len() / 2), min: at(0), max: at(sorted.len().saturating_sub(1)) }
}

/// The wrapper around what is measured.
struct Wrapper {
    object: Ebpf,
    case: Array<MapData, Case>,
    measured: ProgramArray<MapData>,
}

impl Wrapper {
    fn load() -> Result<Self> {
        let bytes = include_bytes_aligned!("../../prebuilt/bench.o");
        let mut object = Ebpf::load(bytes).context("loading the bench's programs")?;
        for name in ["bench", "floor", "null", "lookup4"] {
            program(&mut object, name)?.load().with_context(|| format!("loading {name}"))?;
        }
        let mut take = |name| object.take_map(name).with_context(|| format!("no map {name}"));
        Ok(Wrapper { case: take("CASE")?.try_into()?, measured: take("MEASURED")?.try_into()?, object })
    }

    /// What figures are held against.
    fn own_subjects(&mut self, machine: &Subjects) -> Result<Vec<Subject>> {
        let tcp = machine.plain_packet();
        let tunnelled = machine.held_packet();
        let mut subject = |path, name, packet: &[u8], returns| -> Result<Subject> {
            let program = descriptor(program(&mut self.object, name)?)?;
            Ok(Subject { path, program, packet: packet.to_vec(), flows: 0, vary_at: 0, returns })
        };
        Ok(vec![
            subject("floor", "floor", &tcp, XDP_TX)?,
            subject("null", "null", &tcp, XDP_TX)?,
            subject("socket_lookup4", "lookup4", &tunnelled, XDP_PASS)?,
        ])
    }

    /// Nanoseconds per packet.
    fn measure(&mut self, subject: &Subject, repeat: u32) -> Result<f64> {
        let mut head = [0; HEAD / 8];
        for (word, bytes) in head.iter_mut().zip(subject.packet.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into()?);
        }
        let at = subject.vary_at as usize;
        let vary_from = u32::from_ne_bytes(subject.packet[at..at + 4].try_into()?)
            & !(u32::MAX.checked_shr(32 - subject.flows).unwrap_or(0)).to_be();
        let case = Case {
            len: subject.packet.len() as u32,
            flows: subject.flows,
            vary_at: subject.vary_at,
            vary_from,
            head,
        };
        self.case.set(0, case, 0)?;
        self.measured.set(0, &subject.program, 0)?;
        // Once alone: a program that does something else than it should measures nothing.
        let (returned, _) = self.test_run(subject, 1)?;
        if returned != subject.returns {
            bail!(
                "{}: the program returned {returned}, not {}: this is a mistake of lb bench",
                subject.path,
                subject.returns
            );
        }
        // The kernel tells the average of all repeats, in whole nanoseconds.
        let (_, average) = self.test_run(subject, repeat)?;
        Ok(average.as_nanos() as f64)
    }

    fn test_run(&mut self, subject: &Subject, repeat: u32) -> Result<(u32, Duration)> {
        let result = program(&mut self.object, "bench")?.test_run(TestRunOptions {
            data_in: Some(&subject.packet),
            repeat,
            ..TestRunOptions::default()
        })?;
        Ok((result.return_value, result.duration))
    }
}

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(object.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

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
    fn figures_are_medians_over_the_floors() {
        let subjects = [("tcp4", 1), ("floor", 1)];
        let figures = figures(&subjects, &[vec![90.0, 70.0, 80.0], vec![50.0, 40.0, 41.0]]);
        assert_eq!(figures[0].ns, Nanoseconds { median: 80.0, min: 70.0, max: 90.0 });
        assert!((figures[0].over_floor - 80.0 / 41.0).abs() < 1e-9);
        assert!((figures[0].above_floor_ns - 39.0).abs() < 1e-9);
        assert!((figures[1].over_floor - 1.0).abs() < 1e-9);
    }
}
