//! An older object beside the present one: both in the kernel, in turn, on the same packets.
//!
//! *Not slower* means: over at least [`LEAST_ROUNDS`] rounds the median of present ÷ older is at most [`LIMIT`], on every
//! path. Each round goes back and forth between the two in short turns, so that whatever else the machine does hits both
//! alike. Where the kernel puts a program in memory makes some per cent of difference, as luck has it: so both are loaded
//! anew several times in a run.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use aya::EbpfLoader;
use aya::maps::{Map, MapInfo};
use serde::Serialize;

use super::machine::{Connection, Machine, Objects};
use super::spread::Spread;
use super::wrapper::{Subject, Wrapper};
use super::{Options, is_wanted, place, yardstick};
use crate::dataplane::load::{Capacities, Object};
use crate::dataplane::{director, host};

/// The largest median of present ÷ older that is called not slower.
pub const LIMIT: f64 = 1.02;
/// The fewest rounds to judge by.
pub const LEAST_ROUNDS: u32 = 21;

/// Times that both objects are loaded in a run.
const LOADS: usize = 3;
/// Turns of each object in a round.
const TURNS: usize = 2;
/// No object is nearly as large.
const LARGEST: u64 = 16 << 20;
/// `EM_BPF` (include/uapi/linux/elf-em.h).
const MACHINE: u16 = 247;

/// An older object in a file: a director's or a host's, by the programs in it.
pub struct Older {
    path: PathBuf,
    bytes: &'static [u8],
}

impl Older {
    /// Reads the file. What is in it is found out when it is loaded, for which one has to be root.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let mut bytes = Vec::new();
        let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        file.take(LARGEST + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {shown}"))?;
        ensure!(bytes.len() as u64 <= LARGEST, "{shown} has more than {LARGEST} bytes: it is no BPF object");
        check_format(&bytes).with_context(|| format!("{shown} is no BPF object"))?;
        // It is measured until the process ends.
        Ok(Older { path: path.to_owned(), bytes: bytes.leak() })
    }

    /// The object, if its programs can run over maps as this release writes them.
    fn object(&self) -> Result<Object> {
        let mut ebpf = EbpfLoader::new()
            .load(self.bytes)
            .with_context(|| format!("cannot load {}", self.path.display()))?;
        let names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        let has = |object: &&Object| names.iter().any(|name| name == object.name);
        let Some(present) = [&director::OBJECT, &host::OBJECT].into_iter().find(has) else {
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            bail!("{} has no program director or host; its programs: {names}", self.path.display());
        };
        for shape in present.maps {
            let fits = match ebpf.take_map(shape.name) {
                None => Err("there is no such map in it".to_owned()),
                Some(map) => info(&map).map_err(|error| error.to_string()).and_then(|info| {
                    // How many entries it has is for the loader to say.
                    let entries = Capacities::from([(shape.name, info.max_entries())]);
                    shape.misfit(&info, &entries).map_or(Ok(()), Err)
                }),
            };
            if let Err(reason) = fits {
                bail!(
                    "{} does not fit the maps of this release, {}: {reason}",
                    self.path.display(),
                    shape.name
                );
            }
        }
        let Object { name, maps, constants, .. } = *present;
        Ok(Object { name, bytes: self.bytes, maps, constants })
    }
}

fn check_format(bytes: &[u8]) -> Result<()> {
    ensure!(bytes.starts_with(b"\x7fELF"), "not an ELF file");
    let machine = bytes.get(18..20).and_then(|bytes| bytes.try_into().ok()).map(u16::from_le_bytes);
    ensure!(machine == Some(MACHINE), "an ELF file for another machine than BPF");
    Ok(())
}

fn info(map: &Map) -> Result<MapInfo> {
    Ok(match map {
        Map::Array(map)
        | Map::ArrayOfMaps(map)
        | Map::HashMap(map)
        | Map::LpmTrie(map)
        | Map::PerCpuArray(map) => map.info()?,
        _ => bail!("a map of another type than this release has"),
    })
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The file of the older object.
    pub against: String,
    /// Whose programs were compared: `director` or `host`.
    pub object: &'static str,
    /// Rounds.
    pub rounds: u32,
    /// Medians of present ÷ older up to here are not slower.
    pub limit: f64,
    /// The present object is slower on some path.
    pub slower: bool,
    /// All paths in order.
    pub paths: Vec<Pair>,
}

/// One path.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// What was measured.
    pub path: &'static str,
    /// Different flows in turn.
    pub flows: u32,
    /// Nanoseconds per packet through the wrapper: the older object.
    pub older_ns: Spread,
    /// The present one.
    pub present_ns: Spread,
    /// Nanoseconds more than `null` took in the same round: the older object.
    pub older_net: Spread,
    /// The present one.
    pub present_net: Spread,
    /// Present ÷ older, through the wrapper, round by round.
    pub ratio: Spread,
    /// The median of the ratios is above the limit.
    pub slower: bool,
    /// Both make the same packet of it; otherwise they do different work.
    pub same_packet: bool,
}

/// Times of one path, by round.
struct Rounds {
    path: &'static str,
    flows: u32,
    null: Vec<f64>,
    older: Vec<f64>,
    present: Vec<f64>,
    same_packet: bool,
}

/// Measures both, in a network namespace of its own ([`super::in_own_network`]). `progress` is told each round.
pub fn compare(older: &Older, options: &Options, mut progress: impl FnMut(usize)) -> Result<Comparison> {
    options.check()?;
    let connection = Connection::open()?;
    let object = older.object()?;
    let mut all: Vec<Rounds> = Vec::new();
    for load in 0..LOADS {
        let (null, pairs) = load_both(&object, &connection, options).with_context(|| {
            format!("{} cannot be measured over the maps of this release", older.path.display())
        })?;
        if all.is_empty() {
            all = pairs.iter().map(Rounds::none).collect::<Result<_>>()?;
        }
        for round in (0..options.rounds).filter(|round| round % LOADS == load) {
            let null = null.many(options.repeat)?;
            for (pair, rounds) in pairs.iter().zip(&mut all) {
                let [older, present] = in_turn(pair, options.repeat, round % 2)?;
                rounds.null.push(null);
                rounds.older.push(older);
                rounds.present.push(present);
            }
            progress(all.first().map_or(0, |rounds| rounds.null.len()));
        }
    }
    let paths: Vec<Pair> = all.iter().map(Rounds::pair).collect();
    Ok(Comparison {
        against: older.path.display().to_string(),
        object: object.name,
        rounds: options.rounds as u32,
        limit: LIMIT,
        slower: paths.iter().any(|pair| pair.slower),
        paths,
    })
}

/// What is measured: nothing, and each path of the object with both programs, the older one first.
fn load_both(
    object: &Object,
    connection: &Connection,
    options: &Options,
) -> Result<(Wrapper, Vec<[Wrapper; 2]>)> {
    let of = |objects: Objects| -> Result<Vec<Wrapper>> {
        let mut machine = Machine::make(objects, connection, options.large)?;
        let mut subjects = machine.subjects()?;
        let is_its = |subject: &Subject| subject.path.starts_with("host_") == (object.name == "host");
        subjects.retain(|subject| is_its(subject) && is_wanted(options, subject.path));
        subjects.sort_by_key(place);
        subjects.into_iter().map(Wrapper::around).collect()
    };
    let older = match object.name {
        "host" => Objects { host: object, ..Objects::PRESENT },
        _ => Objects { director: object, ..Objects::PRESENT },
    };
    let (older, present) = (of(older)?, of(Objects::PRESENT)?);
    ensure!(!present.is_empty(), "none of the paths that were asked for is one of the {}'s", object.name);
    let pairs = older.into_iter().zip(present).map(|(older, present)| [older, present]).collect();
    Ok((Wrapper::around(yardstick("null", "null", connection.packet())?)?, pairs))
}

/// Nanoseconds per packet of both, in short turns, of which every other one begins with the same program.
fn in_turn(pair: &[Wrapper; 2], packets: u32, first: usize) -> Result<[f64; 2]> {
    let mut sums = [0.0; 2];
    for turn in 0..TURNS {
        let first = (first + turn) % 2;
        for which in [first, 1 - first] {
            sums[which] += pair[which].many(packets)?;
        }
    }
    Ok(sums.map(|sum| sum / TURNS as f64))
}

impl Rounds {
    fn none([older, present]: &[Wrapper; 2]) -> Result<Self> {
        Ok(Rounds {
            path: older.subject.path,
            flows: 1 << older.subject.flows,
            null: Vec::new(),
            older: Vec::new(),
            present: Vec::new(),
            same_packet: older.outcome()? == present.outcome()?,
        })
    }

    fn pair(&self) -> Pair {
        let net = |times: &[f64]| Spread::of(times.iter().zip(&self.null).map(|(ns, null)| ns - null));
        let ratio = Spread::of(self.present.iter().zip(&self.older).map(|(present, older)| present / older));
        Pair {
            path: self.path,
            flows: self.flows,
            older_ns: Spread::of(self.older.iter().copied()),
            present_ns: Spread::of(self.present.iter().copied()),
            older_net: net(&self.older),
            present_net: net(&self.present),
            ratio,
            slower: ratio.median > LIMIT,
            same_packet: self.same_packet,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(older: &[f64], present: &[f64]) -> Rounds {
        let null = vec![40.0; older.len()];
        let (older, present) = (older.to_vec(), present.to_vec());
        Rounds { path: "tcp4", flows: 1, null, older, present, same_packet: true }
    }

    #[test]
    fn slower_is_a_median_of_the_rounds_ratios_above_the_limit() {
        // The machine itself had become slower by the third round: ratios of one round are compared.
        let pair = rounds(&[100.0, 100.0, 200.0], &[103.0, 101.0, 203.0]).pair();
        assert!((pair.ratio.median - 1.015).abs() < 1e-9 && !pair.slower, "{pair:?}");
        assert!((pair.older_net.median - 60.0).abs() < 1e-9 && (pair.present_net.median - 63.0).abs() < 1e-9);
        assert!(rounds(&[100.0; 3], &[103.0, 99.0, 102.1]).pair().slower);
        assert!(!rounds(&[100.0; 3], &[102.0; 3]).pair().slower);
    }

    #[test]
    fn what_is_no_object_is_refused_and_the_reason_named() {
        let refused = |path: &Path| {
            let error = Older::read(path).err().expect("it is refused");
            format!("{error:#}")
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object.o");
        assert!(refused(&path).contains("cannot open") && refused(&path).contains("object.o"));
        for (bytes, reason) in [
            (&b""[..], "not an ELF file"),
            (b"#!/bin/sh\n", "not an ELF file"),
            (b"\x7fELF\x02\x01", "for another machine than BPF"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert!(refused(&path).contains(reason), "{}", refused(&path));
        }
        let file = File::create(&path).unwrap();
        file.set_len(LARGEST + 1).unwrap();
        assert!(refused(&path).contains("more than"), "{}", refused(&path));
        assert!(refused(folder.path()).contains("cannot read"), "{}", refused(folder.path()));
        std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
        assert!(Older::read(&path).is_err(), "this program is none");
    }
}
